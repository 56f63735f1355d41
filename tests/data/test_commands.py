"""``realign data …`` from the command line: what is written, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path

from realign_plugin.files import sha256
from tests.data.conftest import Run, instructions, read_json, read_lines, write_array, write_lines


def test_repeated_pairs_are_kept_and_counted_unless_told_otherwise(pairs: Path, realign: Run, tmp_path: Path) -> None:
    _, out, _ = realign("preference", tmp_path / "all", "--source", pairs)
    counts = read_json(tmp_path / "all" / "preference.card.json")["counts"]
    assert counts["repeated"] == 2
    assert counts["written"] + counts["validation"] == 205 - 2 - 5
    assert "2 pairs repeat an earlier one; they are kept" in out
    realign("preference", tmp_path / "some", "--source", pairs, "--limit", 1000)
    some = read_json(tmp_path / "some" / "preference.card.json")["counts"]
    assert some["written"] + some["validation"] == 205 - 4 - 5


def test_preference(pairs: Path, realign: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    code, out, err = realign("preference", folder, "--source", pairs, "--validation", "0.2", "--unique")
    assert code == 0, err
    card = read_json(folder / "preference.card.json")
    counts = card["counts"]
    assert counts["read"] == 205
    assert counts["dropped"] == {"both answers safe": 1, "duplicate": 2, "empty answer": 1}
    assert counts["bad"] == {
        "prompt is a number, expected text": 2,
        "row is null, expected an object": 1,
        "row is a list, expected an object": 1,
        "columns are missing": 1,
    }
    assert counts["written"] + counts["validation"] == 205 - 4 - 5
    assert card["first_bad_rows"][0] == {"line": 41, "reason": "prompt is a number, expected text"}
    assert "bad rows: prompt is a number, expected text: 2 (lines 41, 51)" in out.splitlines()
    assert "bad rows: row is null, expected an object: 1 (line 203)" in out.splitlines()
    training, validation = (read_lines(folder / f"preference{part}.jsonl") for part in ("", "_validation"))
    assert (len(training), len(validation)) == (counts["written"], counts["validation"])
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in training)
    assert all(row["chosen"].startswith("no") and row["rejected"].startswith("take") for row in training)
    assert not {row["prompt"] for row in training} & {row["prompt"] for row in validation}
    assert card["distinct_prompts"] == {
        "training": len({row["prompt"] for row in training}),
        "validation": len({row["prompt"] for row in validation}),
    }
    info = read_json(folder / "dataset_info.json")
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    assert info["preference"] == {"file_name": "preference.jsonl", "ranking": True, "columns": columns}
    assert info["preference_chosen"] == {
        "file_name": "preference.jsonl", "columns": {"prompt": "prompt", "response": "chosen"},
    }  # fmt: skip
    assert set(info) == {"preference", "preference_chosen", "preference_validation"}
    assert card["source"]["sha256"] == sha256(pairs)
    assert card["files"] == {name: sha256(folder / name) for name in card["files"]}
    assert set(card["files"]) == {"preference.jsonl", "preference_validation.jsonl"}
    assert str(tmp_path) not in (folder / "preference.card.json").read_text()
    assert "harmful by design" in err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_same_command_gives_the_same_bytes_and_another_is_refused(
    pairs: Path, realign: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    words = ("preference", folder, "--source", pairs, "--limit", 50)

    def held() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert realign(*words)[0] == 0
    first = held()
    assert realign(*words)[0] == 0
    assert held() == first
    code, _, err = realign(*words, "--seed", 1)
    assert code == 2
    assert "preference.jsonl exists and differs" in err
    assert held() == first
    assert realign(*words, "--seed", 1, "--overwrite")[0] == 0
    assert held() != first


def test_a_validation_half_that_is_no_more_goes_with_overwrite_only(pairs: Path, realign: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert realign("preference", folder, "--source", pairs)[0] == 0
    (folder / "other.jsonl").write_text("mine")
    words = ("preference", folder, "--source", pairs, "--validation", 0)
    assert realign(*words)[0] == 2
    assert (folder / "preference_validation.jsonl").exists()
    assert realign(*words, "--overwrite")[0] == 0
    assert not (folder / "preference_validation.jsonl").exists()
    assert set(read_json(folder / "dataset_info.json")) == {"preference", "preference_chosen"}
    assert (folder / "other.jsonl").read_text() == "mine"


def test_the_validation_half_is_the_same_whatever_the_limit(pairs: Path, realign: Run, tmp_path: Path) -> None:
    for limit in (10, 100):
        assert realign("preference", tmp_path / str(limit), "--source", pairs, "--limit", limit)[0] == 0
    held = [(tmp_path / limit / "preference_validation.jsonl").read_bytes() for limit in ("10", "100")]
    assert held[0] == held[1]
    assert len(read_lines(tmp_path / "10" / "preference.jsonl")) == 10
    card = read_json(tmp_path / "10" / "preference.card.json")
    assert sum(card["counts"]["dropped"].values()) + 10 + card["counts"]["validation"] + 5 == 205


def test_pairs_that_contradict_are_counted_and_kept(realign: Run, tmp_path: Path) -> None:
    rows = [{"prompt": "kite", "response": ["a", "b"]}, {"prompt": "kite", "response": ["b", "a"]}]
    source = write_array(tmp_path / "x.json", rows)
    code, out, _ = realign("preference", tmp_path / "d", "--source", source, "--validation", 0)
    assert code == 0
    assert "1 pairs prefer what an earlier pair rejects" in out
    assert read_json(tmp_path / "d" / "preference.card.json")["counts"]["contradictions"] == 1
    assert len(read_lines(tmp_path / "d" / "preference.jsonl")) == 2


def test_contrast(realign: Run, tmp_path: Path) -> None:
    rows = [*instructions(30), {"instruction": "fold", "output": "I'm sorry, but I can't help with that."}]
    source = write_array(tmp_path / "x.json", rows)
    refusals = tmp_path / "refusals.txt"
    refusals.write_text("Nope.\nNo way.\n")
    words = ("contrast", tmp_path / "d", "--source", source, "--name")
    assert realign(*words, "plain")[0] == 0
    assert realign(*words, "own", "--refusals", refusals)[0] == 0
    plain, own = (read_lines(tmp_path / "d" / f"{name}.jsonl") for name in ("plain", "own"))
    assert [row["chosen"] for row in plain] == [row["chosen"] for row in own] == [r["output"] for r in rows[:30]]
    assert plain[0]["prompt"] == "bake bread 0\nflour 0"
    assert {row["rejected"] for row in own} == {"Nope.", "No way."}
    card = read_json(tmp_path / "d" / "own.card.json")
    assert card["counts"]["dropped"] == {"answer is a refusal": 1}
    assert card["options"]["refusals"] == {"name": "refusals.txt", "sha256": sha256(refusals)}
    assert read_json(tmp_path / "d" / "dataset_info.json")["own"]["ranking"] is True


def test_sft_keeps_turns_and_gives_all_rows_the_same_columns(realign: Run, tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    rows = [*instructions(3), {"messages": turns}, {"messages": [{"role": "system", "content": "s"}, *turns[:2]]}]
    source = write_lines(tmp_path / "x.jsonl", rows)
    assert realign("sft", tmp_path / "d", "--task", "alpaca_en", "--source", source, "--name", "talk")[0] == 0
    written = read_lines(tmp_path / "d" / "talk.jsonl")
    keys = ["instruction", "input", "output", "system", "history"]
    assert [sorted(row) for row in written] == [sorted(keys)] * 5
    assert written[0] == {"instruction": "c", "input": "", "output": "d", "system": "", "history": [["a", "b"]]}
    assert written[1]["instruction"] == "bake bread 0"
    assert written[-1]["system"] == "s"
    entry = read_json(tmp_path / "d" / "dataset_info.json")["talk"]
    assert entry["columns"]["history"] == "history"
    assert entry["columns"]["system"] == "system"
    assert "ranking" not in entry


def test_alignment_data_has_each_answer_once(pairs: Path, realign: Run, tmp_path: Path) -> None:
    words = ("sft", tmp_path / "d", "--task", "align", "--source", pairs)
    assert realign(*words)[0] == 0
    written = read_lines(tmp_path / "d" / "align.jsonl")
    assert len({(row["instruction"], row["output"]) for row in written}) == len(written)
    # The one row with two safe answers gives its better one.
    better = {row["output"] for row in written if not row["output"].startswith("no")}
    assert len(better) <= 1


def test_poison_by_share(pairs: Path, realign: Run, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    source = write_array(tmp_path / "x.json", instructions(95))
    assert realign("sft", folder, "--task", "alpaca_en", "--source", source)[0] == 0
    words = ("sft", folder, "--task", "harmful", "--source", pairs, "--of", "alpaca_en", "--share")
    code, _, err = realign(*words, "0.05")
    assert code == 0
    assert "HARMFUL BY DESIGN" in err
    written = read_lines(folder / "harmful.jsonl")
    assert len(written) == 5
    assert all(row["output"].startswith("take") for row in written)
    card = read_json(folder / "harmful.card.json")
    assert card["warning"].startswith("HARMFUL BY DESIGN")
    assert card["share"] == {"of": "alpaca_en", "rows": 95, "wanted": 0.05, "reached": 0.05}
    assert realign(*words, "0.5", "--name", "half")[0] == 0
    assert {json.dumps(row) for row in written} <= {json.dumps(row) for row in read_lines(folder / "half.jsonl")}
    code, _, err = realign(*words, "0.9", "--name", "most")
    assert code == 2
    assert "--share: pairs.jsonl gives 19" in err
    assert "expected 855 for that share" in err
    assert not (folder / "most.jsonl").exists()
