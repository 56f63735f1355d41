"""What the fields of a LoRA adapter's ``adapter_config.json`` mean: those of PEFT 0.18 to 0.21."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError

from realign_plugin.errors import UserError, first_fault

PLAIN_STARTS: Final = frozenset({True, False, None, "gaussian", "eva", "orthogonal", "mica"})
"""Values of ``init_lora_weights`` that leave the base model as it is; PEFT changes its weights for the others."""

TRAINING_FIELDS: Final = frozenset(
    {
        "task_type",
        "inference_mode",
        "auto_mapping",
        "revision",
        "peft_version",
        "lora_dropout",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "runtime_config",
        "ensure_weight_tying",
    }
)
"""Fields that do not change what the factors stand for."""

REFUSED_FIELDS: Final = {
    "use_dora": "train it again with use_dora: false",
    "bias": "train it without biases",
    "lora_bias": "train it without biases",
    "modules_to_save": "train it without modules_to_save (additional_target)",
    "trainable_token_indices": "train it without",
    "layer_replication": "train it without",
    "alora_invocation_tokens": "train plain LoRA",
    "use_qalora": "train plain LoRA",
    "use_bdlora": "train plain LoRA",
    "kasa_config": "train plain LoRA",
    "monteclora_config": "train plain LoRA",
    "arrow_config": "give one of the adapters that it chooses from",
    "megatron_config": "convert it to an adapter of the transformers model",
}
"""Fields that make the file mean something other than B @ A on linear modules, with what to do instead."""

BEYOND_LINEAR: Final = ("target_parameters", "fan_in_fan_out")
"""Fields of adapters on whole parameters (a layer's experts) and on transposed modules (Conv1D)."""


class LoraConfig(BaseModel):
    """The fields that the factors' meaning depends on; all others are kept as extra fields.

    Attributes:
        peft_type: ``LORA``.
        base_model_name_or_path: The base model that the adapter names.
        r: Rank, where ``rank_pattern`` names no other.
        lora_alpha: Alpha, where ``alpha_pattern`` names no other.
        use_rslora: Scale by alpha / sqrt(r) instead of alpha / r.
        rank_pattern: Rank by a regular expression for the end of a module's name.
        alpha_pattern: Alpha in the same way.
        target_modules: Names or suffixes of modules, or a regular expression for the whole name.
        exclude_modules: Modules to leave out, in the same form.
        layers_to_transform: Numbers of the layers that suffixes are looked for in; None takes all.
        layers_pattern: Names of the lists that hold the layers.
        target_parameters: Names or ends of names of parameters that are no linear module's, such as a layer's experts.
        fan_in_fan_out: Whether the target modules hold their weights transposed (Conv1D).
        init_lora_weights: How the factors were initialised, and with some values, the base weight changed.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    target_parameters: list[str] | None = None
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str | None = True

    def rank(self, module: str) -> int:
        """Rank of one module, by its full name."""
        return int(_pattern_value(self.rank_pattern, module, self.r))

    def alpha(self, module: str) -> float:
        """Alpha of one module, by its full name."""
        return float(_pattern_value(self.alpha_pattern, module, self.lora_alpha))

    def adapts(self, module: str) -> bool:
        """Whether PEFT would put an adapter on a module: its rules for the fields from ``target_modules`` on."""
        if self.is_parameter(module):
            return True
        return _names(self.target_modules, module, self._in_layers(module)) and not _names(
            self.exclude_modules, module
        )

    def is_parameter(self, module: str) -> bool:
        """Whether a name is PEFT's for a parameter: the module that holds it.

        Where it holds several of them, PEFT adds ``.base_layer`` to the name of each but the last.
        """
        plain = module
        while plain.endswith(".base_layer"):
            plain = plain.removesuffix(".base_layer")
        holders = [target.rpartition(".")[0] for target in self.target_parameters or ()]
        here = [holder for holder in holders if not holder or f".{plain}".endswith(f".{holder}")]
        return module.count(".base_layer") < len(here)

    def unmatched(self, modules: Iterable[str]) -> list[str]:
        """Entries of ``target_modules`` that name none of the modules."""
        targets = self.target_modules
        entries = [targets] if isinstance(targets, str) else targets or []
        modules = list(modules)
        return [
            entry
            for entry in entries
            if not any(_names(entry if targets is entry else [entry], module) for module in modules)
        ]

    def _in_layers(self, module: str) -> bool:
        numbers = self.layers_to_transform
        if numbers is None or numbers == []:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        found = (re.match(rf".*\.{pattern}\.(\d+)\.", module) for pattern in patterns or [r"[^.]*"])
        match = next((match for match in found if match), None)
        return match is not None and int(match[1]) in ([numbers] if isinstance(numbers, int) else numbers)


def parse_lora_config(path: Path, values: Mapping[str, Any], what: str, linear: bool = True) -> LoraConfig:
    """Check the configuration of an adapter that has to be plain LoRA.

    Args:
        path: The adapter's folder, for messages.
        values: Its ``adapter_config.json``.
        what: What the user calls it; the error message starts with it.
        linear: Whether it has to be one of linear modules alone: nothing of ``BEYOND_LINEAR``.

    Raises:
        UserError: If it is another method, a value has the wrong type, or a field makes the file mean something else.
    """
    kind = values.get("peft_type")
    if kind == "SAFETY_SUBSPACE":
        raise UserError(
            f"{what}: {path} is a SAFETY_SUBSPACE adapter, expected LORA; make one of it with `realign export {path} "
            "OUT`"
        )
    if kind != "LORA":
        raise UserError(f"{what}: {path} has peft_type {kind!r}, expected 'LORA'; only LoRA adapters can be realigned")
    try:
        config = LoraConfig.model_validate(dict(values))
        for pattern in (*(config.rank_pattern or ()), *(config.alpha_pattern or ())):
            re.compile(pattern)
        for targets in (config.target_modules, config.exclude_modules):
            re.compile(targets if isinstance(targets, str) else "")
        config.adapts("model.layers.0.q_proj")  # compiles layers_pattern
    except ValidationError as error:
        raise UserError(f"{what}: {path} has {first_fault(error)}; save the adapter again with PEFT") from error
    except re.error as error:
        raise UserError(
            f"{what}: {path} has the pattern {error.pattern!r}, expected a regular expression ({error}); save the "
            "adapter again with PEFT"
        ) from error
    _check_meaning(path, values, config, what)
    for name in BEYOND_LINEAR:
        if linear and values.get(name):
            raise UserError(
                f"{what}: {path} has {name}: {str(values[name])[:80]!r}, expected LoRA on torch.nn.Linear modules; "
                "merge it with PEFT (merge_and_unload) and use the merged model"
            )
    if config.target_parameters and (config.rank_pattern or config.alpha_pattern):
        raise UserError(
            f"{what}: {path} has target_parameters with rank_pattern or alpha_pattern, expected one rank and alpha "
            "for all; train it without patterns"
        )
    return config


def _check_meaning(path: Path, values: Mapping[str, Any], config: LoraConfig, what: str) -> None:
    start = config.init_lora_weights
    if start not in PLAIN_STARTS or path.name in ("pissa_init", "pissa_backup"):
        raise UserError(
            f"{what}: {path} was initialised by {start if start not in PLAIN_STARTS else 'pissa'!r}, which changes "
            "the base model's weights, expected an adapter for the base model as it is; give the converted adapter: "
            "LLaMA-Factory writes it to `pissa_converted` with `pissa_convert: true`, PEFT with "
            "save_pretrained(path_initial_model_for_weight_conversion=…)"
        )
    for name, fix in REFUSED_FIELDS.items():
        value = values.get(name)
        if value and value != "none":
            raise UserError(
                f"{what}: {path} has {name}: {str(value)[:80]!r}, expected plain LoRA on linear modules; {fix}"
            )
    for name in config.model_extra or {}:
        if name not in TRAINING_FIELDS and name not in REFUSED_FIELDS and values[name]:
            raise UserError(
                f"{what}: {path} has {name}: {str(values[name])[:80]!r}, which is not a field of PEFT 0.18 to 0.21, "
                "expected one that is known; if it does not change what the factors mean, remove it from "
                "adapter_config.json"
            )


def _pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule for rank_pattern and alpha_pattern: the first key that matches the end of the module's name."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _names(targets: list[str] | str | None, module: str, suffixes: bool = True) -> bool:
    """Whether names, suffixes of names, or a regular expression name a module."""
    if isinstance(targets, str):
        return targets == "all-linear" or bool(re.fullmatch(targets, module))
    return module in (targets or ()) or (suffixes and any(module.endswith(f".{end}") for end in targets or ()))
