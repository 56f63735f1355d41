"""Tasks of a user's own that are made of ours: what their files say holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from realign_plugin.evaluation.task_names import tasks_folder
from tests.evaluation.parrot import Evaluate, Parrot


class Noting(Parrot):
    """The parrot, which keeps the requests."""

    requests: list[Any]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.requests = requests
        return super().generate_until(requests)


def test_a_downstream_task_takes_what_its_file_and_its_group_say(evaluate: Evaluate, mine: Path, data: Path) -> None:
    sums = [{"question": f"what is {n} plus 1 ?", "answer": f"it is so\n#### {n + 1}"} for n in range(6)]
    (data / "gsm8k.jsonl").write_text("\n".join(map(json.dumps, sums)))
    own = {"num_fewshot": 0, "description": "Think.", "generation_kwargs": {"max_gen_toks": 9}}
    ours = tasks_folder() / "realign_downstream/realign_gsm8k.yaml"
    (mine / "zero.yaml").write_text(json.dumps({"include": str(ours), "task": "zero"} | own))
    member = {"task": "realign_gsm8k", "num_fewshot": 2}
    (mine / "two.yaml").write_text(json.dumps({"group": "two", "task": [member]}))
    model = Noting()
    found = evaluate("zero", model=model)  # which needs no examples
    assert {request.args[0].count("Answer:") for request in model.requests} == {1}
    assert all(request.args[0].startswith("Think.") for request in model.requests)
    assert model.requests[0].args[1] | {"max_gen_toks": 9, "do_sample": False} == model.requests[0].args[1]
    assert "Question:" in model.requests[0].args[1]["until"]
    assert "exact_match,strict-match" in found["results"]["zero"]
    (data / "gsm8k_train.jsonl").write_text("\n".join(map(json.dumps, sums)))
    assert evaluate("two", model=model)["n-shot"]["realign_gsm8k"] == 2
    assert {request.args[0].count("Answer:") for request in model.requests} == {3}


def test_a_part_of_the_generation_arguments_leaves_the_others(evaluate: Evaluate, mine: Path) -> None:
    own = {"task": "mine", "generation_kwargs": {"max_gen_toks": 64}}
    (mine / "mine.yaml").write_text(json.dumps({"include": str(tasks_folder() / "safety/safety_catqa.yaml")} | own))
    model = Noting()
    evaluate("mine", model=model)
    assert model.requests[0].args[1] == {"max_gen_toks": 64, "until": [], "do_sample": False}
