from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import UserError
from realign_plugin.lab.estimate.adapters import adapter_shapes, factor_shapes, matching
from realign_plugin.lab.estimate.shapes import model_shapes, numbers
from realign_plugin.subspace.lora_adapters import read_lora
from tests.conftest import make_lora


def test_shapes_are_those_of_the_loaded_model(lab: Path, base_model: Any) -> None:
    found = model_shapes(str(lab / "base"))
    assert found.parameters == sum(p.numel() for p in base_model.parameters())
    assert found.tensors == {name: tuple(p.shape) for name, p in base_model.named_parameters()}
    assert found.linears["model.layers.1.mlp.down_proj"] == (32, 48)
    assert found.outputs == {"lm_head"}
    assert found.dtype == torch.float32
    assert found.vocabulary == 80


def test_tied_weights_count_once(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    for tied in (True, False):
        LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied).save_pretrained(tmp_path / str(tied))
    one, two = (model_shapes(str(tmp_path / str(tied))).parameters for tied in (True, False))
    assert two - one == 64 * 16


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2", "Qwen3", "Gemma2", "Phi3"])
def test_other_architectures_need_no_table(kind: str, tmp_path: Path) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    found = model_shapes(str(tmp_path))
    assert matching(found, "all", "lora_target") == list(found.inner)
    assert all(name.startswith("model.layers.") for name in found.inner)


def test_an_adapter_has_the_shapes_of_its_file(lab: Path, tmp_path: Path) -> None:
    folder = make_lora(lab / "base", tmp_path / "l", r=3, target_modules=["q_proj", "down_proj"],
                       rank_pattern={"layers.1.self_attn.q_proj": 2})  # fmt: skip
    model = model_shapes(str(lab / "base"))
    found = adapter_shapes(folder, model, "task_adapters[0]")
    stored = read_lora(folder, "").factors
    assert factor_shapes(model, found.ranks) == {
        module: {factor: tuple(t.shape) for factor, t in pair.items()} for module, pair in stored.items()
    }
    assert found.dtype == torch.float32
    assert found.known


def test_all_and_patterns_are_read_as_peft_reads_them(lab: Path, tmp_path: Path) -> None:
    model = model_shapes(str(lab / "base"))
    config = json.loads((lab / "aligned" / "adapter_config.json").read_text())
    for targets, count in (("all-linear", 14), (r".*layers\.1\..*(q|k)_proj", 2)):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": targets}))
        found = adapter_shapes(folder, model, "x")
        assert len(found.ranks) == count
        assert not found.known


def test_numbers() -> None:
    assert numbers([(2, 3), (4,), ()]) == 11


def test_a_target_that_matches_nothing_names_the_nearest(llama: Path) -> None:
    with pytest.raises(
        UserError, match=r"lora_target: 'q_prj' is not a linear module .*did you mean 'q_proj'"
    ) as caught:
        matching(model_shapes(str(llama)), "v_proj,q_prj", "lora_target")
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_told(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "nothing-known"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for name, message in {
        "gpt2": "holds no torch.nn.Linear but Conv1D.*such as Llama",
        "odd": "an architecture that transformers does not know.*such as Llama",
        "broken": "cannot be read.*expected JSON",
        ".": "expected config.json; give the model's folder",
        "org/nowhere": "is not a folder and not in the hub's cache.*hf download",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            model_shapes(name if "/" in name else str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_an_adapter_of_other_parameters_is_refused(lab: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(lab / "task1", tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_parameters": ["mlp.experts.up"]}))
    with pytest.raises(
        UserError, match=r"task: .* adapts target_parameters \(mlp.experts.up\), expected linear modules"
    ):
        adapter_shapes(adapter, model_shapes(str(lab / "base")), "task")
