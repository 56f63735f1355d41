"""LLaMA-Factory's options that determine the cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from realign_plugin.lab.estimate.options import bits, ways

GROUP = {"weights": {"num_bits": 4, "type": "int"}, "input_activations": {"num_bits": 8}}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, 4),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": GROUP}}, 4),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}, 4),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, 8),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, 4),
        ({"quant_method": "quanto", "weights": "int4"}, 4),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_quant_type": "fp4"}, 8),
    ],
)
def test_bits_of_a_base_that_is_stored_quantised(stored: dict[str, Any], expected: int) -> None:
    assumed: list[str] = []
    model: Any = SimpleNamespace(config=SimpleNamespace(quantization_config=stored))
    assert bits({}, model, assumed) == expected + 0.5
    assert assumed == [f"the base model is stored in {expected} bits and stays so"]


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_what_llama_factory_dequantises_is_counted_whole(method: str) -> None:
    assumed: list[str] = []
    model: Any = SimpleNamespace(config=SimpleNamespace(quantization_config={"quant_method": method}))
    assert bits({}, model, assumed) is None
    assert assumed == [f"LLaMA-Factory dequantises the base model ({method}) when it loads it"]


def test_a_deepspeed_file_that_is_missing_is_told() -> None:
    assumed: list[str] = []
    assert ways({"deepspeed": "gone.json"}, assumed) == ""
    assert assumed == ["deepspeed: gone.json is not there, so that what it shards is not known: no sharding"]
    assert ways({"deepspeed": '{"zero_optimization": {"stage": 2}}'}, assumed) == "zero2"
    assert len(assumed) == 1
