"""What describes a safety subspace besides its tensors: the fields of ``adapter_config.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, create_model

from realign_plugin.errors import UserError, check_choice, first_fault
from realign_plugin.method.fusion import is_linear
from realign_plugin.method.masks import logits_shape
from realign_plugin.subspace.options import OPTIONS, SubspaceOptions, check_option

VECTOR_SPACES = ("lora", "weight")
VECTOR_DTYPES: Final = ("float32", "float16", "bfloat16", "float64")
FACTORS: Final = {"lora": ("A", "B"), "weight": ("W",)}
"""What is masked of each target module: the two LoRA factors, or the whole weight."""


@dataclass
class SubspaceSpec(SubspaceOptions):
    """Description of a safety subspace: its options, which modules are masked, and where they came from.

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
    target_parameters: list[str] | None = field(
        default=None, metadata={"help": "target_parameters as the source adapters wrote it."}
    )
    parameters: dict[str, list[int]] = field(
        default_factory=dict,
        metadata={"help": "Experts, inputs and outputs of each target that is a parameter rather than a module."},
    )
    fan_in_fan_out: bool = field(
        default=False, metadata={"help": "Whether target modules hold their weights transposed (Conv1D)."}
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
    task_weights: list[float] = field(default_factory=lambda: [1.0], metadata={"help": "One lambda for each task."})
    base_sha256: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "sha256 of the base model's architecture and of a sample of its weights."},
    )
    sampled_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules that the sample is of, whatever was left out later; none: of target_modules."},
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

    def rows(self, module: str) -> int:
        """Rows of A and columns of B: the rank, for each expert."""
        return self.rank(module) * self.parameters.get(module, [1])[0]

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
        check_choice("vector_dtype", self.vector_dtype, VECTOR_DTYPES)
        try:
            re.compile(self.lora_target if isinstance(self.lora_target, str) else "")
        except re.error as error:
            raise UserError(
                f"lora_target: {self.lora_target!r}, expected names or a regular expression ({error}); correct it"
            ) from error
        for name in OPTIONS:
            check_option(name, getattr(self, name))
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
        "parameters": dict[str, Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]],
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
    check_option("mask", mask)
    check_option("mask_threshold", threshold)


def check_chosen_mask(mask: str, threshold: float | None = None, seed: int | None = None) -> None:
    """Refuse a mask that a user has chosen, and a threshold or seed that it does not have.

    Args:
        mask: What is chosen, or was saved.
        threshold: None where none is given.
        seed: None where none is given.

    Raises:
        UserError: With the value and what was expected.
    """
    check_mask(mask, 0.5 if threshold is None else threshold)
    for name, value, kinds in (("threshold", threshold, ("binary",)), ("seed", seed, ("sampled", "relaxed"))):
        if value is not None and mask not in kinds:
            raise UserError(
                f"{name}: {value:g} with the mask {mask}, expected none: only {' and '.join(kinds)} "
                f"{'has' if len(kinds) == 1 else 'have'} one; leave it out, or choose mask {kinds[0]}"
            )


def module_spec(spec: SubspaceSpec, modules: list[str], ranks: dict[str, int], alphas: dict[str, float]) -> None:
    """Write modules, ranks and alphas into a spec: the most common value as the default, the others as patterns.

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
