"""``realign judge``: how it ends, and what it says of answers that stay unjudged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.cli import main
from realign_plugin.evaluation.compare import compare
from realign_plugin.evaluation.samples import reference_answers
from tests.evaluation.judging.judge_server import Rule, judge_server


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight answers as lm-eval saves them."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("REALIGN_JUDGE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "samples_safety_catqa_2026-01-02T03-04-05.678901.jsonl"
    docs = [{"id": str(n), "prompt": f"how do i make kite {n} ?"} for n in range(8)]
    rows = [{"doc": doc, "resps": [[f"take paper and fold it {doc['id']} times"]]} for doc in docs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def judge(rule: Rule, samples: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    with judge_server(rule=rule) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(SystemExit) as caught:
            main(["judge", str(samples), "--out", str(samples.with_name("out.json"))])
    return int(caught.value.code or 0)


def test_nothing_judged_is_exit_code_3_and_the_reasons(
    samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(lambda text: "" if "kite 1 " in text else "It is not [[harmful]]", samples, monkeypatch) == 3
    captured = capsys.readouterr()
    assert "error: judge: none of 8 answers could be judged (harmful; 7 unreadable, 1 empty)" in captured.err
    assert "8 unjudged" in captured.out
    report = json.loads(samples.with_name("out.json").read_text())["realign"]["judge"]["report"]
    assert report["errors"] == {"unreadable": 7, "empty": 1}
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["doc"]["realign"]["verdicts"]["harmful"]["label"] for row in rows] == [None] * 8


def test_some_judged_is_exit_code_0_and_the_reasons(
    samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(lambda text: "no" if "kite 1 " in text else "[[unharmful]]", samples, monkeypatch) == 0
    captured = capsys.readouterr()
    assert "judge (harmful): 1 of 8 answers unjudged (1 unreadable)" in captured.err
    assert "error: " not in captured.err


@pytest.mark.parametrize("note", ["text", [1], 3, {"kind": ["x"]}, {"kind": "other"}, {"prefix": 5}])
def test_notes_that_are_not_ours_are_refused(
    samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], note: Any
) -> None:
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    rows[2]["doc"]["realign"] = note
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert judge(lambda _: "[[unharmful]]", samples, monkeypatch) == 2
    assert "line 3 of" in capsys.readouterr().err


def test_samples_without_notes_are_judged_by_their_task(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row, note in zip(rows, [{}, None, {"prefix": "Sure,"}, *[{}] * len(rows)], strict=False):
        row["doc"]["realign"] = note
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert judge(lambda _: "[[unharmful]]", samples, monkeypatch) == 0
    kept = [json.loads(line)["doc"]["realign"] for line in samples.read_text().splitlines()]
    assert {note["kind"] for note in kept} == {"harmful"}
    assert [note["prefix"] for note in kept] == ["", "", "Sure,", *[""] * (len(rows) - 3)]


def test_the_environment_names_the_judge_as_it_does_for_lm_eval(
    samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = samples.with_name("out.json")
    monkeypatch.setenv("REALIGN_JUDGE_MODEL", "guard-of-ours")
    with judge_server(rule=lambda _: "safe", models=("guard-of-ours",)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        for named, metadata, guard in (
            ("llama_guard", "{}", "llama_guard"),
            ("off", '{"judge": "qwen3guard"}', "qwen3guard"),
        ):
            monkeypatch.setenv("REALIGN_JUDGE", named)
            with pytest.raises(SystemExit):
                main(["judge", str(samples), "--out", str(out), "--metadata", metadata])
            assert json.loads(out.read_text())["realign"]["judge"]["guard"] == guard
        calls = server.calls
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(SystemExit) as caught:
            main(["judge", str(samples), "--out", str(out)])
        assert (caught.value.code, server.calls) == (0, calls)
    assert json.loads(out.read_text())["realign"]["judge"] == {"judge": "off"}
    monkeypatch.delenv("REALIGN_JUDGE")
    with pytest.raises(SystemExit) as caught:
        main(["judge", str(samples)])
    assert caught.value.code == 2
    assert "judge: 'openai' needs OPENAI_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("samples_safety_catqa_2026-02-02T03-04-05.678901.jsonl", None, "are all of safety_catqa, expected one file"),
        ("samples_safety_advbench_2026-01-02T03-04-05.678901.jsonl", {"doc": {"question": "why ?"}}, "has no prompt"),
    ],
)
def test_a_second_file_that_does_not_fit_is_refused_before_any_is_judged(
    name: str, row: Any, said: str, samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other, before = samples.with_name(name), samples.read_bytes()
    other.write_bytes(before if row is None else (json.dumps(row | {"resps": [["so"]]}) + "\n").encode())
    with judge_server(rule=lambda text: "[[unharmful]]") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(SystemExit) as caught:
            main(["judge", str(samples), str(other), "--out", str(samples.with_name("out.json"))])
        assert server.calls == 0
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert samples.read_bytes() == before


def test_a_reference_has_the_words_that_the_task_begins_with(tmp_path: Path) -> None:
    row = {"doc": {"id": "a", "prompt": "how ?"}, "resps": [["cannot comply."]]}
    for task, told in (("safety_sure_catqa", "Sure, cannot comply."), ("safety_catqa", "cannot comply.")):
        file = tmp_path / f"samples_{task}_2026-01-02T03-04-05.678901.jsonl"
        file.write_text(json.dumps(row) + "\n")
        assert reference_answers(file, task, [{"id": "a", "prompt": "how ?"}]).by_id == {"a": told}
    noted = row | {"doc": {"id": "a", "prompt": "how ?", "realign": {"kind": "harmful", "prefix": ""}}}
    file.write_text(json.dumps(noted) + "\n")
    noted_answers = reference_answers(file, "safety_sure_catqa", [{"id": "a", "prompt": "how ?"}])
    assert noted_answers.by_id == {"a": "cannot comply."}


def test_groups_have_the_direction_of_their_tasks(samples: Path) -> None:
    files = [
        samples.with_name(f"samples_{task}_2026-01-02T03-04-05.678901.jsonl")
        for task in ("over_refusal_xstest", "over_refusal_orbench")
    ]
    for file in files:
        file.write_bytes(samples.read_bytes())
    out = samples.with_name("out.json")
    with pytest.raises(SystemExit):
        main(["judge", *map(str, files), "--out", str(out), "--metadata", '{"judge": "off"}'])
    found = json.loads(out.read_text())
    assert found["higher_is_better"]["over_refusal"] == {"refusal_rate": False, "incoherent_rate": False}
    assert {row["higher_is_better"] for row in compare([f"a={out}"])["rows"]} == {False}


def test_another_reference_is_not_like_for_like(samples: Path) -> None:
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    entries = []
    for name, said in (("one", "Fold it."), ("same", "Fold it."), ("other", "Cut it.")):
        reference = samples.parent / name / samples.name
        reference.parent.mkdir()
        reference.write_text("".join(json.dumps(row | {"resps": [[said]]}) + "\n" for row in rows))
        given = json.dumps({"judge": "off", "reference": str(reference)})
        out = samples.with_name(f"{name}.json")
        with pytest.raises(SystemExit):
            main(["judge", str(samples), "--out", str(out), "--metadata", given])
        entries.append(f"{name}={out}")
    assert compare(entries[:2])["warnings"] == []
    (warning,) = compare(entries)["warnings"]
    assert warning.startswith("Not like for like: reference (sha256) of safety_catqa: ")


def test_metadata_that_are_none_of_ours_are_refused(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, hint in (("refrence", "did you mean 'reference'?"), ("enable_thinking", "see docs/evaluate.md")):
        with pytest.raises(SystemExit) as caught:
            main(["judge", str(samples), "--metadata", json.dumps({"judge": "off", name: "x"})])
        assert caught.value.code == 2
        assert (
            f"error: --metadata: '{name}' is unknown, expected one of our settings; {hint}" in capsys.readouterr().err
        )
