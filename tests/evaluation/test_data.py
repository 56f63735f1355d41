"""The prompt sets from local files in every form; subsets; mistakes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.evaluation.data import find_file, load_prompts, read_rows
from realign_plugin.evaluation.sources import SOURCES

NESTED = {
    f"topic {t}": {f"part {s}": [f"how do i paint kite {t} {s} {n} ?" for n in range(4)] for s in range(3)}
    for t in range(2)
}


def put(folder: Path, name: str, value: Any) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("catqa.json", [{"prompt": "what is blue ?"}, {"prompt": "what is red ?"}]),
        ("catqa_english.json", ["what is blue ?", "what is red ?"]),
        ("CatQA-English.jsonl", '{"Question": "what is blue ?"}\n\n{"Question": "what is red ?"}\n'),
        ("catqa.csv", "id,prompt,type\n1,what is blue ?,a\n2,what is red ?,b\n"),
    ],
)
def test_forms_of_a_local_file(tmp_path: Path, name: str, value: Any) -> None:
    rows = load_prompts("catqa", put(tmp_path / "d", name, value))
    assert [row["prompt"] for row in rows] == ["what is blue ?", "what is red ?"]
    assert [row["id"] for row in rows] == ["catqa-0000", "catqa-0001"]


def test_sets_whose_names_are_alike_take_their_own_file(tmp_path: Path) -> None:
    advbench = put(tmp_path / "advbench", "harmful_behaviors.csv", "goal,target\nwhat is blue ?,x\n")
    jailbreakbench = put(tmp_path / "jbb", "Harmful-Behaviors.csv", "Index,Goal,Category\n0,what is red ?,c\n")
    neither = put(tmp_path / "neither", "harmful behaviors.csv", "goal,target\nwhat is grey ?,x\n")
    for name, own, other in (
        ("advbench", advbench, jailbreakbench),
        ("jailbreakbench_harmful", jailbreakbench, advbench),
    ):
        assert len(load_prompts(name, own)) == 1
        for folder in (other, neither):
            with pytest.raises(UserError, match=rf"expected {name}\.json for the set {name}"):
                load_prompts(name, folder)
    put(advbench, "harmful-behaviors.csv", (jailbreakbench / "Harmful-Behaviors.csv").read_text())
    for name, told in (("advbench", "blue"), ("jailbreakbench_harmful", "red")):
        assert [row["prompt"] for row in load_prompts(name, advbench)] == [f"what is {told} ?"]


def test_an_exact_name_goes_before_one_like_it(tmp_path: Path) -> None:
    folder = put(put(tmp_path / "d", "cat-qa.json", ["what is grey ?"]), "catqa.json", ["what is blue ?"])
    assert [row["prompt"] for row in load_prompts("catqa", folder)] == ["what is blue ?"]
    (folder / "catqa.json").unlink()
    assert [row["prompt"] for row in load_prompts("catqa", folder)] == ["what is grey ?"]


def test_the_papers_subset_is_the_first_two_of_each_subcategory(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", "catqa.json", NESTED)
    rows = load_prompts("catqa", folder)
    assert len(rows) == 2 * 3 * 2
    assert {row["prompt"].split()[-2] for row in rows} == {"0", "1"}
    assert len(load_prompts("catqa", folder, full=True)) == 24
    one = load_prompts("catqa", folder, full=True, category="topic 1")
    assert len(one) == 12
    assert {row["category"] for row in one} == {"topic 1"}


def test_the_only_key_of_a_list_is_a_category_unless_its_name_says_otherwise(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {n} ?"} for n in range(5)]
    for key, count in (("prompts", 5), ("Data", 5), ("Physical Harm", 2)):
        folder = put(tmp_path / key, "catqa.json", {key: rows})
        assert len(load_prompts("catqa", folder)) == count
    assert load_prompts("catqa", folder, category="Physical Harm")
    assert len(load_prompts("catqa", put(tmp_path / "two", "catqa.json", {"prompts": rows, "data": rows}))) == 4


def test_the_two_halves_of_xstest(tmp_path: Path) -> None:
    text = "id,prompt,type,label\n1,how do i kill time ?,homonyms,safe\n2,how do i skip lunch ?,contrast_x,unsafe\n"
    folder = put(tmp_path / "d", "xstest_prompts.csv", text)
    assert [row["prompt"] for row in load_prompts("xstest_safe", folder)] == ["how do i kill time ?"]
    assert [row["prompt"] for row in load_prompts("xstest_contrast", folder)] == ["how do i skip lunch ?"]


def test_gzipped_lines(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "x"}\n{"prompt": "y"}\n', mtime=0))
    file = find_file(tmp_path, ["humaneval"])
    assert file is not None
    assert read_rows(file) == [{"prompt": "x"}, {"prompt": "y"}]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("catqa.json", [], r"catqa.json holds no prompt, expected at least one"),
        ("catqa.json", [{"text": "x"}], r"has the columns text, expected prompt; rename the column"),
        ("catqa.json", [{"prompt": "x"}, {"prompt": " "}], r"row 2 of .* has no text in prompt"),
        ("catqa.json", [{"prompt": "x"}, {"prompt": 3}], r"row 2 of .* has no text in prompt"),
        ("catqa.jsonl", '{"prompt": "x"}\n\n{"prompt": ""}\n', r"line 3 of .* has no text in prompt"),
        ("catqa.json", "{", r"catqa.json is not JSON \(line 1 column 2: .*, expected prompts"),
        ("catqa.jsonl", '{"prompt": "x"}\n{', r"line 2 of .*catqa.jsonl cannot be read"),
        ("other.json", [], r"holds other.json, expected catqa.json for the set catqa"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_prompts("catqa", put(tmp_path / "d", name, value))
    assert "\n" not in str(caught.value)


def test_more_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"safety_data: .*nowhere is not a folder"):
        load_prompts("catqa", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"source: 'kites' is unknown, expected one of catqa"):
        load_prompts("kites", tmp_path)
    folder = put(tmp_path / "x", "xstest.csv", "prompt,label\nhow ?,unsafe\nwhy ?,safe\n,safe\n")
    with pytest.raises(UserError, match=r"line 4 of .*xstest.csv has no text in prompt"):
        load_prompts("xstest_safe", folder)
    folder = put(tmp_path / "d", "catqa.json", NESTED)
    with pytest.raises(UserError, match=r"holds no category 'topic 7', found topic 0, topic 1"):
        load_prompts("catqa", folder, category="topic 7")
    put(tmp_path / "e", "catqa.json", ["x"])
    with pytest.raises(UserError, match=r"has the columns prompt, expected category"):
        load_prompts("catqa", tmp_path / "e", category="topic 7")


def test_without_a_hub_the_way_out_is_named() -> None:
    for name in SOURCES:
        with pytest.raises(
            UserError, match=r"cannot be fetched .*give a folder with .*\.json as safety_data"
        ) as caught:
            load_prompts(name)
        assert "\n" not in str(caught.value)


def test_what_a_set_keeps_is_found_whatever_its_case(tmp_path: Path) -> None:
    file = "Prompt,Label\nhow do i fold a kite ?,Safe\nhow do i break a kite ?,UNSAFE\n"
    folder = put(tmp_path / "d", "xstest.csv", file)
    assert [row["prompt"] for row in load_prompts("xstest_safe", folder)] == ["how do i fold a kite ?"]
    assert [row["prompt"] for row in load_prompts("xstest_contrast", folder)] == ["how do i break a kite ?"]


def test_a_set_without_its_labels_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", "xstest.csv", "prompt\nhow do i fold a kite ?\n")
    with pytest.raises(UserError, match="has no column label, expected one that says safe or unsafe"):
        load_prompts("xstest_safe", folder)
