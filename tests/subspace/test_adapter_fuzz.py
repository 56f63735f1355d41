"""Seeded mutations of adapter folders: each loads as PEFT would load it, or raises the project's one error."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.fusing import plain_fusion
from realign_plugin.subspace.transfer import transfer
from tests.conftest import with_random_logits

State = dict[str, torch.Tensor]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 1e308, float("nan"), "", "q_proj", "lora", "(", [], ["q_proj"], [1], [None], {},
    {"q_proj": 2}, {"a": "b"}, [[]], 10**30, "NaN", "relaxed", "element", "row", "float16", ".*", [0.3, 0.3], [0.3],
]  # fmt: skip
ODD_KEYS = ["use_new_lora", "init_lora_weights", "exclude_modules", "layers_to_transform", "use_dora", "ties_density"]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn]


def rename(state: State, rng: random.Random, change: Callable[[str], str]) -> None:
    for name in list(state) if rng.random() < 0.5 else [rng.choice(list(state))]:
        state[change(name)] = state.pop(name)


def values(state: State, rng: random.Random) -> None:
    name = rng.choice(list(state))
    flat = state[name].clone()
    flat.view(-1)[rng.randrange(flat.numel())] = rng.choice([float("nan"), float("inf"), 3e38, -3.4e38, 1e30, 0.0])
    state[name] = flat


def shape(state: State, rng: random.Random) -> None:
    name = rng.choice(list(state))
    tensor = state[name]
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: tensor.transpose(-1, -2),
        lambda: tensor[..., :-1],
        lambda: tensor[:1],
        lambda: tensor[:0],
        lambda: tensor.flatten(),
        lambda: tensor.unsqueeze(0),
        lambda: tensor.sum(),
        lambda: torch.cat([tensor, tensor]),
        lambda: torch.cat([tensor, tensor], dim=-1),
    ]
    state[name] = rng.choice(changes)().contiguous().clone()


def tensors(state: State, rng: random.Random) -> None:
    names = list(state)
    one, two = rng.choice(names), rng.choice(names)
    match rng.randrange(6):
        case 0:
            del state[one]
        case 1:
            state[one], state[two] = state[two].clone(), state[one].clone()
        case 2:
            state[one.replace("layers.0", "layers.7").replace("q_proj", "o_proj")] = state[one].clone()
        case 3:
            state[one] = state[one].to(rng.choice(DTYPES))
        case 4:
            for name in names:
                if name.rpartition(".lora_")[0] == one.rpartition(".lora_")[0]:
                    del state[name]
        case 5:
            state["base_model.model.lm_head.weight"] = torch.ones(2, 2)


RENAMINGS: list[Callable[[str], str]] = [
    lambda name: "_orig_mod." + name,
    lambda name: "module." + name,
    lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    lambda name: name.replace("base_model.model.", "base_model.model.base_model.model."),
    lambda name: name.replace("base_model.model.", ""),
    lambda name: name.replace(".weight", ".default.weight"),
    lambda name: name.replace("self_attn.", "self_attn._orig_mod."),
    lambda name: name.replace("_proj", "_prof"),
    lambda name: name.upper(),
    lambda name: name.replace("layers.0", "layers.00"),
]


def mutate(folder: Path, rng: random.Random) -> str:
    """Change one thing in a folder; says what."""
    weights, config = folder / WEIGHTS, folder / CONFIG
    kind = rng.choices(["config", "values", "shape", "tensors", "rename", "bytes", "files"], [8, 3, 4, 4, 3, 2, 1])[0]
    match kind:
        case "config":
            content = json.loads(config.read_text())
            key = rng.choice([*content, *ODD_KEYS])
            if rng.random() < 0.15:
                content.pop(key, None)
            else:
                content[key] = rng.choice(ODD_VALUES)
            config.write_text(json.dumps(content))
            return f"{key}: {content.get(key, 'deleted')!r}"
        case "bytes":
            file = rng.choice([weights, config])
            content = bytearray(file.read_bytes())
            if rng.random() < 0.3:
                content = content[: rng.randrange(len(content))]
            for _ in range(rng.randrange(4)):
                content[rng.randrange(min(len(content), 400)) if content else 0 :][:1] = bytes([rng.randrange(256)])
                if content:
                    content[rng.randrange(min(len(content), 400))] = rng.randrange(256)
            file.write_bytes(content)
        case "files":
            file = rng.choice([weights, config])
            file.unlink()
            if rng.random() < 0.5:
                file.mkdir()
        case _:
            state = load_file(weights)
            if kind == "rename":
                rename(state, rng, rng.choice(RENAMINGS))
            else:
                {"values": values, "shape": shape, "tensors": tensors}[kind](state, rng)
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    return kind


def lora_updates(model: Any) -> State:
    layers = {name: m for name, m in model.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    return {name: layer.get_delta_weight("default") for name, layer in layers.items()}


def check_lora(folder: Path, base: Any, out: Path) -> None:
    """What a fine-tuned adapter is fused to is what PEFT makes of the adapter itself, wherever PEFT takes it."""
    fused = plain_fusion(None, [folder]).to_lora(out)
    state = load_file(folder / WEIGHTS)
    try:
        theirs = lora_updates(PeftModel.from_pretrained(copy.deepcopy(base), folder))
    except Exception:  # a field that only training reads, or a shape that is not the model's: PEFT says so
        return
    ours = lora_updates(PeftModel.from_pretrained(copy.deepcopy(base), fused))
    if any("_orig_mod" in name or "default" in name or name.startswith("module.") for name in state):
        assert any(update.abs().max() > 0 for update in ours.values())  # PEFT itself would load nothing
        return
    for name in theirs.keys() | ours.keys():
        torch.testing.assert_close(ours[name], theirs[name].float(), atol=1e-2, rtol=1e-2, equal_nan=True)


def check_subspace(folder: Path, base: Any, out: Path, task: Path) -> None:
    """Whatever loads is loaded by PEFT alike, exported as finite numbers, and taken by transfer."""
    subspace = SafetySubspace.load(folder)
    exported = load_file(subspace.to_lora(out) / WEIGHTS)
    assert all(torch.isfinite(tensor).all() for tensor in exported.values())
    try:
        model = PeftModel.from_pretrained(copy.deepcopy(base), folder)
        layers = {layer.module_name: layer for layer in model.base_model.layers()}
        assert set(layers) == set(subspace.logits)
        for module, pair in subspace.effective().items():
            for factor, tensor in pair.items():
                torch.testing.assert_close(layers[module].effective("default", factor), tensor)
    finally:
        transfer(subspace, task)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_adapter_loads_rightly_or_is_refused(lab: Path, tmp_path: Path, base_model: Any, seed: int) -> None:
    rng = random.Random(seed)
    built = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"])
    with_random_logits(built).save(tmp_path / "subspace")
    refused = loaded = 0
    lines = []
    for number in range(80):
        folder = tmp_path / f"case{number}"
        ours = number % 2 == 0
        shutil.copytree(tmp_path / "subspace" if ours else lab / "task1", folder)
        what = mutate(folder, rng)
        try:
            if ours:
                check_subspace(folder, base_model, tmp_path / f"out{number}", lab / "task3")
            else:
                check_lora(folder, base_model, tmp_path / f"out{number}")
            loaded += 1
        except UserError as error:
            refused += 1
            lines.append(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {number} ({what}): {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert not [line for line in lines if "\n" in line]
    assert refused > 20
    assert loaded > 10
