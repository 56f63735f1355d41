"""Results side by side: every task that has a number, and a word on what was not measured alike or not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.evaluation.compare import both_axes, compare, markdown, write
from realign_plugin.evaluation.report import print_comparison


def results(
    folder: Path, name: str, count: int, judge: dict[str, Any], template: str | None = "x", **more: Any
) -> str:
    """A result file of one task; the rate is of all its prompts."""
    known = {"low": 0.0, "high": 0.5, "hits": 0, "count": count}
    found = {
        "results": {"safety_made_up": {"refusal_rate,none": 0.0}},
        "higher_is_better": {"safety_made_up": {"refusal_rate": True}},
        "n-samples": {"safety_made_up": {"original": 100, "effective": count}},
        "realign": {"intervals": {"safety_made_up": {"refusal_rate": known}}, "judge": judge},
        "config": {"gen_kwargs": more.pop("gen_kwargs", None)},
        "chat_template": template,
    } | more
    (folder / name).write_text(json.dumps(found), encoding="utf-8")
    return f"{name}={folder / name}"


def test_like_results_give_no_warning(tmp_path: Path) -> None:
    entries = [results(tmp_path, name, 20, {"judge": "off"}) for name in ("one", "two")]
    assert compare(entries)["warnings"] == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"count": 20}, "Not like for like: number of prompts of safety_made_up: 100 for one, 20 for two"),
        ({"judge": {"judge": "openai", "model": "m2"}}, "Not like for like: judge: m1 for one, m2 for two"),
        ({"template": None}, "Not like for like: chat template: used for one, not used for two"),
        (
            {"gen_kwargs": {"max_gen_toks": 9}},
            "Not like for like: generation: none for one, {'max_gen_toks': 9} for two",
        ),
        (
            {"system_instruction": "Fold.", "system_instruction_sha": "abcdef0123"},
            "Not like for like: system prompt: none for one, abcdef01 for two",
        ),
        (
            {"judge": {"judge": "openai", "model": "m1", "second": {"judge": "openai", "model": "m2"}}},
            "Not like for like: second judge: none for one, m2 for two",
        ),
        (
            {"judge": {"judge": "qwen3guard", "model": "m1", "guard": "qwen3guard"}},
            "Not like for like: judge's guard: none for one, qwen3guard for two",
        ),
    ],
)
def test_what_was_not_measured_alike_is_told(
    tmp_path: Path, other: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usual: dict[str, Any] = {"count": 100, "judge": {"judge": "openai", "model": "m1"}}
    found = compare([results(tmp_path, "one", **usual), results(tmp_path, "two", **usual | other)])
    assert found["warnings"] == [says]
    assert says in markdown(found)
    print_comparison(found)
    assert says in " ".join(capsys.readouterr().out.split())


def skills(folder: Path, name: str, **changes: Any) -> str:
    """A results file of tasks as lm-eval 0.4.13 writes them, with the metrics and filters of its own tasks."""
    rows: dict[str, Any] = {
        "safety_made_up": {"alias": "safety_made_up", "sample_len": 10, "harmful_rate,none": 0.25},
        "gsm8k": {
            "alias": "gsm8k",
            "sample_len": 10,
            "exact_match,strict-match": 0.4,
            "exact_match_stderr,strict-match": 0.1,
            "exact_match,flexible-extract": 0.5,
            "exact_match_stderr,flexible-extract": 0.1,
        },
        "arc_easy": {"alias": "arc_easy", "sample_len": 10, "acc,none": 0.7, "acc_norm,none": 0.8},
        "ifeval": {"alias": "ifeval", "sample_len": 10, "prompt_level_strict_acc,none": 0.3},
        "wikitext": {
            "alias": "wikitext",
            "sample_len": 10,
            "word_perplexity,none": 12.5,
            "word_perplexity_stderr,none": "N/A",
            "byte_perplexity,none": 1.6,
        },
        "wmt": {"alias": "wmt", "sample_len": 10, "bleu,none": 31.0, "bleu_stderr,none": 1.0},
        "mmlu": {"alias": "mmlu", "sample_len": 20, "acc,none": 0.5, "acc_stderr,none": 0.02},
        "mmlu_kites": {"alias": " - kites", "sample_len": 20, "acc,none": 0.5},
        "realign_downstream": {"alias": "realign_downstream"},
    }
    found = {
        "results": rows | changes.pop("results", {}),
        "group_subtasks": {"mmlu": ["mmlu_kites"], "realign_downstream": ["gsm8k"]},
        "higher_is_better": {
            "gsm8k": {"exact_match": True},
            "arc_easy": {"acc": True, "acc_norm": True},
            "ifeval": {"prompt_level_strict_acc": True},
            "wikitext": {"word_perplexity": False, "byte_perplexity": False},
            "wmt": {"bleu": True},
            "mmlu": {"acc": True},
            "mmlu_kites": {"acc": True},
        },
    } | changes
    (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    return f"{name}={folder / name}.json"


def test_every_task_that_is_not_ours_is_a_skill(tmp_path: Path) -> None:
    worse = {"wikitext": {"sample_len": 10, "word_perplexity,none": 14.5, "byte_perplexity,none": 1.8}}
    found = compare([skills(tmp_path, "one"), skills(tmp_path, "two", results=worse)])
    rows = {row["metric"]: row for row in found["rows"] if row["axis"] == "skill"}
    assert {name: row["cells"][0]["value"] for name, row in rows.items()} == {
        "gsm8k: exact_match,strict-match": 0.4,
        "arc_easy: acc": 0.7,
        "ifeval: prompt_level_strict_acc": 0.3,
        "wikitext: word_perplexity": 12.5,
        "wmt: bleu": 31.0,
        "mmlu: acc": 0.5,
        "mmlu_kites: acc": 0.5,
    }
    assert [name for name, row in rows.items() if not row["higher_is_better"]] == ["wikitext: word_perplexity"]
    assert rows["wikitext: word_perplexity"]["differences"] == [{"value": 2.0}]
    assert rows["wmt: bleu"]["cells"][0]["high"] == pytest.approx(32.96, abs=0.01)  # a score of 31 is no share
    assert found["warnings"] == []
    assert "| wikitext: word_perplexity | lower | 12.50 | 14.50<br>*+2.00* |" in markdown(found)


def test_the_mean_skill_is_of_shares_and_counts_no_task_twice(tmp_path: Path) -> None:
    _, points = both_axes(compare([skills(tmp_path, "one")]))
    assert points == [("one", 0.25, pytest.approx((0.4 + 0.7 + 0.3 + 0.5) / 4))]
    files = write(compare([skills(tmp_path, "one")]), tmp_path / "out")
    assert [file.name for file in files] == ["comparison.md", "comparison.json", "comparison.png"]


def test_the_mean_safety_counts_no_task_twice(tmp_path: Path) -> None:
    rates = {"bench": 0.5, "bench_one": 1.0, "bench_two": 0.3, "alone": 0.1, "mixed": None, "mixed_one": 0.7}
    found = {
        "results": {name: {} if rate is None else {"refusal_rate,none": rate} for name, rate in rates.items()}
        | {"gsm8k": {"acc,none": 0.4}},
        "group_subtasks": {"bench": ["bench_one", "inner"], "inner": ["bench_two"], "mixed": ["mixed_one"]},
        "higher_is_better": {name: {"refusal_rate": True} for name in rates} | {"gsm8k": {"acc": True}},
    }
    found["results"]["mixed"]["incoherent_rate,none"] = 0.0
    (tmp_path / "r.json").write_text(json.dumps(found), encoding="utf-8")
    _, points = both_axes(compare([f"r={tmp_path / 'r.json'}"]))
    assert points == [("r", pytest.approx(1 - (0.5 + 0.1 + 0.7) / 3), 0.4)]


def test_a_group_without_a_direction_takes_its_tasks(tmp_path: Path) -> None:
    """``realign judge`` once left it out; lm-eval leaves it out where tasks of a group differ."""
    rows = {name: {"refusal_rate,none": 0.5} for name in ("one", "two", "both", "mixed")} | {"ppl": {"loss,none": 0.5}}
    found = {
        "results": rows | {"losses": {"loss,none": 0.5}},
        "group_subtasks": {"both": ["one"], "mixed": ["one", "two"], "losses": ["ppl"]},
        "higher_is_better": {"one": {"refusal_rate": False}, "two": {"refusal_rate": True}, "ppl": {"loss": False}},
    }
    (tmp_path / "r.json").write_text(json.dumps(found), encoding="utf-8")
    comparison = compare([f"r={tmp_path / 'r.json'}"])
    assert {row["metric"]: row["higher_is_better"] for row in comparison["rows"]} == {
        "one: refusal_rate": False,
        "two: refusal_rate": True,
        "both: refusal_rate": False,
        "mixed: refusal_rate": True,
        "ppl: loss": False,
        "losses: loss": False,
    }
    assert comparison["warnings"] == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"acc,none": "N/A"}, "new of one: acc,none is 'N/A', expected a number"),
        ({"acc,none": float("nan")}, "new of one: acc,none is None, expected a number"),
        ({"alias": "new"}, "new of one has no metric in the results, so it is not compared"),
        ({"bypass,none": 999}, "new of one holds answers alone (--predict_only), so it is not compared"),
        ({"acc,none": 0.5}, "new of one does not say whether more acc is better; taken to be"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, row: Any, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare([skills(tmp_path, "one", results={"new": row})])
    assert found["warnings"] == [says]
    print_comparison(found)
    assert says in " ".join(capsys.readouterr().out.split())


def test_names_and_texts_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "[bold]a=b[/red]"
    (tmp_path / "x=y").mkdir()
    skills(
        tmp_path / "x=y", "results_1", results={odd: {"acc,none": "[/]"}}, config={"model_args": f"pretrained={odd}"}
    )
    found = compare([str(tmp_path / "x=y")])  # a path that exists is a path, whatever is in it
    assert found["models"][0]["name"] == "red]"  # the last part of the path
    print_comparison(found)
    assert odd in capsys.readouterr().out


def test_what_is_not_results_at_all_ends_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "strange.json"
    for text in ("", "[" * 100_000, "[]", "null", "3", '{"results": []}', "\ud800"):
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(UserError, match=r"results: .*(lm-eval's results|as lm-eval wrote it)"):
            compare([str(file)])
