"""Training curves: read from LLaMA-Factory's files, one picture for the seeds of a training."""

from __future__ import annotations

import json
from pathlib import Path

from realign_plugin.lab.records import Study, Training
from realign_plugin.lab.report.curves import draw_curves, read_log
from realign_plugin.lab.report.run import Run


def run_of(folder: Path, *labels: str) -> Run:
    trainings = [Training(id=f"t{n}", label=label, folder=f"t{n}", stage="sft") for n, label in enumerate(labels)]
    for training in trainings:
        (folder / training.folder).mkdir()
    return Run(folder, Study(title="x", trainings=trainings, seeds=[0, 1]))


def test_the_last_value_of_a_step_counts_and_lines_without_a_loss_do_not(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a")
    lines = [
        {"current_steps": 10, "loss": 1.0}, {"current_steps": 20, "loss": 9.0},
        {"current_steps": 20, "eval_loss": 0.7}, {"current_steps": 20, "loss": 0.5},
        {"current_steps": 30, "loss": float("nan")}, {"current_steps": 30},
    ]  # fmt: skip
    (tmp_path / "t0/trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = read_log(run, run.study.trainings[0])
    assert log is not None
    assert log.loss == {10: 1.0, 20: 0.5}
    assert log.eval_loss == {20: 0.7}


def test_a_cut_off_last_line_is_left_out_and_told(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a")
    (tmp_path / "t0/trainer_log.jsonl").write_text('{"current_steps": 10, "loss": 1.0}\n{"current_st')
    (picture,), notes = draw_curves(run)
    assert picture.logs[0].loss == {10: 1.0}
    assert notes == ["a: the last line of its log is cut off; it is left out."]


def test_without_a_log_the_trainer_s_state_will_do(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b", "c")
    history = [{"step": 5, "loss": 2.0, "mask/mean": 0.4}, {"step": 9, "train_loss": 1.0}]
    (tmp_path / "t0/trainer_state.json").write_text(json.dumps({"log_history": history}))
    (tmp_path / "t1/trainer_state.json").write_text('{"log_history": null}')
    (picture,), notes = draw_curves(run)
    assert (picture.logs[0].loss, picture.logs[0].mean) == ({5: 2.0}, {5: 0.4})
    assert notes == ["b: the log in t1 holds no loss.", "c: no log in t2."]


def test_seeds_share_a_picture(tmp_path: Path) -> None:
    run = run_of(tmp_path, "gsm8k-paper-0", "gsm8k-paper-1", "gsm8k-other-0")
    for number, (name, seed) in enumerate((("gsm8k: paper", 0), ("gsm8k: paper", 1), ("gsm8k: other", 0))):
        run.study.trainings[number] = run.study.trainings[number].model_copy(update={"name": name, "seed": seed})
        (tmp_path / f"t{number}/trainer_log.jsonl").write_text(f'{{"current_steps": 1, "loss": {number}}}\n')
    pictures, _ = draw_curves(run)
    assert [(p.title, [(log.name, log.line) for log in p.logs]) for p in pictures] == [
        ("gsm8k: paper", [("seed 0", "solid"), ("seed 1", "dashed")]), ("gsm8k: other", [("seed 0", "solid")]),
    ]  # fmt: skip
    assert "seed 1: loss from 1 at step 1 to 1 at step 1" in pictures[0].svg


def test_trainings_of_an_earlier_version_each_have_a_picture(tmp_path: Path) -> None:
    """Their labels tell the seed, but no field does."""
    run = run_of(tmp_path, "gsm8k-paper-0: masked DPO", "gsm8k-paper-1: masked DPO")
    for number in range(2):
        (tmp_path / f"t{number}/trainer_log.jsonl").write_text('{"current_steps": 1, "loss": 1}\n')
    pictures, _ = draw_curves(run)
    assert [picture.title for picture in pictures] == ["gsm8k-paper-0: masked DPO", "gsm8k-paper-1: masked DPO"]


def test_long_logs_are_thinned_out_but_keep_their_end(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a")
    text = "".join(f'{{"current_steps": {n}, "loss": {1 + (n % 7) / 7}}}\n' for n in range(1, 20_001))
    (tmp_path / "t0/trainer_log.jsonl").write_text(text)
    (picture,), _ = draw_curves(run)
    assert len(picture.svg) < 40_000
    assert "at step 20000" in picture.svg
