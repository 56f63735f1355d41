"""A training step on tensors that have shapes but no numbers: what it holds at its peak, part by part.

torch's fake tensors go through the model's own forward and backward pass, through our layers and through the loss as
the host computes it, so that whatever an architecture keeps for its backward pass is counted, with no table of
architectures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from realign_plugin.errors import UserError
from realign_plugin.lab.estimate.fake_model import fake_model, kept_bytes
from realign_plugin.lab.estimate.tracking import LiveMemory
from realign_plugin.lab.estimate.training import TEACHER, Training
from realign_plugin.method.divergence import token_divergence
from realign_plugin.method.masks import keep_penalty
from realign_plugin.training.settings.preflight import DISTILL

REFERENCE: Final = "reference pass"
VOCABULARY: Final = "logits over the vocabulary"
MASKS: Final = "masks and effective factors"
CAST: Final = "weights cast for autocast"
GRADIENTS: Final = "gradients"
ACTIVATIONS: Final = "activations"
STEP: Final = "a training step"
LATER: Final = "a step once the reference is remembered"
EVALUATION: Final = "an evaluation"
HALF: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepMemory:
    """What one process holds, in bytes.

    Attributes:
        kept: What is held all the time, by kind: weights, factors, vectors, logits.
        trained: Bytes of what is trained.
        peaks: On top of it, by kind, at the peak of a step that computes the reference, of one that remembers it,
            and of an evaluation; what is not done is not there.
        moments: When each peak is.
        block: Bytes of the largest repeated layer with its adapter.
        root: Bytes of all that is in no layer: embeddings, norm, output head.
        dequantised: Bytes of the largest weight that is widened while it is multiplied; 0: none is quantised.
    """

    kept: dict[str, int]
    trained: int
    peaks: dict[str, dict[str, int]]
    moments: dict[str, str]
    block: int
    root: int
    dequantised: int


class _NoAddresses(TorchFunctionMode):
    """Fake tensors have no address: 0 stands for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.data_ptr:
            return 0
        return func(*args, **(kwargs or {}))


