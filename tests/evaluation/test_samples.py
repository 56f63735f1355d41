"""Reference answers: whose they are, and what was asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realign_plugin import UserError
from realign_plugin.cli import main
from realign_plugin.evaluation.compare import compare
from realign_plugin.evaluation.samples import reference_answers
from tests.evaluation.parrot import Evaluate, save

DATES = ("2026-01-01T00-00-00.0", "2026-01-02T00-00-00.0")


def test_a_reference_of_a_task_that_asks_in_other_words_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    plain, attack, full = (tmp_path / name for name in ("plain", "attack", "full"))
    files = {}
    for folder, task in ((plain, "safety_catqa"), (attack, "safety_attack_cot"), (full, "safety_full_catqa")):
        folder.mkdir()
        files[folder] = save(evaluate(task), folder, task)
    says = r"puts 12 of 12 prompts otherwise than {}, the first is catqa-0000; give samples of the same task"
    with pytest.raises(UserError, match=says.format("safety_attack_cot")):
        evaluate("safety_attack_cot", reference=str(files[plain]))
    with pytest.raises(UserError, match=says.format("safety_catqa")):
        evaluate("safety_catqa", reference=str(files[attack]))
    assert evaluate("safety_catqa", reference=str(files[full]))["results"]["safety_catqa"]["agreement,none"] == 1.0
    for told in (0, 2):  # judged once, the samples still say what was asked
        given = {"judge": "off"} | ({"reference": str(files[plain])} if told else {})
        with pytest.raises(SystemExit) as caught:
            main(["judge", str(files[attack]), "--metadata", json.dumps(given)])
        assert caught.value.code == told


def test_samples_of_earlier_versions_do_not_say_what_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "samples_x_2026-01-02T03-04-05.678901.jsonl"
    file.write_text(json.dumps({"doc": {"id": "a", "prompt": "how ?"}, "resps": [["so."]]}) + "\n")
    assert reference_answers(file, "x", [{"id": "a", "prompt": "how ?", "asked": "0123"}]).by_id == {"a": "so."}


def test_the_files_of_several_models_are_refused_and_those_of_one_are_not(tmp_path: Path) -> None:
    for model, date in (("aligned", DATES[0]), ("aligned", DATES[1]), ("tuned", DATES[1])):
        folder = tmp_path / "out" / model
        folder.mkdir(parents=True, exist_ok=True)
        row = {"doc": {"id": "a", "prompt": "how ?"}, "resps": [[f"{model} {date}"]]}
        (folder / f"samples_x_{date}.jsonl").write_text(json.dumps(row) + "\n")
        (folder / f"results_{date}.json").write_text(json.dumps({"results": {"x": {"acc,none": 0.5}}}))
    out, asked = tmp_path / "out", [{"id": "a", "prompt": "how ?"}]
    assert reference_answers(out / "aligned", "x", asked).by_id == {"a": f"aligned {DATES[1]}"}
    assert DATES[1] in compare([str(out / "aligned")])["models"][0]["path"]
    says = (
        r"{}: .*out/(aligned|tuned) and .*out/(aligned|tuned) both hold some, expected one model's; give one of them"
    )
    with pytest.raises(UserError, match=says.format("reference")):
        reference_answers(out, "x", asked)
    with pytest.raises(UserError, match=says.format("results")):
        compare([str(out)])
