"""LLaMA Board's lists and the arguments that it starts a training with, held against the installed host."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from llamafactory.extras import constants
from llamafactory.webui import common
from llamafactory.webui.components import top
from llamafactory.webui.locales import LOCALES
from llamafactory.webui.runner import Runner

from realign_plugin.training.board import STAGE_NAMES, attach_runner


def test_the_lists_hold_our_stages_and_type_once() -> None:
    assert {constants.TRAINING_STAGES[name] for name in STAGE_NAMES} == {"mask_dpo", "safety_distill"}
    assert "mask_dpo" in constants.STAGES_USE_PAIR_DATA
    assert "safety_distill" not in constants.STAGES_USE_PAIR_DATA
    assert constants.METHODS.count("safety_subspace") == 1
    assert top.METHODS is constants.METHODS
    assert "safety_subspace" in constants.PEFT_METHODS
    assert constants.TRAINING_STAGES["DPO"] == "dpo"


def test_a_checkpoint_of_ours_is_listed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.webui import control

    monkeypatch.setattr(common, "DEFAULT_SAVE_DIR", str(tmp_path))
    (tmp_path / "Custom" / "safety_subspace" / "repaired").mkdir(parents=True)
    (tmp_path / "Custom" / "safety_subspace" / "repaired" / "adapter_model.safetensors").touch()
    assert [value for _, value in control.list_checkpoints("Custom", "safety_subspace").choices] == ["repaired"]


class Field:
    """A component with the value that the interface opens with."""

    def __init__(self, value: Any) -> None:
        self.value = value


def parsed(stage: str, shown: str, **sent: Any) -> dict[str, Any]:
    """What our wrapper makes of the arguments that the host sends where it shows a learning rate."""
    names = ("learning_rate", "pref_beta", "pref_ftx", "pref_loss")
    fields = {f"train.{name}": Field(value) for name, value in zip(names, ("5e-5", 0.1, 0, "sigmoid"), strict=True)}
    values = ("train.learning_rate", shown), ("train.pref_beta", 0.3), ("train.pref_ftx", 0.5)
    data = {fields[name]: value for name, value in (*values, ("train.pref_loss", "ipo"))}

    class Host:
        manager = SimpleNamespace(get_elem_by_id=fields.__getitem__)

        def _parse_train_args(self, data: Any) -> dict[str, Any]:
            return {"stage": stage, "learning_rate": float(shown)} | sent

    attach_runner(SimpleNamespace(Runner=Host))  # type: ignore[arg-type]
    return Host()._parse_train_args(data)


def test_preference_options_and_the_learning_rate_of_our_stages() -> None:
    assert parsed("mask_dpo", "5e-5") == {"stage": "mask_dpo", "pref_beta": 0.3, "pref_ftx": 0.5, "pref_loss": "ipo"}
    assert parsed("mask_dpo", "0.2", pref_beta=0.7)["pref_beta"] == 0.7  # the box of extra arguments wins
    assert parsed("safety_distill", "5e-5") == {"stage": "safety_distill"}
    assert parsed("safety_distill", "0.2")["learning_rate"] == 0.2
    assert parsed("safety_distill", "5e-5", learning_rate=0.3)["learning_rate"] == 0.3
    assert parsed("dpo", "5e-5") == {"stage": "dpo", "learning_rate": 5e-5}


def test_the_host_still_has_what_the_hook_uses() -> None:
    assert Runner._parse_train_args.__wrapped__ is not None  # type: ignore[attr-defined]
    source = inspect.getsource(Runner._parse_train_args.__wrapped__)  # type: ignore[attr-defined]
    assert 'learning_rate=float(get("train.learning_rate"))' in source
    assert 'args.update(json.loads(get("train.extra_args")))' in source
    assert {"pref_beta", "pref_ftx", "pref_loss", "learning_rate", "extra_args"} <= LOCALES.keys()
