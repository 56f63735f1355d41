"""What describes a safety subspace besides its tensors: the fields of ``adapter_config.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, create_model

from realign_plugin.errors import UserError, check_choice, check_range, first_fault
from realign_plugin.method.fusion import FUSION_METHODS, is_linear
from realign_plugin.method.masks import ESTIMATORS, GRANULARITIES, MASK_KINDS, logits_shape

VECTOR_SPACES = ("lora", "weight")
VECTOR_DTYPES: Final = ("float32", "float16", "bfloat16", "float64")
FACTORS: Final = {"lora": ("A", "B"), "weight": ("W",)}
"""What is masked of each target module: the two LoRA factors, or the whole weight."""


@dataclass
class SubspaceSpec:
    """Description of a safety subspace: which modules, how they are fused and masked, and where they came from.

    The PEFT configuration class adds PEFT's own fields to these; on disk they are one JSON object.
    """

    vector_space: str = field(
        default="lora", metadata={"help": "Where masks live: lora (the factors A and B) or weight (whole weights)."}
    )
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "Full names of the modules that a source adapter touched."}
    )
    lora_target: list[str] | str | None = field(
        default=None, metadata={"help": "target_modules as the source adapters wrote it, for exported LoRA adapters."}
    )
    r: int = field(default=8, metadata={"help": "LoRA rank, where rank_pattern names no other."})
    lora_alpha: float = field(default=8, metadata={"help": "LoRA alpha, where alpha_pattern names no other."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by alpha / sqrt(r) instead of alpha / r."})
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Rank by full module name."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Alpha by full module name."})
    vector_dtype: str = field(default="float32", metadata={"help": "Dtype of aligned factors and deltas."})
    has_aligned: bool = field(
        default=True,
        metadata={"help": "Whether aligned factors are kept; without them the base is the aligned model."},
    )
    fusion_method: str = field(default="task_arithmetic", metadata={"help": "How task vectors are fused."})
    task_weights: list[float] = field(default_factory=lambda: [1.0], metadata={"help": "One lambda for each task."})
    ties_density: float = field(default=0.2, metadata={"help": "Share of elements that TIES keeps."})
    dare_drop_rate: float = field(default=0.2, metadata={"help": "Share of elements that DARE drops."})
    fusion_seed: int = field(default=0, metadata={"help": "Seed of DARE's drop."})
    mask_granularity: str = field(default="element", metadata={"help": "What one logit decides on."})
    mask_init: float = field(default=0.0, metadata={"help": "Value of every logit at the start."})
    mask_temperature: float = field(default=0.5, metadata={"help": "Temperature of the relaxed mask."})
    mask_rescale: bool = field(default=True, metadata={"help": "Divide the mask by its mean over the tensor."})
    mask_estimator: str = field(default="relaxed", metadata={"help": "Forward mask while training."})
    mask_noise: float = field(default=1.0, metadata={"help": "Scale of the logistic noise at the first step."})
    mask_noise_end: float | None = field(default=None, metadata={"help": "Scale of the noise at the last step."})
    mask_keep_weight: float = field(default=0.0, metadata={"help": "Weight of the keep penalty in the loss."})
    mask: str = field(default="soft", metadata={"help": "Mask at inference: soft, binary, sampled or relaxed."})
    mask_threshold: float = field(default=0.5, metadata={"help": "Threshold of the binary mask."})
    mask_seed: int = field(default=0, metadata={"help": "Seed of the sampled and the relaxed mask."})
    base_sha256: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "sha256 of the base model's architecture and of a sample of its weights."},
    )
    sources: list[dict[str, Any]] = field(
        default_factory=list, metadata={"help": "Provenance: role, name and sha256 of each source adapter."}
    )
    versions: dict[str, str] = field(default_factory=dict, metadata={"help": "Versions that made the subspace."})

    @property
    def factors(self) -> tuple[str, ...]:
        """What is masked of each target module: ``("A", "B")`` in LoRA space, ``("W",)`` in weight space."""
        return FACTORS[self.vector_space]

    @property
    def kept_deltas(self) -> int:
        """How many task vectors are kept per tensor: one where the fusion is linear, else one for each task."""
        return 1 if is_linear(self.fusion_method) else len(self.task_weights)  # type: ignore[arg-type]

    def rank(self, module: str) -> int:
        """LoRA rank of one module, by its full name."""
        return self.rank_pattern.get(module, self.r)

    def scaling(self, module: str) -> float:
        """LoRA scaling of one module: alpha / r, or alpha / sqrt(r) with rsLoRA; 1 in weight space."""
        if self.vector_space == "weight":
            return 1.0
        rank, alpha = self.rank(module), self.alpha_pattern.get(module, self.lora_alpha)
        return alpha / rank**0.5 if self.use_rslora else alpha / rank

    def check(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            UserError: With the option, its value and what was expected.
        """
        try:
            _types().model_validate({name: getattr(self, name) for name in SubspaceSpec.__dataclass_fields__})
        except ValidationError as error:
            raise UserError(f"{first_fault(error)}; correct it") from error
        check_choice("vector_space", self.vector_space, VECTOR_SPACES)
        check_choice("fusion_method", self.fusion_method, FUSION_METHODS)
        check_choice("mask_granularity", self.mask_granularity, GRANULARITIES)
        check_choice("mask_estimator", self.mask_estimator, ESTIMATORS)
        check_choice("vector_dtype", self.vector_dtype, VECTOR_DTYPES)
        try:
            re.compile(self.lora_target if isinstance(self.lora_target, str) else "")
        except re.error as error:
            raise UserError(
                f"lora_target: {self.lora_target!r}, expected names or a regular expression ({error}); correct it"
            ) from error
        check_mask(self.mask, self.mask_threshold)
        check_range("ties_density", self.ties_density, 0.0, 1.0, low_open=True)
        check_range("dare_drop_rate", self.dare_drop_rate, 0.0, 0.99)
        check_range("mask_temperature", self.mask_temperature, 1e-3, 100.0)
        check_range("mask_noise", self.mask_noise, 0.0, 100.0)
        check_range("mask_keep_weight", self.mask_keep_weight, 0.0, 1e6)
        check_range("mask_init", self.mask_init, -50.0, 50.0)
        if self.mask_noise_end is not None:
            check_range("mask_noise_end", self.mask_noise_end, 0.0, 100.0)
        if self.vector_space == "weight" and self.has_aligned:
            raise UserError(
                "has_aligned: true in weight space, where the base model is the aligned one, expected false; leave "
                "aligned_adapter out"
            )
        if self.mask_granularity == "module" and self.mask_rescale:
            raise UserError(
                "mask_granularity: 'module' and mask_rescale: true cancel out (m / mean(m) is 1 for one logit a "
                "tensor), "
                "expected mask_rescale: false; add it"
            )


