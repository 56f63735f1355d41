"""What a merge writes besides the weights: its mistakes are found before the merge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace
from tests.conftest import make_lora
from tests.merging.conftest import Merge, configuration
from tests.merging.test_checks import refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"out_dtype": "bf16"}, "out_dtype: 'bf16' is unknown, expected one of bfloat16, float16"),
        ({"out_dtype": "int64"}, "out_dtype: 'int64' is unknown"),
        ({"dtype": "torch.int64"}, "dtype: 'int64' is unknown"),
        ({"chat_template": "chatmll"}, "chat_template: 'chatmll' is unknown, expected one of auto, alpaca, chatml"),
        ({"chat_template": "a template without a single brace"}, "chat_template: 'a template"),
        ({"tokenizer": {"source": "./bsae"}}, "tokenizer: no tokenizer can be loaded from ./bsae (OSError)"),
        ({"tokenizer_source": "./bsae"}, "tokenizer: no tokenizer can be loaded from ./bsae (OSError)"),
        (
            {"tokenizer": {"source": "base", "tokens": {"<a>": {"source": "./bsae"}}}},
            "tokenizer: the token <a> comes from ./bsae, expected one of the models that are merged",
        ),
        (
            {"tokenizer": {"tokens": {"<a>": {"source": {"kind": "model_token", "model": "./bsae", "token": "b"}}}}},
            "tokenizer: the token <a> comes from ./bsae",
        ),
    ],
)
def test_mistakes(yard: Path, merge: Merge, tmp_path: Path, adapter: Path, keys: dict[str, Any], message: str) -> None:
    refused(merge, tmp_path, configuration(yard / "fp32", adapter) | keys, message)


@pytest.mark.parametrize(
    "keys",
    [
        {"dtype": "torch.bfloat16"},
        {"chat_template": "chatml"},
        {"chat_template": "auto"},
        {"chat_template": "{{ messages[0]['content'] }}", "tokenizer": {"source": "base"}},
    ],
)
def test_what_mergekit_takes(yard: Path, merge: Merge, adapter: Path, keys: dict[str, Any]) -> None:
    assert merge(configuration(yard / "fp32", adapter) | keys)


def test_a_model_without_a_tokenizer(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    """transformers makes an empty tokenizer of such a folder, and mergekit a model of a few tokens."""
    bare = tmp_path / "bare" / "base"
    shutil.copytree(yard / "fp32" / "base", bare, ignore=shutil.ignore_patterns("*token*"))
    config = configuration(bare.parent, adapter) | {"tokenizer": {"source": "base"}}
    refused(merge, tmp_path, config, f"base_model: no tokenizer can be loaded from {bare} (FileNotFoundError)")
    config = configuration(yard / "fp32", adapter) | {"tokenizer": {"source": str(bare)}}
    refused(merge, tmp_path, config, f"tokenizer: no tokenizer can be loaded from {bare}")


def test_an_adapter_of_the_vocabulary_with_a_tokenizer_setting(yard: Path, merge: Merge, tmp_path: Path) -> None:
    base, made = yard / "fp32" / "base", []
    for name, options in (("aligned", {}), ("task", {"start": tmp_path / "aligned", "seed": 9})):
        made.append(make_lora(base, tmp_path / name, **options, target_modules=["q_proj", "lm_head"]))
        file = made[-1] / "adapter_model.safetensors"
        save_file({key: part for key, part in load_file(file).items() if "base_layer" not in key}, file)
    whole = SafetySubspace.from_adapters(made[0], [made[1]]).save(tmp_path / "head")
    config = configuration(base.parent, whole)
    assert merge(config, tmp_path / "plain")
    config["tokenizer"] = {"source": "base"}
    refused(
        merge, tmp_path, config, "tokenizer: is set, which moves the rows of lm_head, expected none, since adapter"
    )
    config["merge_method"] = "safe_lora"
    config["parameters"] = {"aligned_adapter": str(made[0]), "task_adapter": str(made[1])}
    refused(merge, tmp_path, config, "moves the rows of lm_head, expected none, since aligned_adapter changes")
