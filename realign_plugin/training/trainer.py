"""The trainer of ``stage: mask_dpo``: stock DPO whose policy draws masks and whose reference needs no second model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from torch import Tensor

from realign_plugin.method.masks import keep_penalty
from realign_plugin.training.adapter_trainer import AdapterTrainer
from realign_plugin.training.reference_cache import ReferenceCache
from realign_plugin.training.row_keys import row_keys


class MaskDPOTrainer(AdapterTrainer, CustomDPOTrainer):  # type: ignore[misc]
    """DPO on the logits of a safety subspace (SOMF, arXiv 2405.09055, equation 6)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._references = ReferenceCache() if self._may_remember() else None

    def _may_remember(self) -> bool:
        """Whether reference log probabilities may be remembered.

        Where buffers are broadcast, every process has to take part in every forward pass.
        """
        return self.args.world_size == 1 or not self.args.ddp_broadcast_buffers

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
        keys = None if self._references is None else row_keys(batch)
        if self._references is not None:
            known = None if keys is None else self._references.get(keys, batch["input_ids"].device)
            if self._all(known is not None) and known is not None:
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
        """Stock DPO's loss and metrics, with the keep penalty added to the loss that is trained on."""
        loss, metrics = super().get_batch_loss_metrics(model, batch, train_eval)
        weight = self.finetuning_args.mask_keep_weight
        if weight > 0 and train_eval == "train":
            loss = loss + weight * keep_penalty(self._tuner(model).logits())
        return loss, metrics
