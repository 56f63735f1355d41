"""The trainer: stock DPO whose policy draws masks and whose reference needs no second model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal

import torch
from accelerate.utils import DistributedType
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from realign_plugin.atomic import atomic_folder
from realign_plugin.lora_adapters import ADAPTER_FILES, CONFIG_NAME
from realign_plugin.masks import keep_penalty, scheduled_noise
from realign_plugin.statistics import mask_statistics
from realign_plugin.training.learning_rate import WarnOfStandstill
from realign_plugin.training.reference_cache import ReferenceCache
from realign_plugin.training.resuming import is_finished
from realign_plugin.tuner.sharding import even_shards

SHARDING: Final = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class NoiseSchedule(TrainerCallback):  # type: ignore[misc]
    """Tells the layers how much noise to draw with, from the trainer's step count, which a resumed run restores."""

    def __init__(self, start: float, end: float | None) -> None:
        self.start = start
        self.end = end

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set the noise of the step that begins."""
        model.base_model.set_noise(scheduled_noise(state.global_step, state.max_steps, self.start, self.end))


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


class MaskDPOTrainer(CustomDPOTrainer):  # type: ignore[misc]
    """DPO on the logits of a safety subspace (SOMF, arXiv 2405.09055, equation 6)."""

    def __init__(self, *, model: Any, finetuning_args: Any, callbacks: list[Any] | None = None, **kwargs: Any) -> None:
        schedule = NoiseSchedule(finetuning_args.mask_noise, finetuning_args.mask_noise_end)
        super().__init__(
            model=model,
            finetuning_args=finetuning_args,
            callbacks=[StopBeforeOneMore(), WarnOfStandstill(), *(callbacks or []), schedule],
            **kwargs,
        )
        if finetuning_args.mask_compile:
            model.base_model.compile_masks()
        self._references = ReferenceCache() if self._may_remember() else None
        self.nothing_left = False

    def _may_remember(self) -> bool:
        """Whether reference log probabilities may be remembered.

        Where buffers are broadcast, every process has to take part in every forward pass.
        """
        return self.args.world_size == 1 or not self.args.ddp_broadcast_buffers

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the host does, but for a run that was stopped after its last step: it is complete as it is."""
        try:
            return super().train(*args, **kwargs)
        except NothingLeftError:
            self.nothing_left, self.is_in_train = True, False
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
                self._load_best_model()
            return TrainOutput(self.state.global_step, 0.0, {})

    def _all_know(self, known: bool) -> bool:
        """Whether no process needs the reference's forward pass; where parameters are sharded all have to join it."""
        kind = self.accelerator.distributed_type
        if kind not in SHARDING or self.args.world_size == 1:
            return known
        votes = self.accelerator.reduce(torch.tensor(float(known), device=self.accelerator.device))
        return bool(votes == self.args.world_size)

    @property
    def _is_fsdp(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Let FSDP2 split task vectors evenly."""
        with even_shards() if self._is_fsdp else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _tuner(self, model: Any) -> Any:
        return self.accelerator.unwrap_model(model).base_model

    @contextmanager
    def _as_reference(self, model: Any) -> Iterator[None]:
        """Within the block, the model is the reference: one fixed function of a batch, hence without any dropout."""
        kind = self.finetuning_args.mask_reference
        context = (
            self.accelerator.unwrap_model(model).disable_adapter()
            if kind == "base"
            else self._tuner(model).reference(kind)
        )
        training = model.training
        model.eval()
        try:
            with context:
                yield
        finally:
            model.train(training)

    def compute_reference_log_probs(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Log probabilities under the reference that ``mask_reference`` names.

        Args:
            model: The policy, possibly wrapped.
            batch: Chosen answers, then rejected ones.

        Returns:
            Chosen and rejected log probabilities ``[pairs]``, in nats; None where the loss needs no reference.
        """
        if self.finetuning_args.mask_reference == "model" or not self.finetuning_args.use_ref_model:
            result: tuple[Tensor | None, Tensor | None] = super().compute_reference_log_probs(model, batch)
            return result
        keys = None if self._references is None else self._references.keys(batch)
        if self._references is not None:
            known = None if keys is None else self._references.get(keys, batch["input_ids"].device)
            if self._all_know(known is not None) and known is not None:
                chosen, rejected = known.chunk(2)
                return chosen, rejected
        with torch.no_grad(), self._as_reference(model):
            output = self.concatenated_forward(model, batch, is_ref_model=True)
        if self._references is not None and keys is not None:
            self._references.put(keys, torch.cat([output["chosen_logps"], output["rejected_logps"]]))
        return output["chosen_logps"], output["rejected_logps"]

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Tensor], train_eval: Literal["train", "eval"] = "train"
    ) -> tuple[Tensor, dict[str, Any]]:
        """Stock DPO's loss and metrics, with the keep penalty added to the loss."""
        loss, metrics = super().get_batch_loss_metrics(model, batch, train_eval)
        weight = self.finetuning_args.mask_keep_weight
        if weight > 0:
            loss = loss + weight * keep_penalty(self._tuner(model).logits())
        return loss, metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the state of the mask beside the stock metrics."""
        if "loss" in logs or any(key.endswith("eval_loss") for key in logs):
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
        state = self._tuner(self.model).whole_state_dict(keep=self.args.should_save)
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
        self._tuner(self.model if model is None else model).load_whole(resume_from_checkpoint)

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
        self._tuner(self.model).load_whole(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save in one step: a kill or a full disk leaves the last good adapter.

        An earlier run's state goes with its adapter; the trainer writes its own after this.
        """
        old = (*ADAPTER_FILES, TRAINER_STATE_NAME)
        shared = self.args.world_size > 1  # the others write their random states into a checkpoint's folder
        with atomic_folder(output_dir or self.args.output_dir, replaces=old, last=CONFIG_NAME, shared=shared) as work:
            super()._save(str(work), state_dict)
