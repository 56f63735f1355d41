"""Alpaca's held-out requests, each with one of IFEval's rules, as a file for ``lm_eval --tasks realign_ifeval``.

    python examples/bench/instructions.py DATA OUT        DATA and OUT as in bench.py; needs lm-eval[ifeval]

IFEval's own prompts (arXiv 2311.07911) are on a hub only; its rules and their checks come with lm-eval.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import bench_paths  # noqa: F401
import typer
from worlds import WORLDS

RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "combination:repeat_prompt": {},
    "combination:two_responses": {},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_content:postscript": {},
    "detectable_format:json_format": {},
    "detectable_format:multiple_sections": {"num_sections": 2},
    "detectable_format:number_bullet_lists": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:title": {},
    "keywords:existence": {},
    "keywords:forbidden_words": {},
    "keywords:frequency": {},
    "keywords:letter_frequency": {},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 60},
    "punctuation:no_comma": {},
    "startend:end_checker": {},
    "startend:quotation": {},
}
"""Those that fit any request, with what must not be drawn at random: answers have a few hundred tokens at most."""


def rows(requests: list[str], seed: int = 0) -> list[dict[str, Any]]:
    """Rows in IFEval's columns; the rules take turns."""
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    random.seed(seed)  # lm-eval draws what a rule asks for from the module's own generator
    found = []
    for number, request in enumerate(requests):
        name = list(RULES)[number % len(RULES)]
        rule, given = INSTRUCTION_DICT[name](name), dict(RULES[name])
        if "prompt_to_repeat" in rule.get_instruction_args_keys():
            given["prompt_to_repeat"] = request
        text = f"{request}\n{rule.build_description(**given)}"
        kwargs = [rule.get_instruction_args() or {}]
        found.append({"key": number, "prompt": text, "instruction_id_list": [name], "kwargs": kwargs})
    return found


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the public data sets.")],
    out: Annotated[Path, typer.Argument(help="Folder of trial.py's run.")],
) -> None:
    """Write OUT/bench/ifeval/ifeval.jsonl."""
    held = WORLDS["qwen"](Path(), data, out).tasks["general"].test
    requests = ["\n".join(filter(None, (row["instruction"], row["input"]))) for row in held]
    file = out / "bench" / "ifeval" / "ifeval.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(requests)), encoding="utf-8")
    typer.echo(f"{file}: {len(requests)} requests")


if __name__ == "__main__":
    typer.run(main)
