"""Merged weights against float64, against PEFT's own merge, and against the base where nothing was touched."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from realign_plugin.method.choices import FUSION_METHODS, MASK_KINDS
from tests import reference
from tests.conftest import make_llama, make_lora, make_tokenizer, with_random_logits
from tests.merging.conftest import Merge, configuration, state_of

WEIGHTS = [0.4, 0.7]
TARGET = "q_proj,v_proj,down_proj"


def build(home: Path, space: str, **options: Any) -> SafetySubspace:
    options = {"task_weight": WEIGHTS} | options
    if space == "lora":
        return with_random_logits(
            SafetySubspace.from_adapters(home / "aligned", [home / "task1", home / "task2"], **options)
        )
    return with_random_logits(
        SafetySubspace.from_models(home / "base", [home / "full1", home / "full2"], target=TARGET, **options)
    )


def models_of(home: Path, space: str) -> list[Path]:
    return [] if space == "lora" else [home / "full1", home / "full2"]


def exact(home: Path, subspace: SafetySubspace, module: str, kind: str, fusion: str) -> np.ndarray:
    """The merged weight in float64, from the sources on disk."""
    base = state_of(home / "base")[f"{module}.weight"]
    options = {"kind": kind, "fusion": fusion, "weights": WEIGHTS, "threshold": 0.5, "seed": 5}
    if subspace.spec.vector_space == "weight":
        tasks = [state_of(home / name)[f"{module}.weight"] for name in ("full1", "full2")]
        logits = subspace.logits[module]["W"]
        return reference.effective(logits, base, tasks, name=f"{module}.W", **options)
    factors = {}
    for factor in "AB":
        stem = f"base_model.model.{module}.lora_{factor}.weight"
        safe, *tasks = (
            load_file(home / name / "adapter_model.safetensors")[stem] for name in ("aligned", "task1", "task2")
        )
        logits = subspace.logits[module][factor]
        factors[factor] = reference.effective(logits, safe, tasks, name=f"{module}.{factor}", **options)
    return base.double().numpy() + 2.0 * factors["B"] @ factors["A"]


@pytest.mark.parametrize("space", ["lora", "weight"])
@pytest.mark.parametrize(("fusion", "kind"), itertools.product(FUSION_METHODS, MASK_KINDS))
def test_against_float64_and_against_peft(
    yard: Path, tmp_path: Path, merge: Merge, space: str, fusion: str, kind: str
) -> None:
    home = yard / "bf16"
    subspace = build(home, space, fusion_method=fusion, mask=kind, mask_seed=5)
    adapter = subspace.save(tmp_path / "s")
    merged = merge(configuration(home, adapter, *models_of(home, space)))
    model = AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.bfloat16)
    peft = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    base = state_of(home / "base")
    differ, count = 0, 0
    for name, tensor in merged.items():
        module, theirs = name.removesuffix(".weight"), peft.state_dict()[name]
        assert tensor.dtype == torch.bfloat16
        if module not in subspace.logits:
            assert torch.equal(tensor, base[name])
            assert torch.equal(theirs, base[name])
            continue
        expected = exact(home, subspace, module, kind, fusion)
        differ += int((tensor != torch.from_numpy(expected).bfloat16()).sum())
        count += tensor.numel()
        if space == "lora":
            assert torch.equal(tensor, theirs)
            continue
        # PEFT has no models, and the task vectors that were saved are rounded to the models' dtype.
        ulp = torch.ldexp(torch.ones(theirs.shape, dtype=torch.float64), torch.frexp(theirs.double()).exponent - 8)
        slack = 0.5 * ulp.numpy() + (2.0**-8 * np.abs(expected - base[name].double().numpy()) + 1e-7)
        assert (np.abs(theirs.double().numpy() - expected) <= slack).all()
    assert differ <= 1e-3 * count  # the sum in float64 rounded once; fp32 is half way between two numbers at times
    assert set(merged) == set(base)


@pytest.mark.parametrize("space", ["lora", "weight"])
def test_fp32_to_1e_6(yard: Path, tmp_path: Path, merge: Merge, space: str) -> None:
    home = yard / "fp32"
    subspace = build(home, space, mask="binary")
    merged = merge(configuration(home, subspace.save(tmp_path / "s"), *models_of(home, space)))
    for module in subspace.logits:
        found = merged[f"{module}.weight"].double().numpy()
        assert np.abs(found - exact(home, subspace, module, "binary", "task_arithmetic")).max() <= 2e-6


@pytest.mark.parametrize("space", ["lora", "weight"])
def test_the_hosts_own_export_gives_the_same_weights(yard: Path, tmp_path: Path, merge: Merge, space: str) -> None:
    export_model = pytest.importorskip("llamafactory.train.tuner").export_model
    home = yard / ("bf16" if space == "lora" else "fp32")  # saved task vectors are rounded to the models' dtype
    subspace = build(home, space, fusion_method="ties", mask="binary")
    adapter = subspace.save(tmp_path / "s")
    merged = merge(configuration(home, adapter, *models_of(home, space)))
    options = {
        "model_name_or_path": str(home / "base"),
        "adapter_name_or_path": str(adapter),
        "trust_remote_code": False,
    }
    export_model(options | {"export_dir": str(tmp_path / "exported")})
    exported = state_of(tmp_path / "exported")
    assert exported.keys() == merged.keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in exported.items())


def test_strength_is_a_dial_from_aligned_to_full(yard: Path, tmp_path: Path, merge: Merge) -> None:
    home = yard / "fp32"
    for space in ("lora", "weight"):
        subspace = build(home, space, mask="soft")
        adapter, models = subspace.save(tmp_path / space), models_of(home, space)
        outputs = [
            merge(configuration(home, adapter, *models, strength=s), tmp_path / f"{space}{s}") for s in (0, 0.5, 1, 2)
        ]
        base = state_of(home / "base")
        name = "model.layers.0.self_attn.q_proj.weight"
        if space == "weight":
            assert torch.equal(outputs[0][name], base[name])
            assert torch.allclose(outputs[1][name], (outputs[0][name] + outputs[2][name]) / 2, atol=1e-6)
            assert torch.allclose(outputs[3][name] - base[name], 2 * (outputs[2][name] - base[name]), atol=1e-6)
        else:
            aligned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "base"), home / "aligned")
            assert torch.allclose(outputs[0][name], aligned.merge_and_unload().state_dict()[name], atol=1e-6)
            assert not torch.equal(outputs[1][name], outputs[2][name])


def test_settings_by_filter_and_by_layer(yard: Path, tmp_path: Path, merge: Merge) -> None:
    home = yard / "fp32"
    subspace = build(home, "weight", mask="soft")
    adapter, models = subspace.save(tmp_path / "s"), models_of(home, "weight")
    plain = {
        kind: merge(configuration(home, adapter, *models, mask=kind), tmp_path / kind) for kind in ("soft", "binary")
    }
    mixed = merge(
        configuration(home, adapter, *models, mask=[{"filter": "mlp", "value": "binary"}, {"value": "soft"}]),
        tmp_path / "mixed",
    )
    for module in subspace.logits:
        name, kind = f"{module}.weight", "binary" if "mlp" in module else "soft"
        assert torch.equal(mixed[name], plain[kind][name])
    graded = merge(configuration(home, adapter, *models, strength=[0.0, 1.0]), tmp_path / "graded")
    base = state_of(home / "base")
    first, last = (f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1))
    assert torch.equal(graded[first], base[first])
    assert torch.equal(graded[last], plain["soft"][last])


def test_output_dtypes_and_shards(yard: Path, tmp_path: Path, merge: Merge) -> None:
    home = yard / "bf16"
    subspace = build(home, "lora", mask="binary")
    config = configuration(home, subspace.save(tmp_path / "s"))
    wide = merge(config | {"out_dtype": "float32"}, tmp_path / "wide")
    plain = merge(config, tmp_path / "plain", out_shard_size=4096)
    assert len(list((tmp_path / "plain").glob("*.safetensors"))) > 1
    for name, tensor in wide.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.bfloat16(), plain[name])  # one rounding, from the same fp32 numbers
    touched = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(wide[touched], plain[touched].float())
    narrow = merge(config | {"dtype": "float32", "out_dtype": "bfloat16"}, tmp_path / "narrow")
    assert all(torch.equal(narrow[name], plain[name]) for name in plain)


def test_tied_embeddings_stay_tied(tmp_path: Path, merge: Merge) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base")
    make_lora(tmp_path / "base", tmp_path / "task")
    subspace = with_random_logits(SafetySubspace.from_adapters(None, [tmp_path / "task"]))
    merged = merge(configuration(tmp_path, subspace.save(tmp_path / "s")))
    base = state_of(tmp_path / "base")
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    if "lm_head.weight" in merged:
        assert torch.equal(merged["lm_head.weight"], base["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_resized_vocabulary(yard: Path, tmp_path: Path, merge: Merge) -> None:
    """Fine-tuned models with more tokens: one line without, mergekit's own handling with ``tokenizer``."""
    from transformers import AutoTokenizer

    home = tmp_path
    make_llama(home / "base")
    make_tokenizer(home / "base")
    for number in (1, 2):
        model = AutoModelForCausalLM.from_pretrained(home / "base")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * number)
        tokenizer = AutoTokenizer.from_pretrained(home / "base")
        tokenizer.add_tokens(["brandnew"])
        model.resize_token_embeddings(81)
        model.save_pretrained(home / f"full{number}")
        tokenizer.save_pretrained(home / f"full{number}")
    subspace = build(home, "weight")
    config = configuration(home, subspace.save(home / "s"), *models_of(home, "weight"))
    with pytest.raises(UserError, match=r"has shape \(81, 32\), \(80, 32\) in the base .*tokenizer: {source: base}"):
        merge(config)
    assert not (tmp_path / "merged").exists()
    merged = merge(config | {"tokenizer": {"source": "base"}})
    module = next(iter(subspace.logits))
    expected = exact(home, subspace, module, "soft", "task_arithmetic")
    assert np.abs(merged[f"{module}.weight"].double().numpy() - expected).max() <= 2e-6


