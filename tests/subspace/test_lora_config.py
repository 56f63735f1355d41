"""What LoRA configurations mean: PEFT's own rules, and fields that change what the factors stand for."""

from __future__ import annotations

import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.lora_adapters import read_adapter_config, read_lora
from realign_plugin.subspace.lora_config import REFUSED_FIELDS, TRAINING_FIELDS, LoraConfig, parse_lora_config
from tests.subspace.test_lora_adapters import edited_config

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
NAMES = ["model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "model.layers.1.mlp.up_proj", "q_proj"]
TARGETS = st.one_of(
    st.lists(st.sampled_from(["q_proj", "self_attn.q_proj", "up_proj", "proj", *NAMES]), min_size=1, max_size=3),
    st.sampled_from([r".*\.1\..*", r"model\.layers\.\d+\.mlp\.up_proj", ".*q_proj"]),
)


@settings(max_examples=200, deadline=None)
@given(TARGETS, st.none() | TARGETS, st.sampled_from([None, 1, [1], [0, 11], []]), st.sampled_from([None, "layers"]))
def test_modules_are_matched_as_peft_matches_them(targets: Any, excluded: Any, numbers: Any, pattern: Any) -> None:
    values = {
        "target_modules": targets,
        "exclude_modules": excluded,
        "layers_to_transform": numbers,
        "layers_pattern": pattern,
    }
    ours = LoraConfig.model_validate(PLAIN | values)
    theirs = SimpleNamespace(**values, modules_to_save=None, target_parameters=None)
    for name in NAMES:
        assert ours.adapts(name) == bool(check_target_module_exists(theirs, name)), name


def test_patterns_are_matched_as_peft_matches_them() -> None:
    patterns = {"up_proj": 2, r"layers\.1\..*q_proj": 3, "q_proj": 5}
    config = LoraConfig.model_validate(PLAIN | {"rank_pattern": patterns, "alpha_pattern": {"up_proj": 16.0}})
    for name in NAMES:
        assert config.rank(name) == patterns.get(get_pattern_key(list(patterns), name), 4)
    assert config.alpha(NAMES[2]) == 16
    assert config.alpha(NAMES[0]) == 8


def test_every_field_of_peft_is_known() -> None:
    """A new field of PEFT has to be looked at: does it change what the file means?"""
    known = {*LoraConfig.model_fields, *TRAINING_FIELDS, *REFUSED_FIELDS}
    assert {field.name for field in fields(peft.LoraConfig)} <= known


def test_the_defaults_of_peft_are_accepted() -> None:
    config = peft.LoraConfig(target_modules=["q_proj"]).to_dict() | {"runtime_config": None}
    plain = {key: list(value) if isinstance(value, set) else value for key, value in config.items()}
    assert parse_lora_config(Path("x"), plain | {"peft_type": "LORA"}, "").r == 8
    for field in fields(peft.LoraConfig):
        if field.name in REFUSED_FIELDS and field.default is not MISSING:
            assert not field.default or field.default == "none"


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "unheard_of"])
def test_adapters_that_change_the_base_are_refused(start: str) -> None:
    with pytest.raises(
        UserError, match=f"initialised by '{start}', which changes the base.*pissa_converted"
    ) as caught:
        parse_lora_config(Path("x"), PLAIN | {"init_lora_weights": start}, "task_adapters[0]")
    assert str(caught.value).startswith("task_adapters[0]: ")


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_others_are_accepted(start: Any) -> None:
    assert parse_lora_config(Path("x"), PLAIN | {"init_lora_weights": start}, "").init_lora_weights == start


def test_the_folders_that_llamafactory_keeps_beside_a_pissa_adapter_are_refused(lab: Path, tmp_path: Path) -> None:
    for name in ("pissa_init", "pissa_backup"):
        shutil.copytree(lab / "task1", tmp_path / name)
        with pytest.raises(UserError, match="pissa_converted"):
            read_lora(tmp_path / name, "task_adapters[0]")


def test_a_pissa_adapter_is_what_peft_makes_of_it_only_after_conversion(lab: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(lab / "base"), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "raw")
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    tokens = torch.randint(6, 60, (2, 12))
    with torch.no_grad():
        trained = model(input_ids=tokens).logits
    with pytest.raises(UserError, match="initialised by 'pissa'"):
        SafetySubspace.from_adapters(None, [tmp_path / "raw"])
    subspace = SafetySubspace.from_adapters(None, [tmp_path / "converted"], mask_init=30.0)
    lora = subspace.to_lora(tmp_path / "lora", mask="binary")
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), lora)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=tokens).logits, trained, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
def test_fields_that_make_it_something_else_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"has {name}: .*expected plain LoRA.*; {REFUSED_FIELDS[name][:10]}"):
        parse_lora_config(Path("x"), PLAIN | {name: ["embed"]}, "")


def test_an_unknown_field_is_refused_unless_it_is_empty() -> None:
    for value in (None, False, {}, [], 0):
        parse_lora_config(Path("x"), PLAIN | {"use_next_years_lora": value}, "")
    with pytest.raises(UserError, match="use_next_years_lora: 'True', which is not a field of PEFT"):
        parse_lora_config(Path("x"), PLAIN | {"use_next_years_lora": True}, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_alpha", None),
        ("lora_alpha", "16"),
        ("lora_alpha", float("nan")),
        ("r", 0),
        ("r", "8"),
        ("r", True),
        ("r", 2.5),
        ("use_rslora", "yes"),
        ("rank_pattern", {"q_proj": -1}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"q_proj": None}),
        ("target_modules", [1]),
        ("target_modules", {"a": 1}),
        ("init_lora_weights", 3),
    ],
)
def test_values_of_the_wrong_kind_are_named(lab: Path, tmp_path: Path, name: str, value: Any) -> None:
    task = Path(shutil.copytree(lab / "task1", tmp_path / "task"))
    edited_config(task, **{name: value})
    with pytest.raises(UserError, match=f"has {name}.*expected") as caught:
        read_lora(task, "task_adapters[0]")
    assert "\n" not in str(caught.value)


def test_broken_patterns_are_named() -> None:
    for change in ({"target_modules": "(q_proj"}, {"alpha_pattern": {"(": 1.0}}, {"layers_pattern": "("}):
        more = {"layers_to_transform": [1]} if "layers_pattern" in change else {}
        with pytest.raises(UserError, match=r"has the pattern .*expected a regular expression"):
            parse_lora_config(Path("x"), PLAIN | change | more, "")


def test_the_config_of_a_saved_adapter_is_read(lab: Path) -> None:
    config = parse_lora_config(lab / "aligned", read_adapter_config(lab / "aligned", ""), "")
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 8, False)
    assert sorted(config.target_modules or []) == ["q_proj", "v_proj"]
