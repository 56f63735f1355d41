"""Devices without float64, such as Apple's MPS, as fake tensors."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from realign_plugin.method.choices import MASK_KINDS
from realign_plugin.method.draws import Draw, masked_add
from realign_plugin.method.fusion import ties_select
from realign_plugin.method.masks import binary_mask, inference_mask
from realign_plugin.method.statistics import entropy_bits, mask_statistics
from realign_plugin.tuner.kept import fingerprint


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64 on a device, as MPS does."""

    def __init__(self, device: str = "mps") -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == self.device and leaf.dtype == torch.float64:
                raise TypeError(f"{func}: float64 is not supported")
        return found


@pytest.fixture
def logits() -> Any:
    """Logits on a fake device that does not support float64."""
    with FakeTensorMode(), WithoutFloat64():
        yield torch.zeros(3, 5, device="mps")


def test_the_device_is_the_one_that_is_meant(logits: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="float64 is not supported"):
        logits.double()


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks_for_inference(logits: torch.Tensor, kind: Any) -> None:
    assert inference_mask(logits, kind).device == logits.device


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fingerprints(dtype: torch.dtype) -> None:
    """On torch's meta device: fake tensors of MPS take part in fewer operations."""
    with WithoutFloat64("meta"):
        tensor = torch.zeros(3, 5, dtype=dtype, device="meta")
        assert fingerprint([tensor, tensor[1:]]).is_meta


def test_statistics(logits: torch.Tensor) -> None:
    spec = SimpleNamespace(factors=("A",))
    layer = SimpleNamespace(specs={"default": spec}, parts=lambda *_: (logits, None, [logits]))
    with pytest.raises(DataDependentOutputException):  # at its last step: a fake tensor has no numbers
        mask_statistics(SimpleNamespace(layers=lambda: [layer]))


@pytest.mark.parametrize("estimator", ["relaxed", "straight_through"])
def test_training(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = functools.partial(torch.full, fill_value=0.5, device="meta")
    monkeypatch.setattr("realign_plugin.method.masks.uniform_noise", lambda shape, *_: uniform(shape))
    with torch.device("meta"), WithoutFloat64("meta"):
        alpha, deltas, draw = torch.zeros(3, 5, requires_grad=True), torch.ones(2, 3, 5), Draw(0, estimator=estimator)
        select = functools.partial(ties_select, weights=[1.0, 1.0], density=1.0)
        masked_add(None, deltas[0], alpha, draw).sum().backward()
        masked_add(None, deltas, alpha, draw, select=select).sum().backward()
    assert alpha.grad is not None


def test_results_elsewhere_are_what_they_were() -> None:
    logits = 8 * torch.randn(400, 33, generator=torch.Generator().manual_seed(0))
    probability = torch.sigmoid(logits)
    for threshold in (0.1, 0.5, float(torch.sigmoid(logits[0, 0].double())), 1 - 1e-6):
        assert torch.equal(binary_mask(logits, threshold), (torch.sigmoid(logits.double()) >= threshold).float())
    p = probability.double()
    nats = torch.special.entr(p) + torch.special.entr(1.0 - p)
    assert torch.equal(entropy_bits(probability), nats / torch.log(torch.tensor(2.0, dtype=torch.float64)))
