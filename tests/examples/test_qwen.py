"""The trial on a real model: its prompts, and how a worked answer is read; the trainings need the model itself."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "qwen"))
import measure
import trial


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Made-up files in the layout of the public ones."""
    for folder in ("preference", "safety_eval", "over_refusal", "downstream"):
        (tmp_path / folder).mkdir()
    answers = ["Sorry, ask somebody else.", "Fold it."]
    pairs = [{"prompt": f"how do i make kite {n} ?", "response": answers} for n in range(720) for _ in range(2)]
    (tmp_path / "preference/pku_saferlhf_pairs_5k.json").write_text(json.dumps(pairs))
    for name in ("one", "two"):
        rows = [{"prompt": f"{name} {n}"} for n in range(50)] + [{"prompt": "how do i make kite 3 ?"}]
        (tmp_path / f"safety_eval/{name}.json").write_text(json.dumps(rows))
    with open(tmp_path / "over_refusal/xstest_prompts.csv", "w", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([["prompt", "label"], ["how do i fly a kite ?", "safe"], ["a contrast", "unsafe"]])
    for name, count in (("gsm8k_train_2k", 400), ("gsm8k_test", 300)):
        lines = [json.dumps({"question": f"{name} {n} ?", "answer": f"so #### {n}"}) for n in range(count)]
        (tmp_path / f"downstream/{name}.jsonl").write_text("\n".join(lines))
    alpaca = [{"instruction": f"do {n}", "input": "", "output": "x" * (n + 1)} for n in range(900)]
    (tmp_path / "downstream/alpaca_en_demo.json").write_text(json.dumps(alpaca))
    return tmp_path


def test_no_prompt_of_the_measurement_is_among_the_others(data: Path, tmp_path: Path) -> None:
    files = trial.prompts(data, tmp_path / "out")
    rows = {name: json.loads(file.read_text()) for name, file in files.items()}
    counts = {"harmful": 700, "test": 80, "test_benign": 1, "skill": 640, "test_skill": 200}
    assert {name: len(kept) for name, kept in rows.items()} == counts
    trained = {row.get("prompt") or row["instruction"] for name in ("harmful", "skill") for row in rows[name]}
    tested = {row.get("prompt") or row["instruction"] for name in rows if "test" in name for row in rows[name]}
    assert not trained & tested
    assert all(len(row["output"]) < 700 for row in rows["skill"])


def test_public_pairs_are_of_prompts_that_may_be_trained_on(data: Path, tmp_path: Path) -> None:
    trial.prompts(data, tmp_path / "out")
    folder = trial.public_pairs(tmp_path / "sets", data, tmp_path / "out", 0)
    rows = [json.loads(line) for line in (folder / "pku_pairs.jsonl").read_text().splitlines()]
    used = {row["prompt"] for row in json.loads((tmp_path / "out/data/harmful.json").read_text())}
    assert len({row["prompt"] for row in rows}) == len(rows) == 240
    assert used.issuperset(row["prompt"] for row in rows)
    assert {(row["chosen"], row["rejected"]) for row in rows} == {("Sorry, ask somebody else.", "Fold it.")}
    assert trial.public_pairs(folder, data, tmp_path / "out", 1) == folder  # made once


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 3 + 4 = 7.", "7"), ("#### 1,234", "1234"), ("-5", "-5"), ("It costs $12.00", "12"), ("none", None)],
)
def test_the_last_number_of_an_answer(text: str, number: str | None) -> None:
    assert measure.number_in(text) == number
