"""The parts of the ablations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.study.ablation_parts import check_realigned, new_models, picked, table
from realign_plugin.lab.study.ablations import _limited, poisoning
from realign_plugin.lab.study.builder import Builder
from realign_plugin.lab.study.loading import parse
from realign_plugin.lab.study.measuring_config import Pick, Poisoning
from realign_plugin.lab.study.realignment import align, tasks


@pytest.fixture
def builder(values: dict[str, Any], tmp_path: Path) -> Builder:
    """Builds all but the tables."""
    made = Builder(parse(values), tmp_path)
    for name, dataset in made.config.data.items():
        made.datasets.add(name, dataset)
    align(made)
    tasks(made)
    return made


def test_the_first_task_and_the_first_fitting_method_are_taken(builder: Builder) -> None:
    assert picked(builder, Pick(), "granularity", ["mask_dpo"]) == (["maths"], ["paper"])
    asked = Pick(tasks=["code"], methods=["shipped"])
    assert picked(builder, asked, "granularity", ["mask_dpo"]) == (["code"], ["shipped"])
    with pytest.raises(UserError, match="no method is safety_distill"):
        picked(builder, Pick(), "granularity", ["safety_distill"])


def test_pairs_are_shared_out_over_their_data_sets(builder: Builder) -> None:
    names, changes = _limited(builder, ["pairs", "maths"], 7)
    assert (names, changes) == (["pairs_n7", "maths_n7"], {})
    limits = [builder.plan.steps[f"data-{name}"].commands[0] for name in names]
    assert [words[words.index("--limit") + 1] for words in limits] == ["4", "3"]
    assert _limited(builder, ["pairs", "maths"], 1)[0] == ["pairs_n1"]
    assert _limited(builder, ["elsewhere", "pairs"], 7) == (["elsewhere", "pairs"], {"max_samples": 4})


def test_what_is_poisoned_is_one_data_set_of_the_studys(builder: Builder) -> None:
    builder.config.tasks["maths"].dataset = ["maths", "code"]
    with pytest.raises(UserError, match="not fine-tuned on one data set"):
        poisoning(builder, Poisoning(shares=[0.1]))


def test_a_method_that_leaves_out_the_first_seed_or_the_task_is_refused(builder: Builder) -> None:
    check_realigned(builder, "maths", "paper", "transfer")
    builder.config.tasks["maths"].methods = ["shipped"]
    with pytest.raises(UserError, match=r"tasks\.maths\.methods leaves paper out"):
        check_realigned(builder, "maths", "paper", "transfer")
    builder.methods["paper"].seeds = [5]
    with pytest.raises(UserError, match="lacks 0"):
        check_realigned(builder, "code", "paper", "transfer")


def test_a_table_shows_the_tasks_rows_and_the_new_ones(builder: Builder) -> None:
    builder.measuring.tables()
    with new_models(builder) as models:
        builder.model("new", "new", "maths", "realigned", "", ("m", None))
    table(builder, "mine", "Mine", "What it shows.", ["maths"], models)
    rows = builder.plan.tables["mine"].models
    assert rows[:3] == ("base", "aligned", "maths")
    assert rows[-1] == "new"
    assert not [name for name in rows if name.startswith("code") or "resta" in name]
    assert builder.plan.targets["mine"] == ["table-mine"]
