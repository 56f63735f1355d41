"""Bad input to ``safety_subspace``: one line, before anything is written; and merges that are killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace, UserError
from tests.conftest import make_fine_tuned, make_llama, make_tokenizer, with_random_logits
from tests.merging.conftest import Merge, configuration, state_of


@pytest.fixture
def whole(yard: Path, tmp_path: Path) -> Path:
    home = yard / "fp32"
    return with_random_logits(SafetySubspace.from_models(home / "base", [home / "full1"])).save(tmp_path / "whole")


def refused(merge: Merge, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        merge(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mask": "hard"}, "mask: 'hard' is unknown, expected one of soft, binary, sampled, relaxed"),
        ({"mask": [{"filter": "mlp", "value": "bin"}, {"value": "soft"}]}, "mask: 'bin' is unknown"),
        (
            {"mask": ["soft", "binary"]},
            "mask: ['soft', 'binary'] is a list, which mergekit would spread over the layers",
        ),
        ({"seed": [1, 2]}, "seed: [1, 2] is a list"),
        ({"threshold": 0.0}, "threshold: 0.0 is out of range"),
        ({"strength": 2.5}, "strength: 2.5 is out of range, expected [0, 2]"),
        ({"strength": [0.0, 3.0]}, "strength: 3.0 is out of range"),
        ({"strengh": 1.0}, "'strengh' is unknown, expected one of"),
        ({"strength": "much"}, "strength: 'much', expected a number"),
        ({"strength": []}, "strength: [] is a list"),
        ({"seed": 1.5}, "seed: 1.5, expected a whole number"),
        ({"check_base": "maybe"}, "check_base: 'maybe', expected true or false"),
    ],
)
def test_parameters(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, parameters: dict[str, Any], message: str
) -> None:
    refused(merge, tmp_path, configuration(yard / "fp32", adapter, **parameters), message)


def test_adapters_that_cannot_be_used(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    home = yard / "fp32"
    refused(merge, tmp_path, configuration(home, tmp_path / "nowhere"), "adapter: ")
    refused(merge, tmp_path, configuration(home, home / "task1"), "has peft_type 'LORA', expected 'SAFETY_SUBSPACE'")
    config = configuration(home, adapter)
    config["parameters"]["adapter"] = 5
    refused(merge, tmp_path, config, "adapter: 5, expected a path")
    config["parameters"]["adapter"] = [str(adapter), str(adapter)]
    refused(merge, tmp_path, config, "is a list, which mergekit would spread over the layers, expected one value")
    del config["parameters"]["adapter"]
    refused(merge, tmp_path, config, "adapter: is not set, expected the folder of a trained safety subspace")
    del config["base_model"]
    refused(merge, tmp_path, config, "base_model: is not set")
    file = adapter / "adapter_model.safetensors"
    state = load_file(file)
    name = next(key for key in state if "logits_B" in key)
    save_file({k: v for k, v in state.items() if k != name}, file)
    refused(merge, tmp_path, configuration(home, adapter), f"lacks {name}")
    file.write_bytes(file.read_bytes()[:-40])
    refused(merge, tmp_path, configuration(home, adapter), "is corrupt")


def test_a_tensor_that_is_not_finite_is_named(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    state = load_file(file)
    name = next(key for key in state if "deltas_A" in key)
    state[name][0, 0, 0] = float("nan")
    save_file(state, file)
    refused(merge, tmp_path, configuration(yard / "fp32", adapter), f"{name} in {file} holds NaN")


def test_space_and_models_that_do_not_belong_together(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, whole: Path
) -> None:
    home = yard / "fp32"
    refused(
        merge, tmp_path, configuration(home, adapter, home / "full1"), "is in LoRA space and needs no model but the"
    )
    refused(
        merge, tmp_path, configuration(home, whole), "models: 0 besides the base, expected the 1 fine-tuned models"
    )
    refused(merge, tmp_path, configuration(home, whole, home / "full1", home / "full2"), "models: 2 besides the base")
    lora = configuration(home, adapter)
    lora["base_model"] = f"{home / 'base'}+{home / 'task1'}"
    lora["models"] = [{"model": lora["base_model"]}]
    refused(merge, tmp_path, lora, "holds a LoRA adapter, expected a plain model")


def test_models_of_another_shape(yard: Path, merge: Merge, tmp_path: Path, adapter: Path, whole: Path) -> None:
    home = yard / "fp32"
    for name, options, message in (
        ("wide", {"hidden": 48}, "q_proj has shape (48, 48)"),
        ("short", {"layers": 1}, "lacks model.layers.1.self_attn.q_proj.weight"),
    ):
        make_llama(tmp_path / name / "base", **options)
        make_tokenizer(tmp_path / name / "base")
        refused(merge, tmp_path, configuration(tmp_path / name, adapter), message)
    refused(merge, tmp_path, configuration(home, whole, tmp_path / "short" / "base"), "num_hidden_layers is 1 in")
    refused(merge, tmp_path, configuration(tmp_path / "gone", adapter), "base_model: ")


def test_slices_that_move_layers(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    """Masks go by the layer's number: rearranged layers would get each other's."""
    home = yard / "fp32"
    config = configuration(home, adapter)
    del config["models"]
    ranges = ([1, 2], [0, 1])
    config["slices"] = [{"sources": [{"model": str(home / "base"), "layer_range": part}]} for part in ranges]
    refused(merge, tmp_path, config, "slices: layers 1 to 2 of")
    config["slices"].reverse()
    plain = merge(configuration(home, adapter), tmp_path / "plain")
    sliced = merge(config, tmp_path / "sliced")
    assert all(torch.equal(sliced[name], plain[name]) for name in plain)
    config["slices"][1]["parameters"] = {"strength": 0.0}
    half, none = merge(config, tmp_path / "half"), merge(configuration(home, adapter, strength=0.0), tmp_path / "none")
    assert any(not torch.equal(none[name], plain[name]) for name in plain if "layers.1." in name)
    for name in plain:
        assert torch.equal(half[name], (none if "layers.1." in name else plain)[name])


@pytest.mark.parametrize(("name", "value"), [("strength", 0.0), ("threshold", 0.9), ("seed", 3), ("adapter", "x")])
def test_what_mergekit_does_not_read_under_a_model(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, name: str, value: Any
) -> None:
    config = configuration(yard / "fp32", adapter)
    config["models"] = [{"model": config["base_model"], "parameters": {name: value}}]
    refused(merge, tmp_path, config, f"{name}: is given under {config['base_model']}, where mergekit does not read it")


def edited(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a model with a change made to its tensors."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    state = state_of(source)
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_tensors_of_the_models(yard: Path, merge: Merge, tmp_path: Path, whole: Path, adapter: Path) -> None:
    home, target = yard / "fp32", "model.layers.1.mlp.up_proj.weight"
    lost = edited(home / "full1", tmp_path / "lost", lambda state: state.pop("model.norm.weight"))
    refused(merge, tmp_path, configuration(home, whole, lost), "lost lacks model.norm.weight")
    broken = edited(home / "full1", tmp_path / "nan", lambda state: state[target][0].fill_(float("nan")))
    for fusion in ("task_arithmetic", "ties", "dare"):
        built = SafetySubspace.from_models(home / "base", [home / "full1"], fusion_method=fusion)
        config = configuration(home, built.save(tmp_path / fusion), broken)
        refused(merge, tmp_path, config, f"models: {target} of {broken} holds NaN")
    coarse = edited(home / "base", tmp_path / "coarse" / "base", lambda s: s.update(
        {"model.layers.0.self_attn.q_proj.weight": s["model.layers.0.self_attn.q_proj.weight"].to(torch.float8_e4m3fn)}
    ))  # fmt: skip
    refused(merge, tmp_path, configuration(coarse.parent, adapter), "is stored as F8_E4M3, expected fp32, fp16 or")


def test_numbers_that_do_not_fit_the_output(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    home, target = yard / "fp32", "model.layers.0.self_attn.q_proj.weight"
    large = edited(home / "base", tmp_path / "large" / "base", lambda state: state[target].fill_(1e30))
    config = configuration(large.parent, adapter, check_base=False)
    refused(merge, tmp_path, config | {"out_dtype": "float16"}, f"{target}: merging gives numbers that float16 cannot")
    assert torch.isfinite(merge(config)[target]).all()


def test_the_models_of_the_training_in_another_order(yard: Path, merge: Merge, tmp_path: Path) -> None:
    home = yard / "fp32"
    one, two = home / "full1", home / "full2"
    trained = SafetySubspace.from_models(home / "base", [one, two], task_weight=[0.2, 0.8])
    folder = trained.save(tmp_path / "two")
    refused(merge, tmp_path, configuration(home, folder, two, one), f"are in another order than when {folder} was")
    assert merge(configuration(home, folder, one, two))


def test_what_no_mask_is_for_stays_the_bases_with_a_warning(
    yard: Path, merge: Merge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, target = yard / "fp32", "model.layers.1.mlp.up_proj"
    moved = state_of(home / "full1")[f"{target}.weight"]
    frozen = edited(home / "base", tmp_path / "frozen", lambda state: state.update({f"{target}.weight": moved}))
    trained = SafetySubspace.from_models(home / "base", [frozen])
    assert list(trained.logits) == [target]
    folder = trained.save(tmp_path / "subspace")
    merge(configuration(home, folder, frozen), tmp_path / "own")
    assert "has no mask for" not in caplog.text
    merged = merge(configuration(home, folder, home / "full1"), tmp_path / "other")
    assert f"full1 changed 13 modules that {folder} has no mask for (model.layers.0.mlp.down_proj, …)" in caplog.text
    base = state_of(home / "base")
    assert [name for name in base if not torch.equal(merged[name], base[name])] == [f"{target}.weight"]


def test_modules_that_mergekit_does_not_write(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realign_plugin.merging import weights

    monkeypatch.setattr(weights, "module_of", lambda tensor, modules: None)
    refused(
        merge, tmp_path, configuration(yard / "fp32", adapter), "adapter: mergekit writes no weight for its module"
    )


def test_another_base_is_told_by_its_weights(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    other = tmp_path / "other"
    make_fine_tuned(yard / "fp32" / "base", other / "base", seed=77)
    refused(merge, tmp_path, configuration(other, adapter), "is not the model that")
    assert merge(configuration(other, adapter, check_base=False))
    shutil.copytree(yard / "fp32" / "base", tmp_path / "copy" / "base")
    assert merge(configuration(tmp_path / "copy", adapter), tmp_path / "again")


def test_no_room_on_the_disk(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(merge, tmp_path, configuration(yard / "fp32", adapter), "GiB are free, the merged model needs")


@pytest.mark.cli
def test_the_stock_command(yard: Path, tmp_path: Path, adapter: Path, run_stock: Callable[..., Any]) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(configuration(yard / "fp32", adapter, mask="hard")))
    result = run_stock("mergekit-yaml", tmp_path / "x.yaml", tmp_path / "merged")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: mask: 'hard' is unknown")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(configuration(yard / "fp32", adapter, mask="binary")))
    result = run_stock("mergekit-yaml", tmp_path / "x.yaml", tmp_path / "merged")
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "merged" / "tokenizer_config.json").is_file()
    assert "safety_subspace" in (tmp_path / "merged" / "README.md").read_text()
    result = run_stock("mergekit-yaml", tmp_path / "x.yaml", tmp_path / "off", env={"REALIGN_PLUGIN": "0"})
    assert result.returncode != 0
    assert "Unimplemented merge method safety_subspace" in result.stderr


@pytest.mark.cli
def test_a_merge_that_is_killed(yard: Path, tmp_path: Path, adapter: Path) -> None:
    """A real kill, in the middle of writing; then the same command again."""
    import signal
    import subprocess
    import sys
    import time

    (tmp_path / "x.yaml").write_text(yaml.safe_dump(configuration(yard / "fp32", adapter)))
    slow = (
        "import time, sys\n"
        "from realign_plugin import SafetySubspace\n"
        "stock = SafetySubspace.effective_module\n"
        "def slow(self, *a, **k):\n"
        "    time.sleep(1)\n"
        "    return stock(self, *a, **k)\n"
        "SafetySubspace.effective_module = slow\n"
        "from mergekit.scripts.run_yaml import main\n"
        f"main([{str(tmp_path / 'x.yaml')!r}, {str(tmp_path / 'merged')!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".realign-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".realign-*"))
    assert not (tmp_path / "merged").exists()
    from mergekit.scripts.run_yaml import main

    main([str(tmp_path / "x.yaml"), str(tmp_path / "merged")], standalone_mode=False)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == "llama"
    assert not list(tmp_path.glob(".*"))
