"""Batches whose rows have adapters of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from realign_plugin import SafetySubspace, UserError
from tests.conftest import logits_of, with_random_logits

NAMES = ["default", "__base__", "other", "default"]


def pair(base: Path, one: Any, two: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    peft_model = PeftModel.from_pretrained(model, one.save(folder / "one"))
    peft_model.load_adapter(two.save(folder / "two"), adapter_name="other")
    return peft_model.eval()


@pytest.fixture(params=["lora", "weight"])
def model(request: pytest.FixtureRequest, lab: Path, models: list[Path], tmp_path: Path) -> Any:
    if request.param == "lora":
        made = [SafetySubspace.from_adapters(lab / "aligned", [lab / f"task{n}"]) for n in (1, 2)]
    else:
        made = [SafetySubspace.from_models(lab / "base", [models[n]], target="q_proj") for n in (0, 2)]
    one, two = (with_random_logits(subspace, seed) for seed, subspace in enumerate(made))
    return pair(lab / "base", one, two, tmp_path)


def rows() -> torch.Tensor:
    return torch.randint(6, 60, (4, 9), generator=torch.Generator().manual_seed(8))


def mixed(model: Any, names: list[str]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=rows(), adapter_names=names).logits
    return found


def each_alone(model: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        found[name] = logits_of(model, rows())
    with model.disable_adapter():
        found["__base__"] = logits_of(model, rows())
    model.set_adapter("default")
    return found


def test_every_row_has_its_adapter(model: Any) -> None:
    alone = each_alone(model)
    found = mixed(model, NAMES)
    for number, name in enumerate(NAMES):
        assert (found[number] - alone[name][number]).abs().max() <= 1e-5
    assert (alone["default"] - alone["other"]).abs().max() > 1e-2
    assert (logits_of(model, rows()) - alone["default"]).abs().max() <= 1e-5  # nothing is left of the names


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True, "top_k": 1}])
def test_generation(model: Any, options: dict[str, Any]) -> None:
    common = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False} | options
    found = model.generate(input_ids=rows(), adapter_names=NAMES, **common)
    times = options.get("num_return_sequences", 1)
    for number, name in enumerate(NAMES):
        if name == "__base__":
            with model.disable_adapter():
                alone = model.generate(input_ids=rows()[[number]], **common)
        else:
            model.set_adapter(name)
            alone = model.generate(input_ids=rows()[[number]], **common)
        assert torch.equal(found[number * times : (number + 1) * times], alone)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["default", "other"], r"adapter_names: 2 names for a batch of 4, expected one for each row"),
        (["default", "othr", "other", "default"], r"adapter_names: 'othr' is unknown, expected one of .*other"),
    ],
)
def test_mistakes(model: Any, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mixed(model, names)


def test_merged_or_training(model: Any) -> None:
    with pytest.raises(UserError, match=r"adapter_names: given to a model in training mode"):
        mixed(model.train(), NAMES)
    model.eval().merge_adapter()
    with pytest.raises(UserError, match=r"adapter_names: default is merged into the weights of every row"):
        mixed(model, NAMES)


def test_a_row_is_rounded_as_a_batch_of_one_adapter_is(lab: Path, subspace: SafetySubspace, tmp_path: Path) -> None:
    other = SafetySubspace.from_adapters(lab / "aligned", [lab / "task3"])
    model = pair(lab / "base", subspace, other, tmp_path, torch.bfloat16)
    assert torch.equal(mixed(model, ["default"] * 4), logits_of(model, rows()))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True, "top_k": 1}])
def test_an_encoder_sees_each_row_once(tmp_path: Path, options: dict[str, Any]) -> None:
    def t5() -> Any:
        torch.manual_seed(0)
        sizes = {"vocab_size": 80, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
        return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, initializer_factor=3.0)).eval()

    for seed in (0, 1):
        lora = get_peft_model(t5(), LoraConfig(r=2, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"))
        torch.manual_seed(seed + 1)
        for layer in lora.modules():
            if hasattr(layer, "lora_B") and len(layer.lora_B):
                torch.nn.init.normal_(layer.lora_B["default"].weight)
        lora.save_pretrained(tmp_path / f"lora{seed}")
    one, two = (SafetySubspace.from_adapters(None, [tmp_path / f"lora{seed}"]) for seed in (0, 1))
    model = PeftModel.from_pretrained(t5(), one.save(tmp_path / "one"))
    model.load_adapter(two.save(tmp_path / "two"), adapter_name="other")
    common = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False} | options
    found = model.eval().generate(input_ids=rows(), adapter_names=["default", "other"] * 2, **common)
    times, outputs = options.get("num_return_sequences", 1), {}
    for name in ("default", "other"):
        model.set_adapter(name)
        outputs[name] = model.generate(input_ids=rows(), **common)
    assert not torch.equal(outputs["default"], outputs["other"])
    for number, name in enumerate(["default", "other"] * 2):
        part = slice(number * times, (number + 1) * times)
        assert torch.equal(found[part], outputs[name][part])