def test_names_inside_a_wrapper(yard: Path, tmp_path: Path, merge: Merge) -> None:
    home = yard / "fp32"
    subspace = build(home, "lora", mask="binary")
    plain = merge(configuration(home, subspace.save(tmp_path / "s")), tmp_path / "plain")
    file = tmp_path / "s" / "adapter_model.safetensors"
    inner, wrapper = "model.model.layers", "model.model.language_model.layers"
    save_file({name.replace(inner, wrapper): tensor for name, tensor in load_file(file).items()}, file)
    config = tmp_path / "s" / "adapter_config.json"
    config.write_text(config.read_text().replace("model.layers", "model.language_model.layers"))
    wrapped = merge(configuration(home, tmp_path / "s", check_base=False, mask="soft"), tmp_path / "wrapped")
    direct = merge(configuration(home, build(home, "lora").save(tmp_path / "t"), mask="soft"), tmp_path / "direct")
    assert all(torch.equal(wrapped[name], direct[name]) for name in direct)
    assert not all(torch.equal(wrapped[name], plain[name]) for name in plain)


@pytest.mark.parametrize("fusion", FUSION_METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_second_merge_in_one_process_is_the_first(
    yard: Path, tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch, fusion: str, precision: str
) -> None:
    """mergekit keeps the tensors of its models for the whole process: none is written to."""
    from mergekit.merge_methods.base import TensorGroup

    from realign_plugin.merging.safety_subspace import SafetySubspaceMerge

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    stock = SafetySubspaceMerge.merge_group

    def watched(self: Any, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        seen.extend((entry.tensor, entry.tensor.clone()) for entry in group.entries)
        found: torch.Tensor = stock(self, group, **parameters)
        return found

    monkeypatch.setattr(SafetySubspaceMerge, "merge_group", watched)
    home = yard / precision
    config = configuration(
        home, build(home, "weight", fusion_method=fusion).save(tmp_path / "s"), *models_of(home, "weight")
    )
    first, second = (merge(config, tmp_path / name) for name in ("first", "second"))
    assert len(seen) > 20
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if precision == "fp32":
        module = next(iter(SafetySubspace.load(tmp_path / "s").logits))
        expected = exact(home, SafetySubspace.load(tmp_path / "s"), module, "soft", fusion)
        assert np.abs(second[f"{module}.weight"].double().numpy() - expected).max() <= 2e-6
