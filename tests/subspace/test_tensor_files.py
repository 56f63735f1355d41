"""Safetensors files: read whole, refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from realign_plugin.errors import UserError
from realign_plugin.subspace.tensor_files import LazyFactors, all_finite, open_tensors, read_tensors, torch_dtype


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    written = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(written, file)
    read = read_tensors(file, "x")
    assert set(read) == set(written)
    assert all(torch.equal(read[name], written[name]) and read[name].dtype == written[name].dtype for name in read)
    assert open_tensors(file, "x").get_slice("a").get_shape() == [2, 3]


@pytest.mark.parametrize("size", [0, 4, 60])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    file = tmp_path / "t.safetensors"
    save_file({"a": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"^x: .*t.safetensors is corrupt .* expected a safetensors file"):
        read_tensors(file, "x")
    with pytest.raises(UserError, match="is corrupt"):
        open_tensors(tmp_path / "missing.safetensors", "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    file = tmp_path / "t.safetensors"
    save_file({"good": torch.ones(2), "bad": torch.tensor([1.0, value])}, file)
    with pytest.raises(UserError, match=r"^x: bad in .*t.safetensors holds NaN or infinite"):
        read_tensors(file, "x")


def test_lazy_factors_read_when_asked_and_keep_nothing() -> None:
    asked: list[str] = []

    def read(module: str) -> dict[str, torch.Tensor]:
        asked.append(module)
        return {"W": torch.zeros(1)}

    lazy = LazyFactors(["b", "a"], read)
    assert list(lazy) == ["b", "a"]
    assert len(lazy) == 2
    assert asked == []
    assert lazy["a"]["W"].item() == 0
    assert lazy["a"] is not lazy["a"]
    assert asked == ["a"] * 3
    with pytest.raises(KeyError):
        lazy["c"]


def test_dtype_names() -> None:
    assert torch_dtype("bf16") is torch.bfloat16
    with pytest.raises(UserError, match="dtype: 'int8' is unknown, expected one of fp32, fp16, bf16"):
        torch_dtype("int8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_that_overflows_is_no_sign_of_infinite_numbers(dtype: torch.dtype) -> None:
    big = torch.full((4,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(big)
    assert not all_finite(torch.cat([big, torch.tensor([float("inf"), float("-inf")], dtype=dtype)]))
    assert not all_finite(torch.tensor([float("nan")], dtype=dtype))
