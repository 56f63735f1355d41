"""Judge cards, and the limits that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.cli import main
from realign_plugin.evaluation.metrics.rates import wilson
from realign_plugin.files import sha256
from realign_plugin.lab.records import Study
from realign_plugin.lab.report.cards import judge_cards
from realign_plugin.lab.report.data_cards import DataCard
from realign_plugin.lab.report.limits import fewest_prompts, limits
from realign_plugin.lab.report.numbers import percent
from realign_plugin.lab.report.run import Run, read_run
from tests.lab.report.test_axes import HARMFUL, OVER, share, table


def judged(model: str, **report: Any) -> dict[str, Any]:
    return {"judge": "openai", "model": model, "mode": "harmful", "prompts": {"harmful": 2}, "report": report}


def test_results_that_were_judged_alike_share_a_card() -> None:
    cards = judge_cards(
        {
            "a": judged(
                "one", calls=5, cached=1, unjudged=2, prompt_tokens=7, errors={"empty": 2}, fatal="key refused"
            ),
            "b": judged("one", calls=6, cached=0, unjudged=1, completion_tokens=3, cost=0.5, errors={"empty": 1}),
            "c": judged("two", calls=1),
            "d": {"judge": "off"},
        }
    )
    one, two, off = cards
    assert (one.model, one.results, one.calls, one.cached, one.unjudged, one.tokens) == ("one", 2, 11, 1, 3, 10)
    assert (one.cost, one.errors, one.failures) == (0.5, {"empty": 3}, ["key refused"])
    assert (two.model, two.calls, two.cost) == ("two", 1, None)
    assert off.off


def test_the_newest_results_of_a_folder_count(run_folder: Path) -> None:
    folder = run_folder / "results/base/made-up__model"
    (folder / "results_2026-11-25T00-00-00.json").write_text('{"results": {}, "realign": {"judge": {"judge": "off"}}}')
    run = read_run(run_folder)
    assert run.judges["results/base/made-up__model/results_2026-11-25T00-00-00.json"] == {"judge": "off"}
    assert len(run.judges) == len(run.study.models)


def test_only_what_belongs_to_the_study_has_cards(run_folder: Path) -> None:
    study = json.loads((run_folder / "study.json").read_text())
    chosen = run_folder / "results-choose/one"
    chosen.mkdir(parents=True)
    (chosen / "results_2026-11-25T00-00-00.json").write_text('{"results": {}, "realign": {"judge": {"judge": "off"}}}')
    study |= {"results": ["results/base", "results-choose/one", "results/unmeasured"], "data": ["preference"]}
    (run_folder / "study.json").write_text(json.dumps(study))
    run = read_run(run_folder)
    assert [Path(path).parts[:2] for path in run.judges] == [("results", "base"), ("results-choose", "one")]
    assert [card.name for card in run.cards] == ["preference"]


def names(judges: dict[str, dict[str, Any]], seeds: list[int]) -> list[str]:
    cells = {"harmful": share(1, 40), "over-refusal": share(1, 10)}
    made = table([HARMFUL, OVER], ("task", "fine-tuned", cells))
    run = Run(Path(), Study(title="x", tables=["main"], seeds=seeds), tables=[made])
    found = limits(run, judge_cards(judges), [])
    assert percent(wilson(0, 40)[1]) in dict(found)["Few prompts, wide intervals"]
    return [name for name, _ in found]


def test_limits_are_those_of_this_study() -> None:
    off, on = {"judge": "off"}, judged("one", unjudged=4)
    assert names({"a": off}, [0])[2:] == ["One seed", "No judge"]
    assert names({"a": on}, [0, 1, 2])[2:] == ["3 seeds", "A judge makes errors"]
    assert names({"a": on, "b": off}, [])[2:] == ["Some results without a judge", "A judge makes errors"]
    assert names({}, [])[2:] == ["Judge unknown"]


def test_the_fewest_prompts_are_those_of_the_safety_columns() -> None:
    made = table([HARMFUL, OVER], ("t", "base", {"harmful": share(1, 40), "over-refusal": share(1, 10)}))
    assert fewest_prompts(made) == ("harmful", 40)
    assert fewest_prompts(table([OVER], ("t", "base", {"over-refusal": 1}))) is None


def test_a_card_of_several_sources_has_each_ones_licence() -> None:
    made = {"name": "on_policy", "source": {"name": "on_policy.rows.jsonl", "licence": "unknown"}}
    one, other = {"name": "made-up/kites", "split": "train", "licence": "MIT"}, {"name": "bread.json", "licence": None}
    card = DataCard.model_validate(made | {"sources": [one, other]})
    assert card.source == "made-up/kites, train; bread.json"
    assert card.licence == "made-up/kites, train: MIT; bread.json: not stated"
    card = DataCard.model_validate(made | {"sources": [one]})
    assert (card.source, card.licence) == ("made-up/kites, train", "MIT")


def test_cards_are_those_that_realign_data_writes(tmp_path: Path, run_folder: Path) -> None:
    rows = [{"instruction": f"How do I fold kite {n}?", "input": "", "output": "Take paper."} for n in range(3)]
    (tmp_path / "kites.json").write_text(json.dumps([*rows, {"instruction": 3, "input": "", "output": "x"}]))
    words = ["data", "sft", run_folder / "data", "--task", "alpaca_en", "--source", tmp_path / "kites.json"]
    with pytest.raises(SystemExit) as caught:
        main([*map(str, words), "--name", "kites"])
    assert not caught.value.code
    card = next(card for card in read_run(run_folder).cards if card.name == "kites")
    assert (card.kind, card.source, card.seed) == ("sft", "kites.json", 0)
    assert card.description
    assert card.licence
    assert (card.counts["read"], card.counts["written"]) == (4, 3)
    assert card.distinct_prompts["training"] == 3
    assert card.sha256 == {"kites.jsonl": sha256(run_folder / "data/kites.jsonl")}
