"""Subspaces of whole weights, built lazily."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.checkpoints import Checkpoint
from realign_plugin.subspace.tensor_files import LazyFactors
from tests import reference
from tests.conftest import with_random_logits

TARGET = "q_proj,v_proj"
WEIGHTS = {"task_arithmetic": [0.3, 0.6], "average": [1.0, 0.8], "ties": [0.4, 0.7], "dare": [0.3, 0.6]}


@pytest.mark.parametrize("mask", ["soft", "binary", "sampled", "relaxed"])
@pytest.mark.parametrize("granularity", ["element", "row", "column", "module"])
@pytest.mark.parametrize("fusion", list(WEIGHTS))
def test_effective_against_float64(lab: Path, models: list[Path], fusion: str, granularity: str, mask: str) -> None:
    rescale = granularity != "module"
    subspace = with_random_logits(
        SafetySubspace.from_models(
            lab / "base",
            models[:2],
            target="q_proj",
            fusion_method=fusion,
            task_weight=WEIGHTS[fusion],
            mask_granularity=granularity,
            mask_rescale=rescale,
        )
    )
    base, tasks = Checkpoint(lab / "base", "m"), [Checkpoint(path, "m") for path in models[:2]]
    effective = subspace.effective(mask, 0.4, 7)
    assert list(effective) == [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    for module, pair in effective.items():
        safe = base.tensor(f"{module}.weight")
        expected = reference.effective(
            subspace.logits[module]["W"],
            safe,
            [task.tensor(f"{module}.weight") for task in tasks],
            kind=mask,
            name=f"{module}.W",
            fusion=fusion,
            weights=WEIGHTS[fusion],
            threshold=0.4,
            seed=7,
            rescale=rescale,
        )
        assert np.abs(pair["W"].double().numpy() - (expected - safe.double().numpy())).max() <= 1e-6


def test_defaults_and_provenance(lab: Path, models: list[Path]) -> None:
    subspace = SafetySubspace.from_models(lab / "base", models[:1], target=TARGET)
    spec = subspace.spec
    assert (spec.vector_space, spec.mask_granularity, spec.has_aligned) == ("weight", "row", False)
    assert subspace.logits["model.layers.0.self_attn.q_proj"]["W"].shape == (32, 1)
    assert set(spec.base_sha256) == {"architecture", "config", "weights", "weights_fp16"}
    assert spec.sources[0]["name"] == "full1"
    assert len(spec.sources[0]["sha256"]) == 64


def test_checkpoints_are_read_one_module_at_a_time(
    lab: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    stock = Checkpoint.tensor

    def counted(self: Checkpoint, name: str) -> torch.Tensor:
        read.append(name)
        return stock(self, name)

    monkeypatch.setattr(Checkpoint, "tensor", counted)
    subspace = SafetySubspace.from_models(lab / "base", models[:2], target=TARGET, fusion_method="ties")
    assert not read  # the first rows tell that a module moved
    subspace.stacked_deltas("model.layers.1.self_attn.v_proj")
    assert read == ["model.layers.1.self_attn.v_proj.weight"] * 3


def test_a_saved_subspace_is_the_same_lazily_or_not(lab: Path, models: list[Path], tmp_path: Path) -> None:
    subspace = with_random_logits(SafetySubspace.from_models(lab / "base", models[:2], target=TARGET, task_weight=0.5))
    subspace.save(tmp_path)
    for lazy in (False, True):
        again = SafetySubspace.load(tmp_path, lazy=lazy)
        assert isinstance(again.deltas[0], LazyFactors) == lazy
        for module, pair in subspace.effective().items():
            assert torch.equal(again.effective_module(module)["W"], pair["W"])
    half = again.effective_module(module, strength=0.5)["W"]
    assert torch.allclose(half, 0.5 * pair["W"], atol=1e-7)


def test_modules_that_no_model_changed_are_left_out(lab: Path, models: list[Path], tmp_path: Path) -> None:
    base = load_file(lab / "base" / "model.safetensors")
    changes: list[dict[str, torch.Tensor]] = [
        {"model.layers.1.self_attn.q_proj.weight": torch.eye(32)},
        {"model.layers.0.self_attn.v_proj.weight": torch.eye(16, 32).flip(0) * 1e-3},
    ]
    # The last element alone, far behind the first rows, is a change too.
    late = base["model.layers.1.mlp.up_proj.weight"].clone()
    late[-1, -1] += 0.5
    changes[1]["model.layers.1.mlp.up_proj.weight"] = late
    for number, change in enumerate(changes):
        shutil.copytree(lab / "base", tmp_path / f"frozen{number}")
        save_file(base | change, tmp_path / f"frozen{number}" / "model.safetensors", metadata={"format": "pt"})
    tasks = [tmp_path / "frozen0", tmp_path / "frozen1"]
    both = SafetySubspace.from_models(lab / "base", tasks)
    expected = {name.removesuffix(".weight") for change in changes for name in change}
    assert set(both.logits) == set(both.spec.target_modules or []) == expected
    every = SafetySubspace.from_models(lab / "base", models[:1])
    assert not every.unchanged
    assert set(both.unchanged) == set(every.logits) - expected
    assert f"3 modules ({len(every.logits) - 3} unchanged ones left out)" in repr(both)
    assert list(SafetySubspace.from_models(lab / "base", tasks[:1]).logits) == ["model.layers.1.self_attn.q_proj"]
    with pytest.raises(UserError, match=r"task_models\[1\]: .*frozen1 equals the base"):
        SafetySubspace.from_models(lab / "base", tasks, target="q_proj")


def test_models_that_do_not_fit(lab: Path, models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"equals the base .* in every target module \(the task vector is 0\)"):
        SafetySubspace.from_models(lab / "base", [lab / "base"])
    other = tmp_path / "other"
    shutil.copytree(models[0], other)
    state = load_file(other / "model.safetensors")
    name = "model.layers.1.self_attn.v_proj.weight"
    save_file(state | {name: torch.zeros(8, 32)}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"task_models\[1\]: .*v_proj has shape \(8, 32\) .* \(16, 32\) in the base"):
        SafetySubspace.from_models(lab / "base", [models[0], other])
    save_file(
        state | {name: torch.full((16, 32), float("inf"))}, other / "model.safetensors", metadata={"format": "pt"}
    )
    subspace = SafetySubspace.from_models(lab / "base", [models[0], other])
    with pytest.raises(UserError, match=rf"task_models\[1\]: {name} .* NaN or infinite"):
        subspace.stacked_deltas("model.layers.1.self_attn.v_proj")
    (other / "config.json").write_text(
        (other / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(UserError, match=r"task_models\[0\]: num_hidden_layers is 3 .* 2 in the base"):
        SafetySubspace.from_models(lab / "base", [other])


def test_whole_weights_are_no_lora(lab: Path, models: list[Path], tmp_path: Path) -> None:
    subspace = SafetySubspace.from_models(lab / "base", models[:1], target=TARGET)
    with pytest.raises(UserError, match=r"export: a subspace on whole weights is not a LoRA adapter"):
        subspace.to_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_a_weight_of_one_row_has_no_mask_of_rows(lab: Path, models: list[Path], tmp_path: Path) -> None:
    """As a gate between experts has."""
    name = "model.layers.0.mlp.shared_expert_gate.weight"
    folders = []
    for number, folder in enumerate((lab / "base", models[0])):
        folders.append(Path(shutil.copytree(folder, tmp_path / str(number))))
        state = load_file(folder / "model.safetensors") | {name: torch.full((1, 32), float(number))}
        save_file(state, folders[-1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"cancel out for W of .*gate, shape \(1, 32\) .* leave the module out of"):
        SafetySubspace.from_models(folders[0], folders[1:])
    SafetySubspace.from_models(folders[0], folders[1:], mask_granularity="element")
    SafetySubspace.from_models(folders[0], folders[1:], mask_rescale=False)
