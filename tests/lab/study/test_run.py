"""Steps: what is left when they end, fail, are cut off or change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.records import Training
from realign_plugin.lab.study.launch import prepare, start
from realign_plugin.lab.study.planning.commands import Line
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.steps import Kind, Step
from realign_plugin.lab.study.run import StepError, held, main, run, tail

TRAINING = Training(id="it", label="it", folder="root/models/it")


def plan_of(folder: Path, *steps: Step, **machine: Any) -> Plan:
    plan = Plan("root", str(folder), {"title": "it", "seeds": [0], "machine": {"gpus": []} | machine})
    for step in steps:
        plan.add(step)
    plan.folder.mkdir(exist_ok=True)
    plan.save(plan.folder / "plan.json")
    return plan


def step_of(name: str, kind: Kind, says: str, lines: tuple[tuple[str, ...], ...], **options: Any) -> Step:
    return Step(name, kind, says, tuple(Line(words) for words in lines), **options)


def counting(name: str, *words: str, **options: Any) -> Step:
    """A step whose commands each append a word to ``root/said``."""
    lines = tuple(("sh", "-c", f"echo {word} >> root/said-{name}") for word in words)
    return step_of(name, "export", name, lines, creates=(f"root/said-{name}",), **options)


@pytest.fixture(autouse=True)
def _back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())  # steps change the folder


def test_a_marker_says_what_was_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, counting("it", "a", "b", texts={"root/deep/file.txt": "text"}, scratch=("root/deep",)))
    assert [(step.name, why) for step, why in _stale(plan, "it")] == [("it", "new")]
    run(plan, plan.steps["it"])
    assert (tmp_path / "root/said-it").read_text() == "a\nb\n"
    assert not (tmp_path / "root/deep").exists()
    marker = json.loads(plan.marker("it").read_text())
    assert marker["commands"] == ["sh -c 'echo a >> root/said-it'", "sh -c 'echo b >> root/said-it'"]
    assert marker["log"] == "logs/it.log"
    assert "torch" in marker["versions"]
    assert _stale(plan, "it") == []


def _stale(plan: Plan, *names: str) -> list[tuple[Step, str]]:
    plan.targets["them"] = list(names)
    return list(plan.stale(["them"]))


def test_a_step_runs_again_when_it_or_what_it_needs_changes(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("1")
    first, second = counting("first", "a"), counting("second", "b", needs=("first",), inputs=("given",))
    plan = plan_of(tmp_path, first, second)
    for name in ("first", "second"):
        run(plan, plan.steps[name])
    assert _stale(plan, "second") == []
    known, later = (tmp_path / "given").stat(), time.time() + 5
    os.utime(tmp_path / "given", (later, later))
    assert [why for _, why in _stale(plan, "second")] == ["older than what it needs"]
    os.utime(tmp_path / "given", ns=(known.st_atime_ns, known.st_mtime_ns))
    changed = plan_of(tmp_path, counting("first", "c"), second)
    assert [(s.name, why) for s, why in _stale(changed, "second")] == [
        ("first", "changed"), ("second", "what it needs runs again"),
    ]  # fmt: skip


def test_what_the_study_makes_itself_is_no_input(tmp_path: Path) -> None:
    maker = step_of("maker", "prepare", "maker", (("sh", "-c", "echo 1 > root/mine; echo 1 > beside"),),
                 creates=("beside",))  # fmt: skip
    reader = counting("reader", "a", needs=("maker",), inputs=("root/mine", "beside", "given"))
    (tmp_path / "given").write_text("1")
    plan = plan_of(tmp_path, maker, reader)
    assert plan.steps["reader"].inputs == ("given",)
    for name in ("maker", "reader"):
        run(plan, plan.steps[name])
    assert _stale(plan_of(tmp_path, maker, reader), "reader") == []  # planned again, now that the files are there


def test_a_step_asked_for_once_more_starts_anew(tmp_path: Path) -> None:
    fails_once = ("sh", "-c", "echo b >> root/said-it; test -e root/repaired")
    step = step_of(
        "it", "export", "it", (("sh", "-c", "echo a >> root/said-it"), fails_once), creates=("root/said-it",)
    )
    plan = plan_of(tmp_path, step)
    with pytest.raises(StepError):
        run(plan, step)
    (tmp_path / "root/repaired").touch()
    plan.forget_whole("it")
    (tmp_path / "root/said-it").unlink()
    run(plan, step)
    assert (tmp_path / "root/said-it").read_text() == "a\nb\n"


def test_a_file_put_in_place_of_an_input_is_seen_though_it_is_older(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("1")
    step = counting("it", "a", inputs=("given",))
    plan = plan_of(tmp_path, step)
    run(plan, plan.steps["it"])
    (tmp_path / "given").write_text("other")
    os.utime(tmp_path / "given", (1e9, 1e9))
    assert [why for _, why in _stale(plan_of(tmp_path, step), "it")] == ["changed"]


def test_a_log_tells_its_error_before_the_noise_behind_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("loading\nerror: source: x is missing, expected a file\n 10%|#   | 1/9\nbye\n")
    assert tail(tmp_path / "log") == ["error: source: x is missing, expected a file"]
    (tmp_path / "log").write_text("Traceback\n  File x\ntorch.nn.SomeError: no room\n")
    assert tail(tmp_path / "log") == ["torch.nn.SomeError: no room"]
    (tmp_path / "log").write_text("\n".join("abcdefg"))
    assert tail(tmp_path / "log") == list("cdefg")


def test_a_failure_leaves_its_log_and_no_marker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sh", "-c", "echo one; echo two >&2; exit 4")
    plan = plan_of(tmp_path, step_of("it", "export", "says", (words,)))
    with pytest.raises(SystemExit) as caught:
        main([str(plan.folder / "plan.json"), "it"])
    assert caught.value.code == 1
    assert not plan.marker("it").exists()
    told = json.loads(plan.failure("it").read_text())
    assert told["tail"][-2:] == ["one", "two"]
    assert told["log"] == str(plan.log("it"))
    assert "ended with 4" in told["message"]
    assert "* says" in capsys.readouterr().out


def test_what_should_be_there_and_is_not_is_a_failure(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, step_of("it", "export", "says", (("true",),), creates=("root/gone",)))
    with pytest.raises(StepError, match="root/gone is missing, though"):
        run(plan, plan.steps["it"])


def test_a_step_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    lines = (
        ("sh", "-c", "echo a >> root/said"),
        ("sh", "-c", "test -e root/let"),
        ("sh", "-c", "echo c >> root/said"),
    )
    step = step_of("it", "export", "says", lines, creates=("root/said",))
    plan = plan_of(tmp_path, step)
    with pytest.raises(StepError):
        run(plan, step)
    (tmp_path / "root/let").touch()
    run(plan, step)
    assert (tmp_path / "root/said").read_text() == "a\nc\n"


def test_a_step_that_changed_since_it_was_cut_off_starts_anew(tmp_path: Path) -> None:
    for last in ("false", "true"):
        lines = (("sh", "-c", "echo a >> root/said"), (last,))
        step = step_of("it", "export", "says", lines, creates=("root/said",))
        plan = plan_of(tmp_path, step)
        if last == "false":
            with pytest.raises(StepError):
                run(plan, step)
        else:
            run(plan, step)
    assert (tmp_path / "root/said").read_text() == "a\n"


def test_a_training_keeps_its_checkpoints_and_loses_half_saved_weights(tmp_path: Path) -> None:
    folder = tmp_path / "root/models/it"
    script = (
        "cd root/models; mkdir -p it/checkpoint-3 it/checkpoint-6; touch it/adapter_model.safetensors "
        "it/checkpoint-3/trainer_state.json; test -e ../let"
    )
    step = step_of("it", "realign", "says", (("sh", "-c", script),), creates=("root/models/it",), training=TRAINING)
    plan = plan_of(tmp_path, step)
    folder.parent.mkdir(parents=True)
    with pytest.raises(StepError):
        run(plan, step)
    (tmp_path / "root/let").touch()
    look = step_of(
        "it", "realign", "says", (("sh", "-c", script),), creates=("root/models/it",), training=TRAINING,
    )  # fmt: skip
    assert look.fingerprint == step.fingerprint
    from realign_plugin.lab.study.run import Progress, begin

    os.chdir(tmp_path)
    begin(plan, look, Progress(plan, look))
    assert (folder / "checkpoint-3").is_dir()
    assert not (folder / "checkpoint-6").exists()  # cut off while it was written
    assert not (folder / "adapter_model.safetensors").exists()
    other = step_of("it", "realign", "says", (("true",),), creates=("root/models/it",), training=TRAINING)
    begin(plan, other, Progress(plan, other))
    assert not folder.exists()


def test_a_folder_outside_the_study_is_the_users(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.safetensors").write_text("precious")
    step = step_of(
        "it",
        "prepare",
        "says",
        (("true",),),
        creates=("mine",),
        training=TRAINING.model_copy(update={"folder": "mine"}),
    )
    run(plan_of(tmp_path, step), step)
    assert (mine / "model.safetensors").read_text() == "precious"


def test_what_a_merge_left_half_done_is_not_taken_up(tmp_path: Path) -> None:
    script = "test ! -e root/cache/old; mkdir -p root/cache root/out; touch root/cache/old; test -e root/let"
    step = step_of("it", "merge", "says", (("sh", "-ec", script),), creates=("root/out",), scratch=("root/cache",))
    plan = plan_of(tmp_path, step)
    with pytest.raises(StepError):
        run(plan, step)
    assert (tmp_path / "root/cache/old").exists()
    (tmp_path / "root/let").touch()
    plan.marker("it").with_suffix(".progress").unlink()
    run(plan, step)


def test_what_a_step_made_and_another_needs_is_made_again(tmp_path: Path) -> None:
    first, second = counting("first", "a"), counting("second", "b", needs=("first",))
    plan = plan_of(tmp_path, first, second)
    for step in (first, second):
        run(plan, step)
    (tmp_path / "root/said-first").unlink()
    assert _stale(plan, "second") == []  # nobody needs it now
    plan.marker("second").unlink()
    assert [(s.name, why) for s, why in _stale(plan, "second")] == [
        ("first", "what it made is gone, and is needed"), ("second", "new"),
    ]  # fmt: skip


def test_a_step_is_run_by_one_process(tmp_path: Path) -> None:
    step = counting("it", "a")
    plan = plan_of(tmp_path, step)
    with held(plan, step):
        found = subprocess.run(
            [sys.executable, "-m", "realign_plugin.lab.study.run", str(plan.folder / "plan.json"), "it"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert found.returncode == 1
    assert "another process runs it" in found.stderr
    assert not (tmp_path / "root/said-it").exists()


def test_an_input_that_changed_voids_what_was_done_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("1")
    lines = (("sh", "-c", "echo a >> root/said"), ("false",))
    step = step_of("it", "export", "says", lines, inputs=("given",), creates=("root/said",))
    plan = plan_of(tmp_path, step)
    with pytest.raises(StepError):
        run(plan, step)
    later = time.time() + 5
    os.utime(tmp_path / "given", (later, later))
    with pytest.raises(StepError):
        run(plan, step)
    assert (tmp_path / "root/said").read_text() == "a\n"


def test_steps_are_numbered_as_they_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path, counting("one", "a"), counting("two", "b"))
    path = str(plan.folder / "plan.json")
    main([path, "one"])
    assert capsys.readouterr().out == "* one\n"
    plan.targets["them"] = ["one", "two"]
    plan.marker("one").unlink()
    plan.count(prepare(plan, ["them"]))
    for name in ("two", "one", "two"):
        main([path, name])
    assert capsys.readouterr().out == "[1/2] two\n[2/2] one\n[1/2] two\n"


def test_a_step_can_be_run_once_more(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, counting("first", "a"), counting("second", "b", needs=("first",)))
    plan.targets["them"] = ["second"]
    for name in ("first", "second"):
        run(plan, plan.steps[name])
    assert plan.stale(["them"]) == []
    assert [(step.name, why) for step, why in plan.stale(["them"], ["first"])] == [
        ("first", "asked for"), ("second", "what it needs runs again"),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"--again: 'fist' is unknown.*did you mean 'first'|first"):
        start(plan, ["them"], [], ["fist"])
