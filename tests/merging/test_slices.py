"""Slices and modules: the same models in every part, and every layer in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import SafetySubspace, UserError
from tests.conftest import with_random_logits
from tests.merging.conftest import Merge

RANGES = ([0, 1], [1, 2])


def in_slices(method: str, base: Path, *sources: list[dict[str, Any]], **parameters: Any) -> dict[str, Any]:
    """A configuration whose slices, of a layer each, have these sources."""
    slices = [
        {"sources": [source | {"layer_range": part} for source in listed]}
        for part, listed in zip(RANGES, sources, strict=True)
    ]
    return {"merge_method": method, "base_model": str(base), "slices": slices, "parameters": parameters}


def models(*paths: Path, **roles: Path) -> list[dict[str, Any]]:
    plain = [{"model": str(path)} for path in paths]
    return plain + [{"model": str(path), "parameters": {"role": role}} for role, path in roles.items()]


def refused(merge: Merge, config: dict[str, Any], message: str, out: Path) -> None:
    with pytest.raises(UserError) as caught:
        merge(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_every_slice_lists_the_same_models(yard: Path, merge: Merge, tmp_path: Path) -> None:
    home, out = yard / "fp32", tmp_path / "merged"
    base, one, two = (home / name for name in ("base", "full1", "full2"))
    trained = SafetySubspace.from_models(base, [one, two], task_weight=[0.2, 0.8])
    adapter = str(with_random_logits(trained).save(tmp_path / "whole"))
    whole = models(base, one, two)

    def subspace(second: list[dict[str, Any]]) -> dict[str, Any]:
        return in_slices("safety_subspace", base, whole, second, adapter=adapter)

    other = f"slices[1]: besides the base it has {two}, {one}, slices[0] has {one}, {two}, expected the same models"
    refused(merge, subspace(models(base, two, one)), other, out)
    refused(merge, subspace(models(base, one)), f"slices[1]: besides the base it has {one}, slices[0] has", out)
    refused(merge, subspace(models(one, two)), f"slices[1]: lacks the base model {base}", out)
    refused(merge, subspace([]), f"slices[1]: lacks the base model {base}", out)
    refused(merge, subspace(models(base, one, one)), f"slices[1]: {one} is listed twice", out)
    moved = subspace(whole)
    moved["slices"][1]["base_model"] = str(two)
    refused(merge, moved, f"slices[1]: its base_model is {two}, expected that of the merge, {base}", out)
    moved["slices"][1]["base_model"] = str(base)
    parted = merge(moved, tmp_path / "parted")
    plain = {key: value for key, value in moved.items() if key != "slices"} | {"models": models(one, base, two)}
    assert all(torch.equal(parted[name], tensor) for name, tensor in merge(plain).items())


def test_every_slice_has_the_same_roles(yard: Path, merge: Merge, tmp_path: Path) -> None:
    home, out = yard / "fp32", tmp_path / "merged"
    base, one, two = (home / name for name in ("base", "full1", "full2"))
    whole = models(base, unaligned=one, fine_tuned=two)
    lacking = in_slices("safe_lora", base, whole, models(base, unaligned=one))
    refused(merge, lacking, f"slices[1]: besides the base it has {one} (unaligned), slices[0] has", out)
    swapped = in_slices("safe_lora", base, whole, models(base, fine_tuned=one, unaligned=two))
    refused(merge, swapped, f"slices[1]: besides the base it has {one} (fine_tuned), {two} (unaligned), ", out)


@pytest.mark.parametrize("first", [True, False])
def test_an_adapter_is_that_of_the_whole_model(yard: Path, merge: Merge, tmp_path: Path, first: bool) -> None:
    home, out = yard / "fp32", tmp_path / "merged"
    adapters = {"aligned_adapter": str(home / "aligned"), "task_adapter": str(home / "task1")}
    base = models(home / "base")
    for method, given in (("safe_lora", adapters), ("safety_subspace", {"adapter": "x"}),
                          ("safety_subspace", {"check_base": False})):  # fmt: skip
        config = in_slices(method, home / "base", base, base)
        config["slices"][0 if first else 1]["parameters"] = given
        refused(merge, config, f"{next(iter(given))}: {next(iter(given.values()))} is given for a part", out)
    config = {"merge_method": "safe_lora", "base_model": str(home / "base")}
    config["modules"] = {"default": {"models": base, "parameters": adapters}}
    refused(merge, config, f"aligned_adapter: {home / 'aligned'} is given for a part of the model", out)


def test_layers_that_there_are_not(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    base, out = yard / "fp32" / "base", tmp_path / "merged"
    config = in_slices("safety_subspace", base, models(base), models(base), adapter=str(adapter))
    for part, message in (
        ([1, 5], f"slices: the layer_range of {base} is [1, 5], expected layers up to 2"),
        ([1, 1], f"slices: the layer_range of {base} is [1, 1], expected the same layers of every model, at least"),
    ):
        config["slices"][1]["sources"][0]["layer_range"] = part
        refused(merge, config, message, out)
    two = in_slices("safe_lora", base, *[models(base, unaligned=yard / "fp32" / "full1")] * 2)
    two["parameters"] = {"task_adapter": str(yard / "fp32" / "task1")}
    two["slices"][0]["sources"][1]["layer_range"] = [0, 2]
    refused(merge, two, "is [0, 2], expected the same layers of every model", out)


def test_modules_that_would_be_left_out() -> None:
    from mergekit.architecture import arch_info_for_config
    from mergekit.config import MergeConfiguration
    from transformers import Gemma3Config

    from realign_plugin.merging.slices import check_parts

    settings = Gemma3Config(architectures=["Gemma3ForConditionalGeneration"], text_config={"num_hidden_layers": 2})
    architecture = arch_info_for_config(settings)
    assert architecture is not None
    known = list(architecture.modules)
    assert len(known) > 1

    def check(**parts: Any) -> None:
        given = MergeConfiguration(merge_method="safety_subspace", base_model="x", **parts)
        check_parts(given, architecture, settings)

    of_one = {"models": [{"model": "x"}]}
    check(modules=dict.fromkeys(known, of_one))
    with pytest.raises(UserError, match=f"modules: {', '.join(known[1:])}, expected {', '.join(known)}, since"):
        check(modules=dict.fromkeys(known[1:], of_one))
    with pytest.raises(UserError, match="modules: "):
        check(modules=dict.fromkeys([*known, "ear"], of_one))
    slices = [{"sources": [{"model": "x", "layer_range": [0, 3]}]}]
    with pytest.raises(UserError, match="slices: the model has the modules"):
        check(slices=slices)
    with pytest.raises(UserError, match=r"the layer_range of x is \[0, 3\], expected layers up to 2"):
        check(modules=dict.fromkeys(known, of_one) | {"text_decoder": {"slices": slices}})
