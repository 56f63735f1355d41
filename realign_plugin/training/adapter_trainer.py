"""What the trainers of both stages share: steps, processes, saving and resuming of an adapter."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from realign_plugin.files import atomic_folder
from realign_plugin.method.statistics import mask_statistics
from realign_plugin.subspace.lora_adapters import ADAPTER_FILES, CONFIG_NAME
from realign_plugin.training.fsdp import compute_in_bf16
from realign_plugin.training.resuming import is_finished, set_aside_earlier
from realign_plugin.training.sharded_lora import load_whole_lora, whole_lora
from realign_plugin.tuner import SafetySubspaceModel
from realign_plugin.tuner.finite import check_gradients, check_trained
from realign_plugin.tuner.learning_rate import WarnOfStandstill
from realign_plugin.tuner.recording import RecordTraining, RequireOptimizer
from realign_plugin.tuner.schedule import NoiseSchedule
from realign_plugin.tuner.sharding import even_shards

SHARDING: Final = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class NothingLeftError(Exception):
    """The steps that a run was asked for are all done."""


class StopBeforeOneMore(TrainerCallback):  # type: ignore[misc]
    """Stops a resumed run that has no step left: transformers' trainer looks for its last step only after one more."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look before the first step.

        Raises:
            NothingLeftError: If there is none to do.
        """
        done = state.global_step >= state.max_steps or is_finished(args.output_dir, state.max_steps)
        if state.global_step > 0 and done:
            raise NothingLeftError


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """A trainer of one adapter: a safety subspace, or plain LoRA.

    Attributes:
        nothing_left: Whether a run that was started again had no step left.
    """

    def __init__(self, *, model: Any, finetuning_args: Any, callbacks: list[Any] | None = None, **kwargs: Any) -> None:
        self.is_subspace = isinstance(model.base_model, SafetySubspaceModel)
        ours: list[Any] = [StopBeforeOneMore(), RequireOptimizer()]
        if (record := getattr(finetuning_args, "record", None)) is not None:  # not of a run that only evaluates
            ours.insert(0, RecordTraining(record))
        if self.is_subspace:
            schedule = NoiseSchedule(finetuning_args.mask_noise, finetuning_args.mask_noise_end)
            ours += [WarnOfStandstill(), schedule]
        super().__init__(model=model, finetuning_args=finetuning_args, callbacks=[*ours, *(callbacks or [])], **kwargs)
        if self.is_subspace and finetuning_args.mask_compile:
            model.base_model.compile_masks()
        if self._is_fsdp and self.args.bf16 and self.accelerator.mixed_precision == "no":
            compute_in_bf16(model, self.accelerator.device.type)
        self.nothing_left = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the host does, but for a run that was stopped after its last step: it is complete as it is.

        What an earlier run left in the output folder is not this one's, unless it goes on from there.
        """
        start, home = resume_from_checkpoint, Path(self.args.output_dir)
        if (
            self.args.should_save
            and start is not True
            and not (start and Path(start).resolve().parent == home.resolve())
        ):
            set_aside_earlier(home)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except NothingLeftError:
            self.nothing_left, self.is_in_train = True, False
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
                self._load_best_model()
            return TrainOutput(self.state.global_step, 0.0, {})

    def _all(self, flag: bool) -> bool:
        """Whether a flag is set on every process; where parameters are sharded all have to join a forward pass."""
        return self._votes(flag) == self.args.world_size if self._votes_count else flag

    def _any(self, flag: bool) -> bool:
        """Whether a flag is set on one of the processes that have to join each other's forward passes."""
        return self._votes(flag) > 0 if self._votes_count else flag

    @property
    def _votes_count(self) -> bool:
        # Every forward pass of a sharded model, or of one whose buffers are broadcast, is all processes'.
        joined = self.accelerator.distributed_type in SHARDING or bool(self.args.ddp_broadcast_buffers)
        return joined and self.args.world_size > 1

    def _votes(self, flag: bool) -> int:
        return int(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)))

    @property
    def _is_fsdp(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Let FSDP2 split task vectors evenly, and a 4-bit base as it is."""
        if self._is_fsdp and any(hasattr(p, "quant_state") for p in self.model.parameters()):
            # Every process has read and quantised all of it: there is nothing to send, and accelerate could not.
            self.accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
        with even_shards() if self._is_fsdp else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _tuner(self, model: Any) -> Any:
        return self.accelerator.unwrap_model(model).base_model

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the state of the mask next to the stock metrics, and stop where gradients are not numbers.

        Raises:
            UserError: If they are not: the trainer would go on with an adapter that holds NaN, and log a loss of 0.
        """
        if not self.args.fp16:  # with it the gradient scaler leaves such steps out by itself
            check_gradients(logs, self.state.global_step)
        if self.is_subspace and ("loss" in logs or any(key.endswith("eval_loss") for key in logs)):
            prefix = "" if "loss" in logs else "eval_"
            for name, value in mask_statistics(self._tuner(self.model)).items():
                logs[f"{prefix}mask/{name}"] = value
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter; where it is sharded it is gathered, and the base model is not.

        The host would gather the whole model, leave frozen tensors out (ZeRO-3), or save none (FSDP's sharded state).
        """
        if self.accelerator.distributed_type not in SHARDING:
            super().save_model(output_dir, _internal_call)
            return
        keep = self.args.should_save
        if self.is_subspace:
            state = self._tuner(self.model).whole_state_dict(keep=keep)
        else:
            state = whole_lora(self.accelerator.unwrap_model(self.model), keep)
        if self.args.should_save:
            self._save(output_dir, state)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Go on from a checkpoint; FSDP's processes read the saved adapter, however many wrote it."""
        if not self._is_fsdp:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self._load_whole(self.model if model is None else model, resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both; also FSDP2's sharded optimiser state, of which accelerate 1.11 loads nothing."""
        super()._load_optimizer_and_scheduler(checkpoint)
        shards = Path(checkpoint or "") / "optimizer_0"
        if checkpoint is None or not self._is_fsdp or not shards.is_dir():
            return
        from torch.distributed.checkpoint import state_dict, state_dict_loader

        state = state_dict.get_optimizer_state_dict(self.model, self.optimizer)
        state_dict_loader.load({"optimizer": state}, checkpoint_id=str(shards))
        state_dict.set_optimizer_state_dict(self.model, self.optimizer, state)

    def _load_best_model(self) -> None:
        """Take the best checkpoint's adapter."""
        if not self._is_fsdp:
            super()._load_best_model()
            return
        self._load_whole(self.model, self.state.best_model_checkpoint)

    def _load_whole(self, model: Any, folder: str | Path) -> None:
        if self.is_subspace:
            self._tuner(model).load_whole(folder)
        else:
            load_whole_lora(self.accelerator.unwrap_model(model), folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save in one step: a kill or a full disk leaves the last good adapter.

        An earlier run's state goes with its adapter; the trainer writes its own after this.

        Raises:
            UserError: If what was trained holds NaN or infinite numbers.
        """
        trained = ((name, tensor) for name, tensor in self.model.named_parameters() if tensor.requires_grad)
        check_trained(trained if state_dict is None else state_dict.items(), self.state.global_step)
        old = (*ADAPTER_FILES, TRAINER_STATE_NAME)
        shared = self.args.world_size > 1  # the others write their random states into a checkpoint's folder
        with atomic_folder(output_dir or self.args.output_dir, replaces=old, last=CONFIG_NAME, shared=shared) as work:
            super()._save(str(work), state_dict)
            for name in set(self.accelerator.unwrap_model(self.model).peft_config) - {"default"}:
                shutil.rmtree(work / name, ignore_errors=True)  # frozen teachers, which come from elsewhere