@cache
def _types() -> type[BaseModel]:
    """The types of a spec's fields, none of which is converted: numbers have to be finite, ranks positive."""
    hints = get_type_hints(SubspaceSpec) | {
        "r": PositiveInt,
        "rank_pattern": dict[str, PositiveInt],
        "task_weights": Annotated[list[float], Field(min_length=1)],
    }
    kinds: dict[str, Any] = {name: (hints[name], ...) for name in SubspaceSpec.__dataclass_fields__}
    return create_model("SpecTypes", __config__=ConfigDict(strict=True, allow_inf_nan=False), **kinds)


def check_logits(spec: SubspaceSpec, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that one logit would mask as a whole: divided by its mean, its mask is 1 whatever the logit.

    Args:
        spec: Granularity and rescaling.
        name: The tensor: ``module.A``, ``module.B`` or ``module.W``.
        shape: Its ``(rows, columns)``.

    Raises:
        UserError: With the tensor and the way out.
    """
    granularity: Any = spec.mask_granularity
    if not spec.mask_rescale or logits_shape(shape, granularity) != (1, 1):
        return
    module, _, factor = name.rpartition(".")
    way_out = "leave the module out of lora_target, or " if factor == "W" else ""
    raise UserError(
        f"mask_granularity: {granularity!r} and mask_rescale: true cancel out for {factor} of {module}, shape "
        f"{tuple(shape)} (m / mean(m) is 1 for one logit a tensor), expected more than one logit; {way_out}set "
        "mask_rescale: false"
    )


def check_mask(mask: str, threshold: float) -> None:
    """Refuse an unknown mask or a threshold outside (0, 1].

    Raises:
        UserError: With the value and what was expected.
    """
    check_choice("mask", mask, MASK_KINDS)
    check_range("mask_threshold", threshold, 0.0, 1.0, low_open=True)


def module_spec(spec: SubspaceSpec, modules: list[str], ranks: dict[str, int], alphas: dict[str, float]) -> None:
    """Write modules, ranks and alphas into a spec: the commonest value as the default, the others as patterns.

    Args:
        spec: Changed in place.
        modules: Full module names.
        ranks: Rank of each.
        alphas: Alpha of each.
    """
    spec.target_modules = list(modules)
    common_rank = max(set(ranks.values()), key=list(ranks.values()).count)
    common_alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    spec.r, spec.lora_alpha = common_rank, common_alpha
    spec.rank_pattern = {name: ranks[name] for name in modules if ranks[name] != common_rank}
    spec.alpha_pattern = {name: alphas[name] for name in modules if alphas[name] != common_alpha}


def replace_spec(spec: SubspaceSpec, **changes: Any) -> SubspaceSpec:
    """A plain copy of a spec (or of a configuration that extends it) with some fields changed."""
    return SubspaceSpec(**{name: getattr(spec, name) for name in SubspaceSpec.__dataclass_fields__} | changes)
