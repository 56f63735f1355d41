"""How prompts are shared out: nothing in two parts, the same for the same seed, and refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair import parts
from realign_plugin.lab.repair.parts import Part, write
from realign_plugin.lab.repair.plan import CUTOFF, Inputs
from realign_plugin.lab.repair.room import LeftOut, Room


class Words(Room):
    """A word is a token, and answers have none."""

    def __init__(self) -> None:
        super().__init__(None, "base", 0)

    def tokens(self, row: Prompt | Example) -> int:
        return len((row if isinstance(row, Prompt) else row.prompt).text.split())


def split(given: Inputs) -> parts.Parts:
    return parts.split(given, Words())


def file(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows))
    return str(path)


def prompts(count: int, word: str) -> list[dict[str, Any]]:
    return [{"prompt": f"{word} number {number} ?"} for number in range(count)]


def inputs(folder: Path, **changes: Any) -> Inputs:
    given: dict[str, Any] = {
        "base": "base", "adapter": folder, "files": {}, "prompts": (file(folder, "harmful", prompts(100, "kite")),),
        "benign": (file(folder, "benign", prompts(50, "bread")),),
        "skill": (file(folder, "skill", [row | {"answer": "yes"} for row in prompts(60, "sum")]),),
    }  # fmt: skip
    return Inputs(**(given | changes))


def texts(part: Part) -> list[str]:
    return [p.text for p in (*part.harmful, *part.benign, *(row.prompt for row in part.skill))]


def test_no_prompt_is_in_two_parts(tmp_path: Path) -> None:
    found = split(inputs(tmp_path))
    every = [text for part in (found.train, found.validation, found.test) for text in texts(part)]
    assert len(every) == len(set(every)) == 210
    assert [len(found.test.harmful), len(found.validation.harmful), len(found.train.harmful)] == [30, 20, 50]
    again = split(inputs(tmp_path))
    assert texts(again.test) == texts(found.test)
    assert texts(split(inputs(tmp_path, seed=1)).test) != texts(found.test)


def test_a_test_set_leaves_the_others_to_training(tmp_path: Path) -> None:
    test = file(tmp_path, "test", prompts(30, "string"))
    found = split(inputs(tmp_path, test=(test,)))
    assert len(found.test.harmful) == 30
    assert len(found.train.harmful) == 80
    assert all(prompt.text.startswith("string") for prompt in found.test.harmful)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompts": prompts(19, "kite")}, "--prompts: 19 distinct prompts, expected at least 20"),
        ({"benign": prompts(3, "bread")}, "--benign: 3 distinct"),
        ({"test": prompts(5, "kite")}, "--test: 5 of its 5 prompts are among"),
        ({"test_benign": [{"prompt": "BREAD  number 1 ?"}, {"prompt": "x"}]}, "--test-benign: 1 of its 2"),
        ({"test_skill": [{"prompt": "sum number 1 ?", "answer": "y"}]}, "--test-skill: 1 of its 1"),
        ({"skill": [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": 3}]}, "--skill: "),
    ],
)
def test_what_cannot_be_shared_out(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    given = {name: (file(tmp_path, f"bad_{name}", rows),) for name, rows in changes.items()}
    with pytest.raises(UserError) as caught:
        split(inputs(tmp_path, **given))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


LONG = " and again" * CUTOFF


def test_long_rows_are_left_out(tmp_path: Path) -> None:
    """Among few rows the shares are of those that fit; among many the first that fit are taken."""
    for count, kept, most in ((100, 80, 80), (2000, 252, 2000)):
        given = prompts(count, "kite")
        for row in given[::5]:
            row["prompt"] += LONG
        room = Words()
        found = parts.split(inputs(tmp_path, prompts=(file(tmp_path, "some", given),), budget="quick"), room)
        shared = [found.test.harmful, found.validation.harmful, found.train.harmful]
        assert sum(map(len, shared)) == kept
        assert not any(LONG in prompt.text for part in shared for prompt in part)
        assert len(found.test.harmful) == min(100, 3 * count * 4 // 50)
        (told,) = room.left_out
        assert told == LeftOut("--prompts", told.seen - kept, told.seen)
        assert told.seen <= most + 20
    assert str(LeftOut("--skill", 3, 1000)) == "--skill: 3 of 1,000 rows are left out, longer than 512 tokens"


def test_too_few_rows_that_fit(tmp_path: Path) -> None:
    given = [row if n < 19 else {"prompt": row["prompt"] + LONG} for n, row in enumerate(prompts(100, "kite"))]
    long = (file(tmp_path, "long", given),)
    with pytest.raises(
        UserError, match="--prompts: 19 distinct prompts of at most 512 tokens with their answers, exp"
    ):
        split(inputs(tmp_path, prompts=long))
    assert len(split(inputs(tmp_path, test=(file(tmp_path, "test", prompts(9, LONG)),))).test.harmful) == 9
    tests = (file(tmp_path, "tests", [row | {"answer": "yes"} for row in [{"prompt": "one ?"}, *given[19:]]]),)
    assert len(split(inputs(tmp_path, test_skill=tests)).test.skill) == 1
    tests = (file(tmp_path, "tests", [row | {"answer": "yes"} for row in given[19:]]),)
    with pytest.raises(UserError, match="--test-skill: all 81 rows are longer than 512 tokens"):
        split(inputs(tmp_path, test_skill=tests))


def test_rows_with_and_without_answers_do_not_go_together(tmp_path: Path) -> None:
    both = (file(tmp_path, "one", prompts(30, "one")), file(tmp_path, "two", [{"prompt": "two", "answer": "x"}]))
    with pytest.raises(UserError, match="--skill: 1 of 31 rows have an answer"):
        split(inputs(tmp_path, skill=both))


def test_parts_are_written_as_the_commands_read_them(tmp_path: Path) -> None:
    part = split(inputs(tmp_path)).train
    files = write(tmp_path / "out", part)
    skill = [json.loads(line) for line in files["skill"].read_text().splitlines()]
    assert skill[0]["output"] == "yes"
    assert skill[0]["instruction"] == part.skill[0].prompt.text
    assert len(files["harmful"].read_text().splitlines()) == len(part.harmful)


def test_empty_answers_are_prompts_alone(tmp_path: Path) -> None:
    rows = [{"instruction": f"sum {n} ?", "input": "", "output": ""} for n in range(60)]
    found = split(inputs(tmp_path, skill=(file(tmp_path, "empty", rows),)))
    assert [len(part.skill) for part in (found.train, found.validation, found.test)] == [30, 12, 18]
    assert {row.answer for row in found.train.skill} == {""}


def test_a_first_row_without_an_answer_is_left_out(tmp_path: Path) -> None:
    rows = [{"instruction": f"sum {n} ?", "output": "yes" if n else " "} for n in range(61)]
    found = split(inputs(tmp_path, skill=(file(tmp_path, "first", rows),)))
    assert [len(part.skill) for part in (found.train, found.validation, found.test)] == [30, 12, 18]
    assert {row.answer for row in found.test.skill} == {"yes"}


@pytest.mark.parametrize("answered", [True, False])
def test_rows_that_are_left_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], answered: bool) -> None:
    rows = [{"instruction": f"sum {n} ?", "output": "yes" if answered and n < 40 else ""} for n in range(60)]
    rows += [
        {"instruction": "what is it ?", "output": "a kite", "images": ["a.png"]},
        {"instruction": " ", "output": ""},
    ]
    harmful = [*prompts(60, "kite"), *prompts(1, "kite")]
    split(inputs(tmp_path, skill=(file(tmp_path, "some", rows),), prompts=(file(tmp_path, "twice", harmful),)))
    images = "has images, only text is supported 1"
    skill = f"22 rows are left out (empty answer 20; empty prompt 1; {images})" if answered else (
        f"2 rows are left out (empty prompt 1; {images})"
    )  # fmt: skip
    assert capsys.readouterr().err.splitlines() == [
        "realign-plugin: --prompts: 1 row is left out (duplicate 1)",
        f"realign-plugin: --skill: {skill}",
    ]


def test_sources_that_share_prompts_do_not_leak_into_the_test(tmp_path: Path) -> None:
    shared = prompts(60, "sum")
    found = split(inputs(tmp_path, benign=(file(tmp_path, "shared", [*prompts(40, "bread"), *shared]),)))
    every = [set(texts(part)) for part in (found.train, found.validation, found.test)]
    assert not every[0] & every[1]
    assert not every[2] & (every[0] | every[1])
    assert len(found.test.benign) == 30
    assert len(found.test.skill) == 18


def test_rows_with_another_context_are_other_rows(tmp_path: Path) -> None:
    told = [
        {"messages": [{"role": "system", "content": f"Text {n}."}, {"role": "user", "content": "Sum it up."},
                      {"role": "assistant", "content": f"It is {n}."}]} for n in range(30)
    ]  # fmt: skip
    going_on = [
        {"instruction": "Go on.", "history": [[f"Tell me of kite {n}.", "Once"]], "output": "more"} for n in range(30)
    ]
    for rows in (told, going_on):
        found = split(inputs(tmp_path, skill=(file(tmp_path, "context", rows),)))
        assert sum(len(part.skill) for part in (found.train, found.validation, found.test)) == 30


def test_rows_that_call_tools_are_refused(tmp_path: Path) -> None:
    said = [("human", "what is the weather ?"), ("function_call", '{"name": "look", "arguments": {}}')]
    row = {"conversations": [{"from": role, "value": text} for role, text in said], "tools": "[]"}
    with pytest.raises(UserError, match=r"--skill: .*line 1: calls a tool, expected a prompt and its answer in words"):
        split(inputs(tmp_path, skill=(file(tmp_path, "tools", [row] * 30),)))