def step_memory(training: Training) -> StepMemory:
    """Follow one training step.

    Raises:
        UserError: If the architecture cannot be followed without numbers, as some mixtures of experts cannot.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # its traceback; ours is one line
    try:
        with FakeTensorMode(), _NoAddresses():
            return _Step(training).run()
    except (RuntimeError, ValueError) as error:  # what depends on values or images, and kernels without known shapes
        raise UserError(
            f"model_name_or_path: {training.model.architecture} cannot be followed without its numbers "
            f"({' '.join(str(error).split())[:120]}), expected an architecture whose steps depend on shapes alone; "
            "its memory cannot be estimated"
        ) from error


class _Step:
    """The model of one training, made of fake tensors, and its step."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.model = fake_model(training)
        factors = [shape for pair in training.shapes.values() for shape in pair.values()]
        self.small = set(factors) if training.kind == "mask" else set()
        self.cast = set(factors) if training.kind == "lora" else set()
        if training.kind == "full":
            self.cast = set(training.model.linears.values())
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.memory = LiveMemory(self.kind_of)
        self.memory.leave_out([*self.model.parameters(), *self.model.buffers()])
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(self._grown)

    def kind_of(self, tensor: Tensor, phase: str) -> str:
        """The part that a new tensor belongs to, by its shape."""
        if phase == REFERENCE:
            return REFERENCE
        shape = tuple(tensor.shape)
        if len(shape) > 1 and shape[-1] == self.training.model.vocabulary:
            return VOCABULARY
        if shape in self.small or (len(shape) == 3 and shape[0] == self.training.spec.kept_deltas):
            return MASKS if shape[-2:] in self.small else ACTIVATIONS
        return CAST if shape in self.cast else ACTIVATIONS

    def _grown(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.memory.reclassify(parameter.grad, GRADIENTS)

    def run(self) -> StepMemory:
        """A step with its reference, then an evaluation."""
        training, memory = self.training, self.memory
        peaks: dict[str, dict[str, int]] = {}
        moments: dict[str, str] = {}

        def keep(name: str, without: str = "") -> None:
            moments[name], found = memory.highest(without)
            peaks[name] = dict(found)

        with memory:
            self._set_gradients()
            self.step()
            keep(STEP)
            if training.reference is not None:
                keep(LATER, without=REFERENCE)
            if training.evaluation is not None:
                for parameter in self.trained:
                    parameter.grad = None
                memory.restart()
                self.model.eval()
                with torch.no_grad():
                    self.loss(training.evaluation)
                keep(EVALUATION)
        kept, block, root = kept_bytes(self.model, training)
        widest = max((rows * columns for rows, columns in training.model.inner.values()), default=0)
        return StepMemory(
            kept, sum(p.numel() * p.element_size() for p in self.trained), peaks, moments, block, root,
            2 * widest if training.quantised else 0,
        )  # fmt: skip

    def _set_gradients(self) -> None:
        """As they are when the last forward pass of a step begins: there, where several make a step."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter) if self.training.accumulation > 1 else None
            self._grown(parameter)

    def step(self) -> None:
        """One forward and backward pass, as the host's trainer makes them."""
        loss = self.loss(self.training.batch)
        self.memory.phase = "backward pass"
        loss.backward()  # type: ignore[no-untyped-call]

    def loss(self, batch: int) -> Tensor:
        """The loss on one batch of the longest rows."""
        training = self.training
        rows = batch * training.answers
        size = (rows, training.length)
        inputs = {"input_ids": torch.zeros(size, dtype=torch.long), "attention_mask": torch.ones(size).long()}
        labels = torch.zeros(size, dtype=torch.long)
        self.memory.phase = "forward pass"
        if training.stage == "sft":
            with self._autocast():
                found: Tensor = self.model(**inputs, labels=labels, use_cache=False).loss
            return found
        if training.stage == DISTILL:
            return self._divergence(inputs)
        logits = self._logits(inputs)
        chosen, rejected = _log_probs(logits, labels).chunk(2)
        expected: Any = (0.0, 0.0)
        if training.reference is not None:
            self.memory.phase = REFERENCE
            with torch.no_grad(), self._as_reference():
                expected = _log_probs(self._logits(inputs), labels).chunk(2)
            self.memory.phase = "forward pass"
        loss = -functional.logsigmoid((chosen - expected[0]) - (rejected - expected[1])).mean()
        logits.mean()  # a metric: the host holds them until here
        if training.ftx:
            loss = loss - training.ftx * chosen.mean()
        if training.keep_weight:
            loss = loss + training.keep_weight * keep_penalty(self.model.base_model.logits())
        return loss

    def _divergence(self, inputs: dict[str, Tensor]) -> Tensor:
        """Self-distillation: a teacher's pass without its head, then the head on both models' answers at once."""
        self.memory.phase = REFERENCE
        with torch.no_grad(), self._as_reference(), _Head(self.model) as head, self._autocast():
            self.model(**inputs, use_cache=False)
            teacher = head.seen
        self.memory.phase = "forward pass"
        with _Head(self.model, teacher), self._autocast():
            logits = self.model(**inputs, use_cache=False).logits
        loss = token_divergence(logits).mean()
        if self.training.keep_weight and self.training.kind == "mask":
            loss = loss + self.training.keep_weight * keep_penalty(self.model.base_model.logits())
        return loss

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        with self._autocast():
            found: Tensor = self.model(**inputs, use_cache=False).logits
        return found.float()

    def _autocast(self) -> Any:
        half = HALF.get(self.training.precision)
        return torch.autocast("cpu", dtype=half) if half is not None else nullcontext()

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """The reference's forward pass; a second model's takes what the base model's takes."""
        training = self.training
        if training.kind == "full" or training.reference == TEACHER:
            yield
        elif training.kind == "mask" and training.reference in ("init", "aligned"):
            with self.model.base_model.reference(training.reference):
                yield
        else:
            with self.model.disable_adapter():
                yield


class _Head:
    """Within the block the output head sees only answers, as ``training.answer_head`` has it: here all tokens.

    Attributes:
        seen: Without a teacher: the hidden states of the answers.
    """

    def __init__(self, model: Any, teacher: Tensor | None = None) -> None:
        self._head, self._teacher = model.get_output_embeddings(), teacher
        self.seen: Tensor | None = None

    def __enter__(self) -> _Head:
        self._handle = self._head.register_forward_pre_hook(lambda _, inputs: (self._change(inputs[0]), *inputs[1:]))
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _answers(self, hidden: Tensor) -> Tensor:
        return hidden[:, :-1].reshape(-1, hidden.shape[-1])

    def _change(self, hidden: Tensor) -> Tensor:
        answers = self._answers(hidden)
        if self._teacher is not None:
            return torch.stack([answers, self._teacher.to(hidden)])
        self.seen = answers
        return hidden[:1, :1]


def _log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probability of each row, in the host's order of operations, on which the peak depends."""
    labels = labels[:, 1:].clone()
    logits = logits[:, :-1, :]
    chosen = torch.gather(logits.log_softmax(-1), 2, labels.unsqueeze(2)).squeeze(2)
    return (chosen * (labels != -100)).sum(-1)
