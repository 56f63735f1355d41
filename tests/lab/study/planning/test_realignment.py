"""All that realigns one fine-tuned model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.study.config.loading import parse
from realign_plugin.lab.study.planning.builder import Builder
from realign_plugin.lab.study.planning.plan import Plan
from realign_plugin.lab.study.planning.realignment import align, chosen_answers, merge_documents, tasks, tune

Values = dict[str, Any]


@pytest.fixture
def builder(values: Values, tmp_path: Path) -> Builder:
    made = Builder(parse(values), tmp_path)
    for name, dataset in made.config.data.items():
        made.datasets.add(name, dataset)
    return made


def test_alignment_is_one_training_after_the_other(builder: Builder) -> None:
    align(builder)
    assert (builder.aligned_path, builder.aligned_step) == ("runs/it/models/aligned", "aligned")
    assert builder.plan.steps["aligned"].needs == ("data-pairs", "aligned-1-sft")
    assert builder.measuring.tokenizer == ("runs/it/models/aligned", "aligned")
    assert builder.plan.models["aligned"].peft == "runs/it/models/aligned"


def test_a_given_model_is_not_trained(values: Values, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    builder = Builder(parse(values | {"tasks": {"maths": {"adapter": "mine"}}}), tmp_path)
    assert tune(builder, "maths", builder.config.tasks["maths"]) == "maths"
    assert builder.tuned == {"maths": ("mine", "")}
    assert not builder.plan.steps


def test_chosen_answers_are_those_of_the_studys_own_pairs(builder: Builder) -> None:
    assert chosen_answers(builder, ["pairs"]) == ["pairs_chosen"]
    assert chosen_answers(builder, ["pairs", "elsewhere"]) == []


def test_one_method_after_another_makes_rows_with_seed_and_method(builder: Builder) -> None:
    align(builder)
    tasks(builder)
    facts = {name: (m.role, m.method, m.seed, m.step) for name, m in builder.plan.models.items() if m.group == "code"}
    assert facts == {
        "code": ("fine-tuned", "", 0, "code"),
        "code-paper-0-soft": ("realigned", "paper", 0, "export-code-paper-0"),
        "code-paper-0-binary": ("realigned", "paper", 0, "export-code-paper-0"),
        "code-paper-0-sampled": ("realigned", "paper", 0, "export-code-paper-0"),
        "code-shipped-0-binary": ("realigned", "shipped", 0, "export-code-shipped-0"),
        "code-sft_dpo-0": ("baseline", "sft_dpo", 0, "code-sft_dpo-0"),
        "code-resta": ("baseline", "resta", 0, "merge-code-resta"),
        "code-safe_lora": ("baseline", "safe_lora", 0, "merge-code-safe_lora"),
    }


def test_each_strength_has_a_document(builder: Builder) -> None:
    align(builder)
    builder.tuned["maths"] = ("runs/it/models/maths", "maths")
    how = builder.methods["resta"].model_copy(update={"strengths": [0.1, 0.5]})
    found = merge_documents(builder, "resta", how, "maths")
    assert [Path(out).name for out in found] == ["maths-resta-s0.1", "maths-resta-s0.5"]
    assert [document["models"][1]["parameters"]["weight"] for document in found.values()] == [0.1, 0.5]


def test_fusions_are_facts_of_their_models(values: Values, planned: Callable[..., Plan]) -> None:
    plan = planned(values, fusion={"methods": {"mine": {"kind": "ties", "label": "my TIES"}}})
    models = {name: model for name, model in plan.models.items() if model.group == "fused"}
    assert {model.fusion for model in models.values()} == {"mine"}
    assert models["fused-mine"].label == "fused (my TIES)"
    soft = models["fused-mine-paper-0-soft"]
    assert (soft.role, soft.method, soft.name) == ("fused realigned", "paper", "fused + realigned (my TIES, soft)")
    assert {model.fusion for name, model in plan.models.items() if name not in models} == {None}
