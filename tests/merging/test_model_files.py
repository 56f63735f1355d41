"""The files of a merge's models: weights that are quantised or tied, and files that hosts read differently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace, UserError
from tests.conftest import make_fine_tuned, make_lora
from tests.merging.conftest import Merge, configuration, state_of

State = dict[str, torch.Tensor]


def edited(source: Path, folder: Path, change: Callable[[str, torch.Tensor], State]) -> Path:
    """A copy of a model, each of whose tensors became what ``change`` makes of it."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    state = {key: value for name, tensor in state_of(source).items() for key, value in change(name, tensor).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def fp8(name: str, tensor: torch.Tensor) -> State:
    if "mlp" not in name:
        return {name: tensor}
    scale = tensor.abs().max() / 448
    return {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale.view(1, 1)}


def nf4(name: str, tensor: torch.Tensor) -> State:
    return {name: torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8) if "_proj" in name else tensor}


def gptq(name: str, tensor: torch.Tensor) -> State:
    if "_proj" not in name:
        return {name: tensor}
    return {name.replace("weight", "qweight"): torch.zeros(4, 32, dtype=torch.int32)}


def mxfp4(name: str, tensor: torch.Tensor) -> State:
    if "mlp" not in name:
        return {name: tensor}
    return {name.replace(".weight", "_blocks"): torch.zeros(4, 32, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("change", "tensor", "stored"),
    [
        (fp8, "mlp.down_proj.weight", "F8_E4M3"),
        (nf4, "mlp.down_proj.weight", "U8"),
        (gptq, "mlp.down_proj.qweight", "I32"),
        (mxfp4, "mlp.down_proj_blocks", "U8"),
    ],
)
def test_quantised_weights_wherever_they_are(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, change: Any, tensor: str, stored: str
) -> None:
    """The adapter is of attention alone; mergekit would copy packed numbers and leave out their scales."""
    home = yard / "fp32"
    base = edited(home / "base", tmp_path / "quantised" / "base", change)
    message = rf"{tensor} in {base} is stored as {stored}, expected fp32, fp16 or bf16; give the .* before quantis"
    for check_base in (True, False):
        with pytest.raises(UserError, match=rf"^base_model: model\.layers\.\d\.{message}"):
            merge(configuration(base.parent, adapter, check_base=check_base))
    tuned = {"model": str(base), "parameters": {"role": "fine_tuned"}}
    unaligned = {"model": str(home / "full1"), "parameters": {"role": "unaligned"}}
    config = {"merge_method": "safe_lora", "base_model": str(home / "base"), "models": [unaligned, tuned]}
    with pytest.raises(UserError, match=rf"^models \(.*\): model\.layers\.\d\.{message}"):
        merge(config)
    assert not (tmp_path / "merged").exists()


def test_integers_that_are_no_weights_may_stay(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    """Masks and positions, as GPT-NeoX and vision towers of earlier versions have them."""
    home = yard / "fp32"

    def with_buffers(name: str, tensor: torch.Tensor) -> State:
        extra = {"model.bias": torch.ones(4, dtype=torch.uint8), "model.position_ids": torch.arange(4)}
        return {name: tensor} | (extra if name == "model.norm.weight" else {})

    base = edited(home / "base", tmp_path / "buffers" / "base", with_buffers)
    assert merge(configuration(base.parent, adapter))


def test_a_quantised_model_of_the_training_is_called_so(yard: Path, tmp_path: Path) -> None:
    home = yard / "fp32"
    packed = edited(home / "full1", tmp_path / "nf4", nf4)
    with pytest.raises(UserError, match=r"^task_models\[0\]: .* is stored as U8, expected fp32, fp16 or bf16"):
        SafetySubspace.from_models(home / "base", [packed])
    with pytest.raises(UserError, match=r"^model_name_or_path: .* is stored as U8, expected fp32, fp16 or bf16"):
        SafetySubspace.from_models(packed, [make_fine_tuned(home / "base", tmp_path / "tuned", seed=5)])


def test_files_that_mergekit_and_transformers_read_unlike(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path
) -> None:
    """mergekit prefers an index, transformers the one file."""
    base = edited(yard / "fp32" / "base", tmp_path / "copy" / "base", lambda name, tensor: {name: tensor})
    config = configuration(base.parent, adapter)
    save_file({"layers.0.attention.wq.weight": torch.ones(4, 4)}, base / "consolidated.safetensors")
    expected = merge(config, tmp_path / "plain")
    assert expected.keys() == state_of(yard / "fp32" / "base").keys()
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(expected, "model.safetensors")}))
    again = merge(config, tmp_path / "indexed")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.items())
    index.write_text(json.dumps({"weight_map": dict.fromkeys(expected, "model-00001-of-00002.safetensors")}))
    with pytest.raises(
        UserError, match=rf"^base_model: {base} holds model.safetensors, which transformers reads, and"
    ):
        merge(config)
    index.unlink()
    (base / "model.safetensors").rename(base / "weights.safetensors")
    with pytest.raises(
        UserError, match=r"^base_model: .* holds neither model.safetensors nor model.safetensors.index"
    ):
        merge(config)
    assert not (tmp_path / "merged").exists()


def test_an_output_head_that_is_the_embedding(yard: Path, merge: Merge, tmp_path: Path) -> None:
    home = yard / "fp32"
    root = tmp_path / "tied"
    base = edited(home / "base", root / "base", lambda name, t: {} if name == "lm_head.weight" else {name: t})
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    aligned = make_lora(home / "base", tmp_path / "aligned", target_modules=["q_proj", "lm_head"])
    task = make_lora(home / "base", tmp_path / "task", target_modules=["q_proj", "lm_head"], seed=2)
    for folder in (aligned, task):  # PEFT adds the head itself
        file = folder / "adapter_model.safetensors"
        factors = {name: tensor for name, tensor in load_file(file).items() if ".lora_" in name}
        save_file(factors, file, metadata={"format": "pt"})
    adapter = SafetySubspace.from_adapters(aligned, [task]).save(tmp_path / "adapter")
    message = "lm_head is tied to the embedding in .*, expected a base with an output head of its own; untie it and"
    with pytest.raises(UserError, match=f"^adapter: {message}"):
        merge(configuration(root, adapter))
    given = {"aligned_adapter": str(aligned), "task_adapter": str(task)}
    models = [{"model": str(base)}]
    with pytest.raises(UserError, match=f"^aligned_adapter: {message}"):
        merge({"merge_method": "safe_lora", "base_model": str(base), "models": models, "parameters": given})
    assert not (tmp_path / "merged").exists()
