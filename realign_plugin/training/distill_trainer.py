"""The trainer of ``stage: safety_distill``: divergence from two teachers that are both in the network.

    L = E_safety [mean_t KL(aligned || student)] + w E_skill [mean_t KL(fine-tuned || student)]

over the tokens t of the answers. It is 0 where the student answers safety prompts as the aligned model does, and skill
prompts as the fine-tuned one. The first token of a safety answer, which decides whether it is a refusal (arXiv
2406.05946), counts ``distill_first_weight`` times in its mean; what is logged is the plain mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from torch import Tensor

from realign_plugin.method.divergence import token_divergence
from realign_plugin.method.masks import keep_penalty
from realign_plugin.training.adapter_trainer import AdapterTrainer
from realign_plugin.training.answer_head import AnswerHead, answer_positions
from realign_plugin.training.padding import MASK_TOKENS, PASS_TOKENS, cut, is_plain_text, row_lengths, similar_lengths
from realign_plugin.training.teachers import TEACHERS, Teacher, TeacherCache, acting_as

NAMES = ("kl", "first_token")
"""What is measured of a teacher's rows: the divergence, and how often the likeliest first token is the teacher's."""


class SafetyDistillTrainer(AdapterTrainer, CustomSeq2SeqTrainer):  # type: ignore[misc]
    """Self-distillation of a safety subspace, or of a LoRA adapter."""

    def __init__(self, *, model: Any, finetuning_args: Any, **kwargs: Any) -> None:
        super().__init__(model=model, finetuning_args=finetuning_args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is over rows: the host divides it by its micro-steps
        self.teacher_weights: dict[Teacher, float] = {
            "aligned": 1.0,
            "fine_tuned": finetuning_args.distill_skill_weight,
        }
        self._head = AnswerHead(model)
        self._remembered = TeacherCache()
        self._sums = {mode: torch.zeros(len(TEACHERS), 1 + len(NAMES)) for mode in ("train", "eval")}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], int]:
        """The batches of one optimiser step, and how many rows they have: an epoch's last batch may have fewer."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        return batches, sum(len(batch["labels"]) for batch in batches)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch: each row's mean divergence, weighted so that its mean over all data is L.

        Args:
            model: The student, possibly wrapped.
            inputs: A batch, with ``teacher`` ``[rows]``: each row's teacher as a number.
            return_outputs: Whether the logits are returned as well.
            num_items_in_batch: Rows of all the optimiser step's batches; None: this is the only one.
        """
        inputs = dict(inputs)
        teachers = inputs.pop("teacher")
        where = answer_positions(inputs["labels"])
        tokens = where.sum(1).tolist()
        target = torch.split(self._teachers_see(model, inputs, teachers, where), tokens)
        del inputs["labels"]
        every = torch.arange(len(tokens), device=where.device)
        groups = [every] if return_outputs else self._groups(model, inputs, every)
        found, facts = [], []
        for rows in groups:
            part = inputs if len(groups) == 1 else cut(inputs, rows)
            mine = where[rows][:, : part["input_ids"].shape[1]]
            others = torch.cat([target[row] for row in rows.tolist()])
            logits = self._head.logits(partial(model, **part), mine, others)
            loss, fact = self._divergence(logits, teachers[rows], mine.sum(1))
            found.append(loss)
            facts.append(fact)
        order = torch.cat(groups).argsort()
        divergence = torch.cat(found)[order]
        self._note(teachers, torch.cat(facts)[order])
        args = self.finetuning_args
        batches = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps  # the host divides by
        loss = (divergence * self._row_weights(teachers)).sum() * batches / (num_items_in_batch or len(divergence))
        weight = args.mask_keep_weight if model.training and self.is_subspace else 0.0
        if weight > 0:
            loss = loss + weight * keep_penalty(self._tuner(model).logits())
        return (loss, {"logits": logits}) if return_outputs else loss

    def _groups(self, model: Any, inputs: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
        """Rows of a batch that are run together: all, but for rows of unlike lengths on a CPU."""
        # Processes have to make as many passes as each other.
        alone = self.args.world_size == 1 and self.accelerator.unwrap_model(model) is model
        if not alone or rows.device.type != "cpu" or not is_plain_text(inputs):
            return [rows]
        elements = sum(p.numel() for p in model.parameters() if p.requires_grad) if self.is_subspace else 0
        cost = PASS_TOKENS + MASK_TOKENS * elements / model.num_parameters()
        lengths = row_lengths(inputs["attention_mask"][rows])
        return [rows[torch.tensor(group)] for group in similar_lengths(lengths, cost)]

    def _divergence(self, logits: Tensor, teachers: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's mean divergence, in which the first token of a safety answer may count more than once.

        Args:
            logits: ``[2, tokens, vocabulary]``: the student's, and the teachers'.
            teachers: ``[rows]``.
            tokens: ``[rows]``: how many of them are of each row.

        Returns:
            ``[rows]``, in nats a token; and what is logged of each row, ``[rows, 2]``: the plain mean, and whether the
            likeliest first token is the teacher's.
        """
        args = self.finetuning_args
        found = token_divergence(logits, args.distill_divergence, args.distill_temperature)
        rows = torch.repeat_interleave(torch.arange(len(tokens), device=tokens.device), tokens)
        divergence = _row_means(found, rows, torch.ones_like(found), len(tokens))
        same = torch.zeros_like(divergence)
        first = _first(tokens)
        same[tokens > 0] = (logits[0, first].argmax(-1) == logits[1, first].argmax(-1)).float()
        facts = torch.stack([divergence.detach(), same], dim=1)
        if args.distill_first_weight != 1.0:
            weights = torch.ones_like(found)
            weights[_first(tokens)[teachers[tokens > 0] == TEACHERS.index("aligned")]] = args.distill_first_weight
            divergence = _row_means(found, rows, weights, len(tokens))
        return divergence, facts

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, *_: Any, **__: Any
    ) -> tuple[Tensor, None, None]:
        """The loss of an evaluation batch, of the mask that is shipped."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def _row_weights(self, teachers: Tensor) -> Tensor:
        """For each row its term's weight over its teacher's share of the data: unbiased however batches are mixed."""
        shares = self._shares(self.train_dataset if self.model.training else None)
        weights = [self.teacher_weights[teacher] / max(shares[teacher], 1e-9) for teacher in TEACHERS]
        return torch.tensor(weights, device=teachers.device)[teachers]

    def _shares(self, dataset: Any) -> Mapping[Teacher, float]:
        if dataset is None:  # evaluation: the exact loss is computed from the sums
            return dict.fromkeys(TEACHERS, 1.0)
        if not hasattr(self, "_train_shares"):
            counts = Counter(dataset["teacher"])
            self._train_shares = {name: counts[number] / len(dataset) for number, name in enumerate(TEACHERS)}
        return self._train_shares

    def _teachers_see(self, model: Any, inputs: dict[str, Any], teachers: Tensor, where: Tensor) -> Tensor:
        """What ``AnswerHead`` needs of each row's teacher for the answers' tokens, ``[tokens, ...]``."""
        tokens = where.sum(1).tolist()
        keys = self._remembered.keys(inputs, teachers)
        known = None if keys is None else self._remembered.get(keys, where.device)
        if self._all(known is not None) and known is not None:
            return known
        parts: list[Tensor | None] = [None] * len(tokens)
        text = {key: value for key, value in inputs.items() if key != "labels"}
        for number, name in enumerate(TEACHERS):
            mine = teachers == number
            if not self._any(bool(mine.any())):
                continue
            for batch, rows in self._batches(model, text, mine):
                seen = where[rows][:, : batch["input_ids"].shape[1]] & mine[rows, None]
                with acting_as(self.accelerator.unwrap_model(model), name):
                    found = self._head.teacher(partial(model, **batch), seen)
                for row, part in zip(rows.tolist(), torch.split(found, seen.sum(1).tolist()), strict=True):
                    if mine[row]:
                        parts[row] = part
        target = torch.cat([part for part in parts if part is not None])
        if keys is not None:
            self._remembered.put(keys, target, tokens)
        return target

    def _batches(self, model: Any, text: dict[str, Any], mine: Tensor) -> list[tuple[dict[str, Any], Tensor]]:
        """A teacher's rows, with their numbers: one row at least, and all where pictures belong to the whole batch."""
        every = torch.arange(len(mine), device=mine.device)
        if not is_plain_text(text):
            return [(text, every)]
        chosen = every[mine] if mine.any() else every[:1]
        return [(cut(text, rows), rows) for rows in self._groups(model, text, chosen)]

    def _note(self, teachers: Tensor, facts: Tensor) -> None:
        """Add up what is logged: in training of this process's rows, in evaluation of all, each once.

        Where evaluation rows do not fill the last batch, accelerate repeats some, and leaves them out as it gathers.
        """
        mode = "train" if self.model.training else "eval"
        rows = torch.cat([teachers[:, None].to(facts), torch.ones_like(facts[:, :1]), facts], dim=1)
        if mode == "eval" and self.args.world_size > 1:
            rows = self.accelerator.gather_for_metrics(rows)
            if not self.accelerator.is_main_process:
                return
        self._sums[mode] += torch.stack([rows[rows[:, 0] == n, 1:].sum(0) for n in range(len(TEACHERS))]).cpu()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log each teacher's divergence and first-token agreement; the evaluation's loss is made of them."""
        key = next((key for key in logs if key == "loss" or (key.startswith("eval_") and key.endswith("loss"))), None)
        if key is not None:
            prefix, mode = key.removesuffix("loss"), "train" if key == "loss" else "eval"
            sums = self.accelerator.reduce(self._sums[mode].to(self.accelerator.device)).cpu()
            self._sums[mode].zero_()
            loss = 0.0
            for teacher, (count, *totals) in zip(TEACHERS, sums.tolist(), strict=True):
                if count:
                    means = [total / count for total in totals]
                    logs |= {f"{prefix}{name}/{teacher}": mean for name, mean in zip(NAMES, means, strict=True)}
                    loss += self.teacher_weights[teacher] * means[0]
            if mode == "eval":
                logs[key] = loss
        super().log(logs, *args, **kwargs)


def _first(tokens: Tensor) -> Tensor:
    """Positions of the first token of each answer that has one, among all answers' tokens."""
    return (tokens.cumsum(0) - tokens)[tokens > 0]


def _row_means(values: Tensor, rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """Each row's weighted mean of its tokens' values ``[tokens]``; 0 where a row has no tokens."""
    sums, totals = (values.new_zeros(count).index_add(0, rows, one) for one in (values * weights, weights))
    return sums / totals.where(totals > 0, 1.0)
