"""The options of a repair's trainings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.estimate import training as estimated
from realign_plugin.lab.repair.command import Request
from realign_plugin.lab.repair.plan import METHODS, Folders
from realign_plugin.lab.repair.training import options


def made(given: dict[str, Any], tmp_path: Path) -> list[dict[str, Any]]:
    inputs = Request(**given).inputs()
    return [options(inputs, Folders(tmp_path), method, None, skill=True) for method in METHODS]


def test_activations_are_kept_on_a_processor_with_enough_memory(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [one["disable_gradient_checkpointing"] for one in made(given, tmp_path)] == [True, True]
    pages = 1000
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}[name])
    assert not [one for one in made(given, tmp_path) if "disable_gradient_checkpointing" in one]


def test_a_model_that_cannot_be_estimated_is_checkpointed(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimated, "KINDS", {})
    assert not [one for one in made(given, tmp_path) if "disable_gradient_checkpointing" in one]
