"""Peak memory of a training, part by part: alone, and per process where it is spread over several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from realign_plugin.lab.estimate.step import GRADIENTS, StepMemory, step_memory
from realign_plugin.lab.estimate.training import Training
from realign_plugin.subspace.spec import SubspaceSpec

Way = Literal["one process", "DDP", "FSDP2", "ZeRO-2", "ZeRO-3"]
WAYS: Final[tuple[Way, ...]] = ("one process", "DDP", "FSDP2", "ZeRO-2", "ZeRO-3")

GIB: Final = 2**30
CARDS: Final = (24, 40, 80)
"""GPUs that a training is compared with, GB."""
BUCKET: Final = 500_000_000
"""DeepSpeed's default size of the bucket that gradients are reduced in, elements."""
STATES: Final = "optimiser states"

_known: dict[str, StepMemory] = {}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its peak.

    Attributes:
        parts: By kind; they add up to the peak.
        moment: When the peak is.
        totals: Peak of a step, of one that remembers its reference, and of an evaluation.
    """

    parts: dict[str, int]
    moment: str
    totals: dict[str, int]

    @property
    def total(self) -> int:
        """All parts, bytes."""
        return sum(self.parts.values())

    def fits(self, card: int) -> bool:
        """Whether it fits a GPU of so many GB: 2 % are never handed out, and CUDA itself takes about 1 GiB."""
        return self.total <= (0.98 * card - 1) * GIB


def step_of(training: Training) -> StepMemory:
    """The training's step, followed once for all trainings that are alike."""
    plain = replace(training, name="", folder="", saves=None, assumed=(), spec=SubspaceSpec(), states=0.0, ways="")
    spec = training.spec
    decide = (spec.fusion_method, spec.kept_deltas, spec.has_aligned, spec.mask_granularity, spec.mask_rescale)
    key = repr((plain, decide, spec.mask_estimator, spec.mask_noise, spec.mask))
    if key not in _known:
        _known[key] = step_memory(training)
    return _known[key]


def alone(training: Training) -> Memory:
    """Peak of a training in one process."""
    step = step_of(training)
    return _whole(_kept(training, step), step)


def per_process(training: Training, way: Way, processes: int) -> Memory:
    """Peak of one of several processes that train together; each has a batch of its own."""
    step = step_of(training)
    kept, shared = _kept(training, step), dict[str, int]()
    half = training.precision in ("bf16", "fp16")
    match way:
        case "one process":
            return _whole(kept, step)
        case "DDP":
            return _whole(kept | {"gradient buckets": step.trained}, step)
        case "FSDP2":
            if training.precision == "fp16" and training.model.dtype.itemsize == 2 and training.quantised is None:
                kept["base weights"] *= 2  # accelerate holds it in fp32
            shared = {"gathered layers": 2 * step.block + step.root}
        case "ZeRO-2" | "ZeRO-3":
            if half:  # DeepSpeed casts the whole module, and keeps an fp32 copy of what it trains
                kept = {kind: size if kind in ("base weights", STATES) else size // 2 for kind, size in kept.items()}
                kept["fp32 copy of what is trained"] = step.trained
            shared = {"communication bucket": BUCKET * (2 if half else 4)}
            if way == "ZeRO-3":
                shared["gathered layers"] = 2 * step.block
    sharded = set(kept) if way != "ZeRO-2" else {STATES, "fp32 copy of what is trained"}
    kept = {kind: -(-size // processes) if kind in sharded else size for kind, size in kept.items()}
    found = _whole(kept | shared, step)
    if GRADIENTS in found.parts:
        found.parts[GRADIENTS] //= processes
    return found


def _kept(training: Training, step: StepMemory) -> dict[str, int]:
    """What is held throughout, by kind."""
    kept = dict(step.kept)
    if training.reference == "model":
        kept["reference model"] = step.kept["base weights"] if training.kind != "full" else _stored(training)
    kept[STATES] = round(training.states * step.trained)
    if step.dequantised:
        kept["one weight widened"] = step.dequantised
    return {kind: size for kind, size in kept.items() if size}


def _stored(training: Training) -> int:
    return training.model.parameters * training.model.dtype.itemsize


def _whole(kept: dict[str, int], step: StepMemory) -> Memory:
    """The largest of a step that computes the reference, one that remembers it, and an evaluation."""
    totals = {name: sum(kept.values()) + sum(parts.values()) for name, parts in step.peaks.items()}
    highest = max(totals, key=lambda name: totals[name])
    return Memory(kept | step.peaks[highest], f"{highest}, {step.moments[highest]}", totals)
