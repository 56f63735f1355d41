"""Merges recognise the models of the training: copies of them, and subspaces saved by versions before this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from tests.conftest import make_fine_tuned, make_tokenizer
from tests.merging.conftest import Merge, configuration
from tests.subspace.test_fingerprints import legacy


@pytest.fixture
def home(yard: Path) -> Path:
    return yard / "fp32"


def resaved(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    AutoModelForCausalLM.from_pretrained(source, dtype=dtype).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def saved_before(folder: Path, base: Path, tasks: list[Path]) -> Path:
    """A saved subspace as earlier versions wrote it."""
    file = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    modules = config["target_modules"]
    del config["sampled_modules"]
    config["base_sha256"] = legacy(base, modules)
    for source, task in zip([one for one in config["sources"] if one["role"] == "task"], tasks, strict=True):
        del source["sha256_fp16"]
        source["sha256"] = legacy(task, modules)["weights"]
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_copy_of_the_base_in_another_dtype(
    home: Path, merge: Merge, tmp_path: Path, adapter: Path, dtype: torch.dtype
) -> None:
    copy = resaved(home / "base", tmp_path / "copy" / "base", dtype)
    merged = merge(configuration(copy.parent, adapter))
    assert {tensor.dtype for tensor in merged.values()} == {dtype}


def test_copies_of_the_tasks_keep_their_order(home: Path, merge: Merge, tmp_path: Path) -> None:
    folder = SafetySubspace.from_models(home / "base", [home / "full1", home / "full2"], task_weight=[0.2, 0.8]).save(
        tmp_path / "two"
    )
    one, two = (resaved(home / name, tmp_path / name, torch.float16) for name in ("full1", "full2"))
    with pytest.raises(UserError, match=rf"are in another order than when .*, expected {one}, {two}; list them so"):
        merge(configuration(home, folder, two, one))
    assert merge(configuration(home, folder, one, two))


def test_subspaces_saved_before(home: Path, merge: Merge, tmp_path: Path) -> None:
    """One file a model: the fingerprint is written out in ``legacy`` by itself, which reads no shards."""
    one, two = (make_fine_tuned(home / "base", tmp_path / f"full{n}", seed=30 + n) for n in (1, 2))
    built = SafetySubspace.from_models(home / "base", [one, two], task_weight=[0.2, 0.8])
    folder = saved_before(built.save(tmp_path / "two"), home / "base", [one, two])
    merged = merge(configuration(home, folder, one, two), tmp_path / "merged")
    new = merge(configuration(home, built.save(tmp_path / "new"), one, two), tmp_path / "again")
    assert all(torch.equal(tensor, new[name]) for name, tensor in merged.items())
    with pytest.raises(UserError, match="are in another order than when"):
        merge(configuration(home, folder, two, one), tmp_path / "swapped")
    make_fine_tuned(home / "base", tmp_path / "other" / "base", seed=77)
    with pytest.raises(UserError, match=r"is not the model that .* \(sha256 of its weights: "):
        merge(configuration(tmp_path / "other", folder, one, two), tmp_path / "wrong")


def test_a_lora_subspace_saved_before(home: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    current = merge(configuration(home, adapter), tmp_path / "current")
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    config.pop("sampled_modules")
    config["base_sha256"] = legacy(home / "base", config["target_modules"])
    file.write_text(json.dumps(config))
    merged = merge(configuration(home, adapter), tmp_path / "merged")
    assert all(torch.equal(tensor, current[name]) for name, tensor in merged.items())
    make_fine_tuned(home / "base", tmp_path / "other" / "base", seed=77)
    with pytest.raises(UserError, match=r"is not the model that .* \(sha256 of its weights: "):
        merge(configuration(tmp_path / "other", adapter), tmp_path / "wrong")


def test_a_mixture_of_experts(merge: Merge, tmp_path: Path) -> None:
    """The checkpoint's experts and router are matrices of their own; in the model they are no linear modules."""
    from transformers import MixtralConfig

    from realign_plugin import attach_subspace

    sizes = {"vocab_size": 80, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(MixtralConfig(**sizes, **heads)).save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base")
    one, two = (make_fine_tuned(tmp_path / "base", tmp_path / f"full{n}", seed=30 + n) for n in (1, 2))
    built = SafetySubspace.from_models(tmp_path / "base", [one, two], task_weight=[0.2, 0.8])
    with pytest.warns(UserWarning, match="are not a linear module of MixtralForCausalLM"):
        model = attach_subspace(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), built)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    assert len(SafetySubspace.load(folder).logits) < len(built.logits)
    assert merge(configuration(tmp_path, folder, one, two), tmp_path / "merged")
    with pytest.raises(UserError, match="are in another order than when"):
        merge(configuration(tmp_path, folder, two, one), tmp_path / "swapped")
    make_fine_tuned(tmp_path / "base", tmp_path / "other" / "base", seed=77)
    with pytest.raises(UserError, match=r"is not the model that .* \(sha256 of its weights: "):
        merge(configuration(tmp_path / "other", folder, one, two), tmp_path / "wrong")
