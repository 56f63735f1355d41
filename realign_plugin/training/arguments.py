"""LLaMA-Factory's fine-tuning arguments with those of ``mask_dpo`` added."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from llamafactory.hparams.finetuning_args import FinetuningArguments

from realign_plugin.errors import UserError
from realign_plugin.training.preflight import HOST_STAGES, OPTIONS, STAGE, STAGES, TYPE, check_options, split_paths

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
}


@dataclass
class SafetySubspaceArguments:
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
    fusion_method: Literal["task_arithmetic", "average", "ties", "dare"] = field(
        default="task_arithmetic", metadata={"help": "How several task vectors are fused."}
    )
    task_weight: str | None = field(
        default=None, metadata={"help": "Weight of the task vectors (lambda): one number, or one for each task."}
    )
    ties_density: float = field(default=0.2, metadata={"help": "Share of elements that TIES keeps."})
    dare_drop_rate: float = field(default=0.2, metadata={"help": "Share of elements that DARE drops."})
    fusion_seed: int = field(default=0, metadata={"help": "Seed of DARE's drop."})
    mask_granularity: Literal["element", "row", "column", "module"] | None = field(
        default=None,
        metadata={"help": "What one mask logit decides on; none: element for adapters, row for whole weights."},
    )
    mask_init: float = field(default=0.0, metadata={"help": "Value of every mask logit at the start."})
    mask_temperature: float = field(default=0.5, metadata={"help": "Temperature of the relaxed mask."})
    mask_rescale: bool = field(default=True, metadata={"help": "Whether or not to divide the mask by its mean."})
    mask_estimator: Literal["relaxed", "straight_through"] | None = field(
        default=None,
        metadata={
            "help": "Mask while training: relaxed, or 0/1 forward with the relaxed gradient backward; none: relaxed "
            "for mask_dpo, straight_through for safety_distill."
        },
    )
    mask_noise: float = field(default=1.0, metadata={"help": "Scale of the mask's noise at the first step."})
    mask_noise_end: float | None = field(
        default=None,
        metadata={
            "help": "Scale of the mask's noise at the last step, linear between; none: no change for mask_dpo, 0 for "
            "safety_distill."
        },
    )
    mask_keep_weight: float = field(
        default=0.0, metadata={"help": "Weight of the penalty on what the mask takes away."}
    )
    mask_reference: Literal["init", "aligned", "base", "model"] = field(
        default="init",
        metadata={"help": "DPO reference: the plain fusion, the aligned model, the base model, or `ref_model`."},
    )
    mask_compile: bool = field(
        default=False, metadata={"help": "Whether or not to fuse the mask's operations with torch's compiler."}
    )
    skill_dataset: str | None = field(
        default=None,
        metadata={
            "help": "For safety_distill: which of `dataset` and `eval_dataset` hold prompts of the new skill, whose "
            "teacher is the fine-tuned model; that of the others is the aligned one."
        },
    )
    distill_skill_weight: float = field(
        default=1.0, metadata={"help": "Weight of the divergence from the fine-tuned model on skill prompts."}
    )
    distill_divergence: Literal["forward", "reverse"] = field(
        default="forward", metadata={"help": "KL(teacher || student), or KL(student || teacher)."}
    )
    distill_temperature: float = field(
        default=1.0, metadata={"help": "What the logits of student and teacher are divided by."}
    )
    mask: Literal["soft", "binary", "sampled", "relaxed"] | None = field(
        default=None,
        metadata={"help": "Mask at evaluation, export and chat; none: binary for straight_through, else soft."},
    )
    mask_threshold: float | None = field(default=None, metadata={"help": "Threshold of the binary mask (0.5)."})
    mask_seed: int | None = field(default=None, metadata={"help": "Seed of the sampled and the relaxed mask (0)."})


@dataclass
class RealignFinetuningArguments(SafetySubspaceArguments, FinetuningArguments):  # type: ignore[misc]
    """What the stock parser builds in place of ``FinetuningArguments``.

    While the host checks its arguments, our stage and type go by the names of their nearest kin (``dpo``, ``lora``),
    so that its own rules for those hold; ``restore`` puts the real names back.
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
        self.mask_estimator = spec.mask_estimator  # type: ignore[assignment]
        self.mask_noise_end = spec.mask_noise_end
        for name, fix in REFUSED.items():
            if getattr(self, name):
                raise UserError(f"{name}: {getattr(self, name)!r} has no meaning here, expected none; {fix}")
        if self.stage != STAGE and self.ref_model is not None:
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
