"""The baselines on architectures whose weights are not all matrices ``[out, in]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from realign_plugin import UserError
from tests.conftest import make_fine_tuned, make_tokenizer
from tests.merging.conftest import Merge, state_of

SIZES = {"vocab_size": 80, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
EXPERTS = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2}


def mixtral() -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(**SIZES, **EXPERTS)


def granite() -> Any:
    from transformers import GraniteMoeConfig

    return GraniteMoeConfig(**{key: SIZES[key] for key in SIZES if key != "head_dim"}, **EXPERTS)


def gpt_oss() -> Any:
    from transformers import GptOssConfig

    return GptOssConfig(**SIZES, **EXPERTS)


def made(config: Any, root: Path) -> dict[str, Any]:
    """A merge of an aligned model with the one before alignment and a fine-tuned one, all full checkpoints."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "before")
    make_tokenizer(root / "before")
    make_fine_tuned(root / "before", root / "base", seed=1)
    make_fine_tuned(root / "base", root / "tuned", seed=2)
    models = [
        {"model": str(root / name), "parameters": {"role": role}}
        for name, role in (("before", "unaligned"), ("tuned", "fine_tuned"))
    ]
    return {"merge_method": "safe_lora", "base_model": str(root / "base"), "models": models}


@pytest.mark.parametrize("make", [mixtral, granite, gpt_oss])
def test_experts_in_one_tensor(merge: Merge, tmp_path: Path, make: Any) -> None:
    config = made(make(), tmp_path)
    with pytest.raises(UserError, match=r"^models: model\.layers\..*holds the matrices of all experts, .* frozen exp"):
        merge(config)
    assert not (tmp_path / "merged").exists()


def test_frozen_experts(merge: Merge, tmp_path: Path) -> None:
    config = made(mixtral(), tmp_path)
    model, base = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("tuned", "base"))
    frozen = {name: tensor for name, tensor in base.state_dict().items() if ".experts." in name}
    assert frozen
    model.load_state_dict(model.state_dict() | frozen)
    model.save_pretrained(tmp_path / "tuned")
    merged = merge(config)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in frozen.items())
    name = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(merged[name], state_of(tmp_path / "base")[name])


@pytest.mark.parametrize("method", ["safe_lora", "safe_merge"])
def test_conv1d(merge: Merge, tmp_path: Path, method: str) -> None:
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=80, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=2)
    with pytest.raises(
        UserError, match=rf"^base_model: .* is a gpt2 model, .* linear modules, whose outputs {method}"
    ):
        merge(made(config, tmp_path) | {"merge_method": method})
