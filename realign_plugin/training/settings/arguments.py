"""LLaMA-Factory's fine-tuning arguments with those of ``mask_dpo`` added."""

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from typing import Any, Final, Literal, get_type_hints

from llamafactory.hparams.finetuning_args import FinetuningArguments
from llamafactory.hparams.parser import read_args
from transformers import HfArgumentParser

from realign_plugin.errors import UserError
from realign_plugin.subspace.options import SubspaceOptions
from realign_plugin.training.settings.distillation import DistillArguments
from realign_plugin.training.settings.preflight import (
    DISTILL,
    HOST_STAGES,
    OPTIONS,
    STAGE,
    STAGES,
    TYPE,
    check_options,
    split_paths,
)

HOST_TYPE: Final = "lora"

# Options of LoRA that the host lets through under its own name, and that would be ignored or wrong here.
REFUSED = {
    "use_dora": "train the source adapters without DoRA",
    "use_rslora": "leave it out: the source adapters say whether they use rsLoRA",
    "pissa_init": "leave it out: nothing is initialised here",
    "loraplus_lr_ratio": "leave it out: there is one kind of parameter, the logits",
    "additional_target": "leave it out: only logits are trained",
    "use_llama_pro": "leave it out: the source adapters say which modules are masked",
    "use_galore": "leave it out",
    "use_apollo": "leave it out",
    "use_badam": "leave it out",
    "use_hyper_parallel": "leave it out: its trainers know the stock stages alone",
}


def _argument(option: Field[Any]) -> tuple[str, Any, Any]:
    """An option of a subspace as an argument: name, type and field; None where a training chooses the value."""
    known, default, kind = option.metadata, option.default, get_type_hints(SubspaceOptions)[option.name]
    kind = Literal[known["choices"]] if "choices" in known else kind  # type: ignore[valid-type]
    text = known["help"]
    if "unset" in known:
        text = text[:-1] + (f" ({default})." if known["unset"] is None else f"; none: {known['unset']}.")
        kind, default = kind | None, None
    return option.name, kind, field(default=default, metadata={"help": text})


_SubspaceArguments: Any = make_dataclass(
    "_SubspaceArguments", [_argument(option) for option in fields(SubspaceOptions)]
)


@dataclass
class SafetySubspaceArguments(DistillArguments, _SubspaceArguments):  # type: ignore[misc]
    """Arguments of our stages and of the fine-tuning type ``safety_subspace``."""

    aligned_adapter: str | None = field(
        default=None, metadata={"help": "LoRA adapter of the aligned model; none if the base model itself is aligned."}
    )
    task_adapters: str | None = field(
        default=None, metadata={"help": "LoRA adapters of the fine-tuned models, separated by commas."}
    )
    task_models: str | None = field(
        default=None,
        metadata={"help": "Instead: full checkpoints of the fine-tuned models; masks whole weights of `lora_target`."},
    )
    task_weight: str | None = field(
        default=None, metadata={"help": "Weight of the task vectors (lambda): one number, or one for each task."}
    )
    mask_reference: Literal["init", "aligned", "base", "model"] = field(
        default="init",
        metadata={"help": "DPO reference: the plain fusion, the aligned model, the base model, or `ref_model`."},
    )
    mask_compile: bool = field(
        default=False, metadata={"help": "Whether or not to fuse the mask's operations with torch's compiler."}
    )


@dataclass
class RealignFinetuningArguments(SafetySubspaceArguments, FinetuningArguments):  # type: ignore[misc]
    """What the stock parser builds in place of ``FinetuningArguments``.

    While the host checks its arguments, our stage and type have the names of the closest ones that it knows (``dpo``,
    ``lora``), so that its own rules for those hold; ``restore`` puts the real names back.
    """

    stage: Literal["pt", "sft", "rm", "ppo", "dpo", "kto", "mask_dpo", "safety_distill"] = field(
        default="sft", metadata={"help": "Which stage will be performed in training."}
    )
    finetuning_type: Literal["lora", "oft", "freeze", "full", "safety_subspace"] = field(
        default="lora", metadata={"help": "Which fine-tuning method to use."}
    )

    def __post_init__(self) -> None:
        """Check our own arguments, then let the host check its own under names that it knows."""
        self.real_names = {"stage": self.stage, "finetuning_type": self.finetuning_type}
        if self.stage in STAGES or self.finetuning_type == TYPE:
            self._check()
        self.stage = HOST_STAGES.get(self.stage, self.stage)  # type: ignore[assignment]
        if self.finetuning_type == TYPE:
            self.finetuning_type = HOST_TYPE
        super().__post_init__()

    def _check(self) -> None:
        spec = check_options(self.options())
        self.mask_noise, self.mask_temperature = spec.mask_noise, spec.mask_temperature
        for name, fix in REFUSED.items():
            if getattr(self, name):
                raise UserError(f"{name}: {getattr(self, name)!r} has no meaning here, expected none; {fix}")
        if self.stage == DISTILL and self.ref_model is not None:
            raise UserError(
                f"ref_model: {self.ref_model!r} with stage: {self.stage}, expected none: the teachers are in the "
                "network; leave it out"
            )
        if self.stage == STAGE:
            self._check_reference()

    def _check_reference(self) -> None:
        if self.mask_reference == "model" and self.ref_model is None:
            raise UserError(
                "mask_reference: 'model' needs ref_model, which is not set; set it, or use mask_reference: init"
            )
        if self.mask_reference != "model" and self.ref_model is not None:
            raise UserError(
                f"ref_model: {self.ref_model!r} is not used with mask_reference: {self.mask_reference}, expected "
                "none; set mask_reference: model"
            )

    def options(self) -> dict[str, Any]:
        """Our own options by name."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return values | {
            "task_adapters": split_paths(self.task_adapters),
            "task_models": split_paths(self.task_models),
            "skill_dataset": split_paths(self.skill_dataset),
        }

    def restore(self) -> None:
        """Put the names of our stage and type back, once the host has checked its arguments."""
        for name, value in self.real_names.items():
            setattr(self, name, value)


def given_options(groups: Sequence[Any], args: Any) -> dict[str, Any]:
    """Arguments that stand in the file, the mapping or the flags that a run is started with, in any of their forms.

    Args:
        groups: What the host's parser made of them; the names of all that were given are kept with ours.
        args: What the parser was called with.

    Returns:
        Their values by name, as parsed.
    """
    found = read_args(args)
    if not isinstance(found, dict):
        flags = HfArgumentParser([type(group) for group in groups])
        for action in flags._actions:
            action.default = SUPPRESS
        found = vars(flags.parse_known_args(found)[0])
    values: dict[str, Any] = {}
    for group in groups:
        values |= {name: value for name, value in vars(group).items() if found.get(name) is not None}
        if isinstance(group, RealignFinetuningArguments):
            group.given = frozenset(name for name, value in found.items() if value is not None)
            values |= {name: value for name, value in group.real_names.items() if name in values}
    return values
