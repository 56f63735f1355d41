"""Full checkpoints: read lazily, refused with one line, named where they are broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from realign_plugin import UserError
from realign_plugin.subspace.checkpoints import Checkpoint, linear_targets, weight_files

Q0 = "model.layers.0.self_attn.q_proj"


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    for name, tensor in tensors.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, file, metadata={"format": "pt"})


def with_index(folder: Path, content: object) -> None:
    """An index in place of the one file."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_shards_are_one_model(models: list[Path]) -> None:
    assert len(list(models[1].glob("*.safetensors"))) > 1
    whole, sharded = Checkpoint(models[0], "m"), Checkpoint(models[1], "m")
    assert sorted(whole.names) == sorted(sharded.names)
    assert whole.shape(f"{Q0}.weight") == (32, 32)
    assert whole.dtype(f"{Q0}.weight") == torch.float32
    assert torch.equal(whole.tensor(f"{Q0}.weight"), load_file(models[0] / "model.safetensors")[f"{Q0}.weight"])


def test_the_files_are_those_that_transformers_reads(lab: Path, models: list[Path], tmp_path: Path) -> None:
    folder = copy(models[1], tmp_path / "m")
    names = set(Checkpoint(folder, "m").names)
    save_file({"layers.0.attention.wq.weight": torch.ones(4, 4)}, folder / "consolidated.safetensors")
    assert set(Checkpoint(folder, "m").names) == names
    shutil.copy(lab / "base" / "model.safetensors", folder)  # saved again, in one file; the shards stay
    whole = load_file(lab / "base" / "model.safetensors")
    assert torch.equal(Checkpoint(folder, "m").tensor(f"{Q0}.weight"), whole[f"{Q0}.weight"])
    for shard in folder.glob("model-*"):
        shard.unlink()
    assert set(Checkpoint(folder, "m").names) == whole.keys()
    assert weight_files(folder, "m") == [folder / "model.safetensors"]


def test_wrappers_around_a_name_do_not_matter(models: list[Path]) -> None:
    checkpoint = Checkpoint(models[0], "m")
    assert checkpoint.find("model.language_model.layers.0.self_attn.q_proj.weight") == f"{Q0}.weight"
    assert checkpoint.find("model.layers.0.self_attn.x_proj.weight") is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f), "m: .* is not a folder, expected a model"),
        (lambda f: (f / "model.safetensors").unlink(), "expected \\*.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\\x08" * 40), "is corrupt"),
        (lambda f: with_index(f, {}), r"index.json is corrupt \(weight_map is None\)"),
        (lambda f: with_index(f, {"weight_map": {"a": 3}}), r"is corrupt \(weight_map is {'a': 3}\), expected names"),
        (lambda f: with_index(f, {"weight_map": {"a": "b", "c": ["d"]}}), "is corrupt .*, expected names of files"),
        (lambda f: with_index(f, {"weight_map": [1]}), "is corrupt .*, expected names of files by names of tensors"),
        (
            lambda f: with_index(f, {"weight_map": {"a": "b.safetensors"}}),
            "b.safetensors does not exist, model.safetensors.index.json names it",
        ),
    ],
)
def test_broken_folders(lab: Path, tmp_path: Path, spoil: object, message: str) -> None:
    folder = copy(lab / "base", tmp_path / "m")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as caught:
        Checkpoint(folder, "m")
    assert "\n" not in str(caught.value)


def test_an_adapter_is_no_model(lab: Path) -> None:
    with pytest.raises(UserError, match=r"is an adapter, expected a full model; give it as task_adapters"):
        Checkpoint(lab / "task1", "task_models[0]")


def test_bad_tensors_are_named(lab: Path, tmp_path: Path) -> None:
    folder = copy(lab / "base", tmp_path / "m")
    change(folder, **{f"{Q0}.weight": torch.full((32, 32), float("nan"))})
    with pytest.raises(UserError, match=rf"m: {Q0}.weight in .* holds NaN"):
        Checkpoint(folder, "m").tensor(f"{Q0}.weight")
    change(folder, **{f"{Q0}.weight": torch.zeros(32, 32, dtype=torch.int8)})
    with pytest.raises(UserError, match=r"stored as I8, expected fp32, fp16 or bf16"):
        Checkpoint(folder, "m").dtype(f"{Q0}.weight")
    change(folder, **{f"{Q0}.weight": None})
    with pytest.raises(UserError, match=rf"lacks {Q0}.weight"):
        Checkpoint(folder, "m").tensor(f"{Q0}.weight")


def test_targets(lab: Path) -> None:
    base = Checkpoint(lab / "base", "m")
    every = linear_targets(base, "all")
    assert len(every) == 2 * 7
    assert not [name for name in every if "norm" in name or "embed" in name or "lm_head" in name]
    assert linear_targets(base, "q_proj, v_proj") == [n for n in every if n.endswith(("q_proj", "v_proj"))]
    assert linear_targets(base, ["lm_head"]) == ["lm_head"]
    with pytest.raises(
        UserError, match=r"lora_target: x_proj names no linear module .* k_proj, .*; correct lora_target"
    ):
        linear_targets(base, "q_proj,x_proj")
