"""What a training that goes on from a subspace takes over from it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from llamafactory.hparams import get_train_args
from llamafactory.train.tuner import run_exp

from realign_plugin import SafetySubspace, UserError
from realign_plugin.training.settings import command_line, processes
from realign_plugin.training.settings.going_on import trained_further
from tests.conftest import make_lora, training_options

GOES_ON = {"aligned_adapter": None, "task_adapters": None}


def saved(lab: Path, folder: Path, **options: Any) -> str:
    """A subspace of the first task adapter."""
    return str(SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"], **options).save(folder))


def refused(options: dict[str, Any], file: Path, message: str) -> None:
    """Before torchrun starts processes, and in each of them."""
    file.write_text(yaml.safe_dump(options))
    with pytest.raises(UserError, match=message):
        command_line.check_command([str(file)])
    with pytest.raises(UserError, match=message):
        get_train_args(options)


def test_masks_that_rescaling_would_cancel_are_refused(lab: Path, tmp_path: Path) -> None:
    one = saved(lab, tmp_path / "one", mask_granularity="module", mask_rescale=False)
    options = training_options(lab, tmp_path / "run", adapter_name_or_path=one, mask_rescale=True, **GOES_ON)
    refused(options, tmp_path / "x.yaml", r"^mask_granularity: 'module' and mask_rescale: true cancel out")
    assert not trained_further(one, {"stage": "mask_dpo"}).mask_rescale


def test_single_rows_that_rescaling_would_cancel_are_refused(lab: Path, tmp_path: Path) -> None:
    make_lora(lab / "base", tmp_path / "aligned", r=1)
    task = make_lora(lab / "base", tmp_path / "task", start=tmp_path / "aligned")
    subspace = SafetySubspace.from_adapters(tmp_path / "aligned", [task], mask_granularity="row", mask_rescale=False)
    one = str(subspace.save(tmp_path / "one"))
    options = training_options(lab, tmp_path / "run", adapter_name_or_path=one, mask_rescale=True, **GOES_ON)
    refused(options, tmp_path / "x.yaml", r"'row' and mask_rescale: true cancel out for A of model\.layers\.0\.")


def test_a_subspace_of_tasks_without_weight_is_refused(lab: Path, tmp_path: Path) -> None:
    one = saved(lab, tmp_path / "one", task_weight=0.0)
    with pytest.raises(UserError, match=r"^task_weight: \[0\.0\] leaves nothing to mask, .*one was built with it"):
        trained_further(one, {"stage": "mask_dpo"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stage": "mask_dpo"}, (1.0, 0.5)),
        ({"stage": "mask_dpo", "mask_noise": 0.0}, (0.0, None)),
        ({"stage": "mask_dpo", "mask_noise_end": 0.2}, (1.0, 0.2)),
        ({"stage": "safety_distill"}, (0.0, None)),
        ({"stage": "safety_distill", "mask_noise_end": 0.2}, (0.0, 0.2)),
    ],
)
def test_noise_ends_where_its_start_comes_from(
    lab: Path, tmp_path: Path, given: dict[str, Any], expected: tuple[float, float | None]
) -> None:
    found = trained_further(saved(lab, tmp_path / "one", mask_noise_end=0.5), given)
    assert (found.mask_noise, found.mask_noise_end) == expected


@pytest.mark.parametrize(("given", "expected"), [({}, 2.0), ({"mask_keep_weight": 0.5}, 0.5)])
def test_the_keep_penalty_goes_on_and_is_recorded(
    lab: Path, tmp_path: Path, given: dict[str, Any], expected: float
) -> None:
    place = {"adapter_name_or_path": saved(lab, tmp_path / "one", mask_keep_weight=2.0), "max_steps": 1}
    run_exp(training_options(lab, tmp_path / "run", **GOES_ON, **place, **given))
    assert SafetySubspace.load(tmp_path / "run").spec.mask_keep_weight == expected
    logged = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"][0]
    # No noise would leave ln 2 at the start; the masks are at 1/2, of which half is removed.
    assert logged["loss"] - expected / 2 == pytest.approx(0.693, abs=0.1)


def test_a_keep_penalty_that_is_inherited_needs_a_gradient(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = tmp_path / "zero.json"
    zero.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    place = {"adapter_name_or_path": saved(lab, tmp_path / "one", mask_keep_weight=2.0), "deepspeed": str(zero)}
    options = training_options(lab, tmp_path / "run", **GOES_ON, **place)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(UserError, match=r"mask_keep_weight: 2 has no gradient under DeepSpeed ZeRO-3, .* set it to 0"):
        command_line.check_command([str(tmp_path / "x.yaml")])
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(options | {"mask_keep_weight": 0.0}))
    command_line.check_command([str(tmp_path / "x.yaml")])
    seen: list[float] = []
    monkeypatch.setattr(processes, "check_processes", lambda given: seen.append(given["mask_keep_weight"]))
    get_train_args({name: value for name, value in options.items() if name != "deepspeed"})  # as each process does
    assert seen == [2.0]
