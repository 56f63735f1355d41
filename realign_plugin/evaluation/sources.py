"""Where the prompt sets come from, how many prompts they have, under which licence, and who judges them usually."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Source:
    """Where a prompt set comes from.

    Attributes:
        files: Names that a local file may have, without its suffix; case, spaces, ``-`` and ``_`` do not matter.
        hub: Data set id on the hub, or a URL of a JSON or CSV file.
        config: The hub data set's configuration.
        split: The hub data set's split.
        per_group: The paper's subset: the first so many of each subcategory, or category where there is none; None
            takes all.
        keep: Column values that a row must have where it has the column, e.g. ``{"label": "safe"}``.
        prompt: Column of the prompts where it is not one of the usual ones (``data.PROMPT_COLUMNS``).
        attack: Column of what the model is asked in place of the prompt; the judge sees the prompt. Rows without are
            left out.
        inside: Key of the list of rows in a JSON object.
        terms: What the hub asks for before it gives the set away, for the user.
        judge: The judge that the set's authors use, as ``judge`` takes it; None where that is not one of them.
    """

    files: tuple[str, ...]
    hub: str
    config: str | None = None
    split: str = "train"
    per_group: int | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    attack: str | None = None
    inside: str | None = None
    terms: str | None = None
    judge: str | None = None


_GITHUB: Final = "https://raw.githubusercontent.com"
_JBB: Final = "JailbreakBench/JBB-Behaviors"

SOURCES: Final[dict[str, Source]] = {
    "catqa": Source(("catqa", "catqa_english"), "declare-lab/CategoricalHarmfulQA", None, "en", 2),
    "catqa_zh": Source(("catqa_zh", "catqa_chinese"), "declare-lab/CategoricalHarmfulQA", None, "zh", 2),
    "beavertails": Source(
        ("beavertails", "beavertails_evaluation"), "PKU-Alignment/BeaverTails-Evaluation", None, "test", 10
    ),
    "harmfulqa": Source(("harmfulqa",), "declare-lab/HarmfulQA", None, "train", 2),
    "shadow": Source(("shadow", "shadow_alignment"), "CherryDurian/shadow-alignment", None, "eval"),
    "dangerousqa": Source(
        ("dangerousqa",),
        "https://raw.githubusercontent.com/declare-lab/red-instruct/main/harmful_questions/dangerousqa.json",
    ),
    "xstest_safe": Source(("xstest", "xstest_prompts"), "walledai/XSTest", None, "test", keep={"label": "safe"}),
    "xstest_contrast": Source(("xstest", "xstest_prompts"), "walledai/XSTest", None, "test", keep={"label": "unsafe"}),
    "orbench_hard": Source(
        ("orbench_hard", "or_bench_hard", "or_bench_hard_1k"), "bench-llm/or-bench", "or-bench-hard-1k", "train", 10
    ),
    "harmbench": Source(
        ("harmbench", "harmbench_behaviors_text_all"),
        f"{_GITHUB}/centerforaisafety/HarmBench/c0423b9/data/behavior_datasets/harmbench_behaviors_text_all.csv",
        keep={"FunctionalCategory": "standard"},
        prompt="Behavior",
        judge="harmbench",
    ),
    "advbench": Source(
        ("advbench", "harmful_behaviors"),
        f"{_GITHUB}/llm-attacks/llm-attacks/main/data/advbench/harmful_behaviors.csv",
        prompt="goal",
    ),
    "jailbreakbench_harmful": Source(
        ("jailbreakbench_harmful", "jbb_harmful", "harmful-behaviors"), _JBB, "behaviors", "harmful", prompt="Goal"
    ),
    "jailbreakbench_benign": Source(
        ("jailbreakbench_benign", "jbb_benign", "benign-behaviors"), _JBB, "behaviors", "benign", prompt="Goal"
    ),
    "strongreject": Source(
        ("strongreject", "strongreject_dataset"),
        f"{_GITHUB}/alexandrasouly/strongreject/3432b2d696b428f242bd507df96d80f686571d5e/strongreject_dataset/"
        "strongreject_dataset.csv",
        prompt="forbidden_prompt",
        judge="strongreject",
    ),
    "sorry_bench": Source(
        ("sorry_bench", "sorrybench"),
        "sorry-bench/sorry-bench-202503",
        keep={"prompt_style": "base"},
        prompt="turns",
        terms="it is gated: accept its terms on https://huggingface.co/datasets/sorry-bench/sorry-bench-202503, then "
        "run `hf auth login`",
    ),
    "air_bench": Source(("air_bench", "air_bench_2024"), "stanford-crfm/air-bench-2024", "default", "test"),
    "jbb_artifacts": Source(
        ("jbb_artifacts", "vicuna-13b-v1.5"),
        f"{_GITHUB}/JailbreakBench/artifacts/1b8eaeb1d71869cf2621cbe8f1f3dbf6b8fe8d4c/attack-artifacts/PAIR/black_box/"
        "vicuna-13b-v1.5.json",
        prompt="goal",
        attack="prompt",
        inside="jailbreaks",
    ),
}

FULL: Final = {
    "catqa": 550,
    "catqa_zh": 550,
    "beavertails": 700,
    "harmfulqa": 1960,
    "shadow": 200,
    "dangerousqa": 200,
    "xstest_safe": 250,
    "xstest_contrast": 200,
    "orbench_hard": 1319,
    "harmbench": 200,
    "advbench": 520,
    "jailbreakbench_harmful": 100,
    "jailbreakbench_benign": 100,
    "strongreject": 313,
    "sorry_bench": 440,
    "air_bench": 5694,
    "jbb_artifacts": 82,
}
SUBSET: Final = FULL | {"catqa": 110, "catqa_zh": 110, "beavertails": 140, "harmfulqa": 196, "orbench_hard": 100}
"""Prompts of each set on the hub: whole, and the paper's subset; a local folder's are counted instead."""
TOPIC: Final = {"catqa": 50, "catqa_zh": 50}
"""Prompts of one category of a whole set."""
