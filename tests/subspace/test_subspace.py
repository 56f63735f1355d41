"""``SafetySubspace``: effective factors against float64, saving, loading, exporting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tests.reference as reference
from realign_plugin import SafetySubspace, UserError, attach_subspace
from realign_plugin.method.choices import FUSION_METHODS, GRANULARITIES, MASK_KINDS
from realign_plugin.subspace.lora_adapters import read_lora
from realign_plugin.subspace.task_vectors import task_weights
from tests.conftest import make_lora, with_random_logits

WEIGHTS = [0.4, 0.9, 0.3]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("fusion", FUSION_METHODS)
@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("with_aligned", [True, False])
def test_effective_is_the_method_in_float64(
    lab: Path, granularity: str, fusion: str, kind: str, with_aligned: bool
) -> None:
    aligned = lab / "aligned" if with_aligned else None
    names = ["task1", "task2", "task3"]
    subspace = with_random_logits(
        SafetySubspace.from_adapters(
            aligned,
            [lab / name for name in names],
            task_weight=WEIGHTS,
            fusion_method=fusion,
            mask_granularity=granularity,
            mask_rescale=granularity != "module",
            fusion_seed=5,
        )
    )
    found = subspace.effective(kind, threshold=0.6, seed=9)
    safe = read_lora(lab / "aligned", "").factors if with_aligned else None
    tasks = [read_lora(lab / name, "").factors for name in names]
    for module, pair in found.items():
        for factor, tensor in pair.items():
            expected = reference.effective(
                subspace.logits[module][factor],
                safe[module][factor] if safe else None,
                [task[module][factor] for task in tasks],
                kind=kind,
                name=f"{module}.{factor}",
                fusion=fusion,
                weights=WEIGHTS,
                fusion_seed=5,
                threshold=0.6,
                seed=9,
                rescale=granularity != "module",
            )
            error = np.abs(tensor.double().numpy() - expected).max() / max(1.0, np.abs(expected).max())
            assert error <= 1e-6, (module, factor, error)


def test_saving_and_loading_keeps_every_bit(subspace: Any, tmp_path: Path) -> None:
    subspace.spec.mask, subspace.spec.mask_seed = "sampled", 4
    subspace.save(tmp_path / "s")
    again = SafetySubspace.load(tmp_path / "s")
    assert vars(again.spec) == vars(subspace.spec)
    assert again.base_model == subspace.base_model
    for name, tensor in subspace.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_two_loads_agree_on_every_mask(subspace: Any, tmp_path: Path, kind: str) -> None:
    subspace.save(tmp_path)
    torch.manual_seed(1)
    first = SafetySubspace.load(tmp_path).effective(kind, seed=3)
    torch.manual_seed(2)
    second = SafetySubspace.load(tmp_path).effective(kind, seed=3)
    assert all(torch.equal(first[m][f], second[m][f]) for m in first for f in "AB")


def test_ties_keeps_each_task_and_linear_fusions_keep_one(lab: Path, tmp_path: Path) -> None:
    tasks = [lab / "task1", lab / "task2"]
    for fusion, kept in (("ties", 2), ("task_arithmetic", 1), ("average", 1), ("dare", 1)):
        subspace = SafetySubspace.from_adapters(lab / "aligned", tasks, fusion_method=fusion)
        assert len(subspace.deltas) == kept
        assert len(SafetySubspace.load(subspace.save(tmp_path / fusion)).deltas) == kept


def test_provenance_names_no_path_of_the_training_machine(lab: Path, subspace: Any, tmp_path: Path) -> None:
    import hashlib

    subspace.base_model = None
    text = (subspace.save(tmp_path) / "adapter_config.json").read_text()
    assert str(lab) not in text
    sources = json.loads(text)["sources"]
    assert [s["role"] for s in sources] == ["aligned", "task", "task"]
    weights = (lab / "task1" / "adapter_model.safetensors").read_bytes()
    assert sources[1] == {
        "role": "task", "name": "task1", "sha256": hashlib.sha256(weights).hexdigest(), "weight": 0.3,
    }  # fmt: skip
    assert json.loads(text)["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in text


def test_bf16_sources_stay_bf16(lab: Path, tmp_path: Path) -> None:
    for name in ("aligned", "task1"):
        source = load_file(lab / name / "adapter_model.safetensors")
        (tmp_path / name).mkdir()
        save_file({k: v.bfloat16() for k, v in source.items()}, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text((lab / name / "adapter_config.json").read_text())
    subspace = SafetySubspace.from_adapters(tmp_path / "aligned", [tmp_path / "task1"])
    state = load_file(subspace.save(tmp_path / "s") / "adapter_model.safetensors")
    dtypes = {name.rsplit("safety_subspace_")[1].split("_")[0]: tensor.dtype for name, tensor in state.items()}
    assert dtypes == {"logits": torch.float32, "aligned": torch.bfloat16, "deltas": torch.bfloat16}


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5}}]
)
def test_exported_lora_holds_the_effective_factors(lab: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    make_lora(lab / "base", tmp_path / "a", **options)
    make_lora(lab / "base", tmp_path / "t", start=tmp_path / "a", seed=4)
    subspace = with_random_logits(SafetySubspace.from_adapters(tmp_path / "a", [tmp_path / "t"]))
    exported = read_lora(subspace.to_lora(tmp_path / "out", mask="binary"), "out")
    names = {f"base_model.model.{module}.lora_{f}.weight" for module in subspace.logits for f in "AB"}
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").keys() == names  # PEFT's, and all that vLLM reads
    for module, pair in subspace.effective("binary").items():
        assert all(torch.equal(exported.factors[module][f], pair[f]) for f in "AB")
        scaling = subspace.spec.scaling(module)
        rank = exported.ranks[module]
        assert scaling == pytest.approx(exported.alphas[module] / (rank**0.5 if options.get("use_rslora") else rank))
    assert exported.config.target_modules == read_lora(tmp_path / "t", "").config.target_modules


def test_all_ones_is_the_fine_tuned_adapter(lab: Path) -> None:
    subspace = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"], mask_init=20.0)
    task = read_lora(lab / "task1", "").factors
    for module, pair in subspace.effective("binary").items():
        assert all(torch.allclose(pair[f], task[module][f], atol=1e-7) for f in "AB")


@pytest.mark.parametrize(
    ("given", "tasks", "method", "expected"),
    [
        (None, 1, "task_arithmetic", [1.0]),
        (None, 2, "ties", [0.4, 0.4]),
        (0.5, 3, "dare", [0.5] * 3),
        ("0.5", 2, "dare", [0.5] * 2),
        ([0.1, 0.2], 2, "average", [0.1, 0.2]),
    ],
)
def test_task_weights(given: Any, tasks: int, method: str, expected: list[float]) -> None:
    assert task_weights(given, tasks, method) == expected


def test_weights_of_the_wrong_length_are_refused(lab: Path) -> None:
    with pytest.raises(UserError, match=r"task_weight: \[0.1, 0.2, 0.3\] has 3 numbers for 2 task adapters"):
        SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"], task_weight=[0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="task_weight: 'much' is not a finite number"):
        SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"], task_weight="much")  # type: ignore[arg-type]


def test_a_task_equal_to_the_aligned_adapter_is_refused(lab: Path) -> None:
    with pytest.raises(UserError, match=r"task_adapters\[0\]: .* equals aligned_adapter .*task vector is 0"):
        SafetySubspace.from_adapters(lab / "aligned", [lab / "aligned"])


def test_an_untrained_task_adapter_is_refused(lab: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(lab / "base")
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="changes nothing"):
        SafetySubspace.from_adapters(None, [tmp_path])


def test_module_granularity_with_rescaling_is_refused(lab: Path) -> None:
    with pytest.raises(UserError, match="mask_rescale: false"):
        SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"], mask_granularity="module")


def test_a_missing_tensor_is_named(subspace: Any, tmp_path: Path) -> None:
    file = subspace.save(tmp_path) / "adapter_model.safetensors"
    state = load_file(file)
    lost = next(name for name in state if "deltas_B" in name)
    save_file({k: v for k, v in state.items() if k != lost}, file)
    with pytest.raises(UserError, match=r"lacks .*deltas_B"):
        SafetySubspace.load(tmp_path)


def test_files_of_different_runs_are_refused(lab: Path, tmp_path: Path) -> None:
    tasks = [lab / "task1", lab / "task2"]
    SafetySubspace.from_adapters(lab / "aligned", tasks).save(tmp_path / "a")
    SafetySubspace.from_adapters(lab / "aligned", tasks, fusion_method="ties").save(tmp_path / "b")
    (tmp_path / "b" / "adapter_config.json").replace(tmp_path / "a" / "adapter_config.json")
    with pytest.raises(UserError, match="belong to different runs"):
        SafetySubspace.load(tmp_path / "a")


def test_a_lora_adapter_is_no_subspace(lab: Path) -> None:
    with pytest.raises(UserError, match="peft_type 'LORA', expected 'SAFETY_SUBSPACE'"):
        SafetySubspace.load(lab / "aligned")


def test_unknown_mask_and_threshold_are_refused(subspace: Any) -> None:
    with pytest.raises(UserError, match=r"mask: 'sofd' is unknown.*did you mean 'soft'"):
        subspace.effective("sofd")
    with pytest.raises(UserError, match=r"mask_threshold: 1\.5 is out of range"):
        subspace.effective("binary", threshold=1.5)


def test_a_save_that_fails_leaves_the_old_subspace(
    subspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subspace.save(tmp_path / "s")
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("realign_plugin.subspace.subspace.save_file", full)
    with pytest.raises(UserError, match=r"s: cannot be written \(No space left on device\)"):
        subspace.save(tmp_path / "s")
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_an_output_head_that_peft_saved_with_the_base_weight(lab: Path, tmp_path: Path, base_model: Any) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = {"r": 4, "target_modules": ["q_proj", "lm_head"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    lora = get_peft_model(AutoModelForCausalLM.from_pretrained(lab / "base"), LoraConfig(**settings))
    lora.save_pretrained(tmp_path / "task", save_embedding_layers=False)
    subspace = with_random_logits(SafetySubspace.from_adapters(None, [tmp_path / "task"]))
    attach_subspace(base_model, subspace).save_pretrained(tmp_path / "s")
    names = load_file(tmp_path / "s" / "adapter_model.safetensors")
    assert "base_model.model.lm_head.base_layer.weight" in names
    loaded = SafetySubspace.load(tmp_path / "s")
    assert list(loaded.logits) == list(subspace.logits)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), tmp_path / "s")
    assert torch.equal(again.get_base_model().lm_head.weight, lora.get_base_model().lm_head.weight)
