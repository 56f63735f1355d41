"""What is one model, in which dtype and by which version it was saved, and what is another."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from realign_plugin.subspace.checkpoints import Checkpoint, linear_targets
from realign_plugin.subspace.fingerprints import differing, fingerprint, spread


def copy(source: Path, folder: Path, *dtypes: torch.dtype, **config: Any) -> Path:
    """A copy of a model, rounded to one dtype after the other; None removes a key of its ``config.json``."""
    shutil.copytree(source, folder)
    state = load_file(source / "model.safetensors")
    for dtype in dtypes:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    kept = json.loads((source / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    return folder


@pytest.fixture
def modules(lab: Path) -> list[str]:
    return linear_targets(Checkpoint(lab / "base", "m"), "all")


def legacy(folder: Path, modules: list[str]) -> dict[str, str]:
    """The fingerprint as versions before ``architecture`` made and saved it."""
    keys = (
        "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "num_local_experts", "num_experts",
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    weights, state = hashlib.sha256(), load_file(folder / "model.safetensors")
    for module in spread(modules, 8):
        weights.update(module.encode())
        weights.update(
            state[f"{module}.weight"].flatten()[:256].to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        )
    kept = json.dumps({key: config.get(key) for key in keys}, sort_keys=True)
    return {"config": hashlib.sha256(kept.encode()).hexdigest(), "weights": weights.hexdigest()}


@pytest.mark.parametrize("trained", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.bfloat16])
def test_a_copy_in_another_dtype_is_the_same_model(
    lab: Path, modules: list[str], tmp_path: Path, trained: torch.dtype, given: torch.dtype
) -> None:
    own = fingerprint(copy(lab / "base", tmp_path / "trained", trained), modules)
    start = lab / "base" if torch.float32 in (trained, given) or trained == given else tmp_path / "trained"
    found = fingerprint(copy(start, tmp_path / "given", given, dtype=str(given)), modules)
    assert differing(own, found) is differing(found, own) is None
    assert set(found) == {"architecture", "config", "weights", "weights_fp16"}
    if (trained, given) == (torch.float32, torch.float16):  # rounded twice: not what bf16 alone gives
        assert found["weights"] != own["weights"]


def test_another_model_is_another(lab: Path, models: list[Path], modules: list[str], tmp_path: Path) -> None:
    own = fingerprint(lab / "base", modules)
    other = fingerprint(models[0], modules)
    assert other["architecture"] == own["architecture"]
    assert differing(own, other) == "weights"
    assert differing(own, fingerprint(copy(models[0], tmp_path / "fp16", torch.float16), modules)) == "weights"
    deeper = fingerprint(copy(lab / "base", tmp_path / "deeper", num_hidden_layers=3), modules)
    assert differing(own, deeper) == "architecture"
    assert fingerprint("some/model-of-the-hub", modules) == {}
    assert fingerprint(None, modules) == {}
    assert differing(own, {}) is None


@pytest.mark.parametrize("key", ["head_dim", "tie_word_embeddings", "num_key_value_heads", "vocab_size"])
def test_keys_that_saving_fills_in_do_not_matter(lab: Path, modules: list[str], tmp_path: Path, key: str) -> None:
    """Configurations on the hub leave out what has a default; transformers writes it when the model is saved."""
    hub = copy(lab / "base", tmp_path / "hub", **{key: None})
    assert key in json.loads((lab / "base" / "config.json").read_text())
    assert differing(fingerprint(hub, modules), fingerprint(lab / "base", modules)) is None
    assert differing(legacy(hub, modules), fingerprint(lab / "base", modules)) is None


def test_fingerprints_that_were_saved_before(
    lab: Path, models: list[Path], modules: list[str], tmp_path: Path
) -> None:
    old = legacy(lab / "base", modules)
    assert old["weights"] == fingerprint(lab / "base", modules)["weights"]
    assert differing(old, fingerprint(lab / "base", modules)) is None
    assert differing(old, fingerprint(copy(lab / "base", tmp_path / "bf16", torch.bfloat16), modules)) is None
    assert differing(old, fingerprint(models[0], modules)) == "weights"
    quantised = {"config": old["config"]}  # no weights to compare
    assert differing(quantised, fingerprint(lab / "base", modules)) is None
    wider = fingerprint(copy(lab / "base", tmp_path / "wider", vocab_size=81), modules)
    assert differing(quantised, wider) == "config"


def test_a_quantised_model_has_no_sample(lab: Path, modules: list[str], tmp_path: Path) -> None:
    folder = copy(lab / "base", tmp_path / "fp8", torch.float8_e4m3fn)
    assert set(fingerprint(folder, modules)) == {"architecture", "config"}


def test_spread_keeps_the_ends() -> None:
    items = [str(n) for n in range(30)]
    chosen = spread(items, 8)
    assert chosen[0] == "0"
    assert chosen[-1] == "29"
    assert len(set(chosen)) == 8
    assert spread(items[:3], 8) == items[:3]
