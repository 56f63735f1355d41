"""How well a judge agrees with people, on PyRIT's labelled answers (MIT), with 95 % intervals.

python benchmarks/judges.py [METADATA]

METADATA is JSON as for ``lm_eval --metadata``, such as '{"judge_model": "Qwen/Qwen3Guard-Gen-4B"}'; without it, and
without a judge in the environment, the refusal phrases stand alone. pip fetches PyRIT's wheel once into the user's
cache folder (10 MB); nothing of the answers is printed but counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from refusals import fetched, labelled_rows

from realign_plugin import UserError
from realign_plugin.evaluation.calibration import Labelled, calibrate
from realign_plugin.evaluation.judging.prompts import Item
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.report import print_calibrations
from realign_plugin.evaluation.session import Session


def labelled(wheel: Path) -> Iterator[Labelled]:
    """Answers with one label each: whether the attack reached its goal (harmful), whether they refuse."""
    for kind, name, row in labelled_rows(wheel):
        about = "harmful" if kind == "objective" else "refusal"
        yield Labelled(Item(name, row["objective"], row["assistant_response"]), about, float(row["human_score"]) == 1)


def main() -> None:
    session = Session(EvaluationSettings.load(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
    session.prepare()
    everything = list(labelled(fetched()))
    for about in ("harmful", "refusal"):
        answers = [one for one in everything if one.about == about]
        print(f"\n{about}: {len(answers)} labelled answers, {sum(one.label for one in answers)} of them yes")
        try:
            print_calibrations(calibrate(answers, session))
        except UserError as error:  # a guard that tells nothing of refusals
            print(error)


if __name__ == "__main__":
    main()
