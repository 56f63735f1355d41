"""Refusals in the language of the prompt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realign_plugin.data.refusals import REFUSALS, contrast_with, language_of, read_refusals
from realign_plugin.data.rows.columns import DroppedError, Row
from realign_plugin.errors import UserError
from realign_plugin.evaluation.answers.refusals import Language, refuses


def test_the_built_in_refusals_are_refusals_in_their_own_script() -> None:
    assert len(REFUSALS["en"]) >= 12
    for language, sentences in REFUSALS.items():
        assert len(set(sentences)) == len(sentences) >= 5
        for sentence in sentences:
            assert refuses(sentence), sentence
            assert language_of(sentence) == language


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("how do i fold a kite ?", "en"),
        ("怎样折纸风筝？", "zh"),
        ("用 Python 写一个函数，返回列表中最大的数。", "zh"),
        ("Translate 你好 to English, please", "en"),
        ("पतंग कैसे बनाएं?", "hi"),
        ("凧の作り方を教えてください", "en"),
        ("1 + 1 = ?", "en"),
        ("", "en"),
    ],
)
def test_the_script_tells_the_language(prompt: str, language: Language) -> None:
    assert language_of(prompt) == language


def test_a_prompt_gets_the_same_refusal_and_the_seed_moves_it() -> None:
    pairs = contrast_with(None, 0), contrast_with(None, 0), contrast_with(None, 1)
    rows = [Row({"instruction": f"fold kite {n}", "output": "fold it"}) for n in range(200)]
    drawn = [[pair(row).rejected for row in rows] for pair in pairs]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == set(REFUSALS["en"])
    chinese = contrast_with(None, 0)(Row({"instruction": "怎样做面包？", "output": "和面。"}))
    assert chinese.rejected in REFUSALS["zh"]
    assert chinese.answer == "和面。"


@pytest.mark.parametrize(
    "answer", ["I'm sorry, but I can't help with kites.", "抱歉，我无法回答。", *REFUSALS["hi"][:1]]
)
def test_rows_that_refuse_are_dropped(answer: str) -> None:
    with pytest.raises(DroppedError, match="answer is a refusal"):
        contrast_with(None, 0)(
            Row({"prompt": "kite?", "response": answer + " ".join(f"kite {n}" for n in range(999))})
        )


def test_thinking_is_not_taken_for_the_answer() -> None:
    pair = contrast_with(None, 0)(
        Row({"prompt": "kite?", "response": "<think>I can't help with that? I can.</think>Fold it."})
    )
    assert pair.answer.endswith("Fold it.")
    with pytest.raises(DroppedError, match="answer is a refusal"):
        contrast_with(None, 0)(
            Row({"prompt": "kite?", "response": f"<think>{'hm ' * 999}</think>I can't help with that."})
        )
    with pytest.raises(DroppedError, match="answer is unfinished thinking"):
        contrast_with(None, 0)(Row({"prompt": "kite?", "response": "<think>Fold it, or"}))


def test_refusals_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "refusals.txt"
    file.write_text("\ufeffNope.\n\n  No way.  \nNope.\n", encoding="utf-8")
    assert read_refusals(file) == ("Nope.", "No way.")
    pair = contrast_with(read_refusals(file), 3)(Row({"prompt": "怎样?", "response": "so"}))
    assert pair.rejected in ("Nope.", "No way.")
    file.write_text("\n \n")
    with pytest.raises(UserError, match="holds no refusal, expected one a line"):
        read_refusals(file)
    file.write_bytes(b"\x80")
    with pytest.raises(UserError, match="is not UTF-8 text \\(byte 0\\)"):
        read_refusals(file)
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read \(No such file"):
        read_refusals(tmp_path / "nowhere.txt")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, realign_plugin.data.kinds, realign_plugin.data.commands\n"
        "heavy = {'torch', 'datasets', 'transformers', 'pyarrow', 'lm_eval', 'llamafactory', 'mergekit'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
