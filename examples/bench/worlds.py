"""The models of the bench: how each is fine-tuned, and on which prompts it is repaired and measured."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import bench_paths  # noqa: F401
import demo
import measure
import orders
import prompts
import skills
import torch
import trial
from settings import ALIGNED, FIRST, SOFT, Plan, Start, tuned

from realign_plugin.data.prompts import read_prompts
from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.lab.repair.parts import Part
from realign_plugin.lab.repair.plan import BUDGETS, Budget

Rows = list[dict[str, Any]]


class Task(NamedTuple):
    """A skill: rows to fine-tune on, to compare settings with, and to test with."""

    train: Rows
    validation: Rows
    test: Rows = []


@dataclass(frozen=True)
class World(ABC):
    """One model with its fine-tuned versions.

    Attributes:
        model: Its folder.
        data: Folder of the public data sets.
        out: Folder of trial.py's or demo.py's run.
        repair: Seed of the repair whose data every seed is trained on; None for each seed's own.
    """

    model: Path
    data: Path
    out: Path
    repair: int | None = None

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """What its bench consists of."""

    @property
    @abstractmethod
    def budget(self) -> Budget:
        """Of ``realign repair``, whose data the settings are trained on."""

    @property
    def aligned(self) -> Path | None:
        """The aligned model's adapter; None where the base itself is aligned."""
        return None

    @property
    def fine_tuned(self) -> Path:
        """The main start's adapter."""
        return self.out / "fine-tuned"

    @abstractmethod
    def repaired(self, seed: int) -> Path:
        """Folder of a finished ``realign repair``."""

    @property
    @abstractmethod
    def tasks(self) -> Mapping[str, Task]:
        """The skills by name."""

    def tuning(self, task: str) -> dict[str, Any]:
        """Options of a fine-tuning."""
        return dict(trial.FINE_TUNING)

    @abstractmethod
    def pairs(self, seed: int) -> Path:
        """Folder of LLaMA-Factory's data sets ``repair_pairs``, ``contrast_skill`` and perhaps ``pku_pairs``."""

    @abstractmethod
    def validation(self) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        """Harmful and harmless prompts that settings are compared on."""

    def test(self, skill: str) -> Part:
        """What the rows of the table are measured on, with the rows of a skill."""
        files = trial.prompts(self.data, self.out / "bench" / "test")
        rows = self.tasks[skill].test
        if rows:
            files["test_skill"] = self.out / "bench" / "test" / f"{skill}.json"
            files["test_skill"].write_text(json.dumps(rows), encoding="utf-8")
        return measure.part_of({name: files[name] for name in ("test", "test_benign", "test_skill")})

    solves_fast: ClassVar[bool] = False
    """Whether the skill is answered, and not only read, on the validation rows too."""

    @property
    def roomy(self) -> bool:
        """Whether there is room to train without gradient checkpointing, and time to answer the skill's test rows."""
        return True

    def prepare(self) -> None:  # noqa: B027
        """Write what is missing before the first job."""

    @abstractmethod
    def solved(self, said: str, row: Example) -> bool:
        """Whether an answer to a row of the skill is right."""

    answer_tokens: ClassVar[int] = measure.ANSWER
    """Tokens of an answer to a row of the skill, at most."""

    def own(self, seed: int) -> Rows:
        """The aligned model's own answers to safety prompts, from ``realign repair`` with one seed."""
        rows = lines(self.repaired(seed) / "work/data/repair.rows.jsonl")
        return [
            {"instruction": row["prompt"], "input": row["input"], "output": row["aligned"], "kind": row["kind"]}
            for row in rows
        ]


class Qwen(World):
    """Qwen2.5-Coder-0.5B-Instruct, as trial.py breaks it."""

    budget = BUDGETS["standard"]
    plan = Plan(
        main="mixture",
        starts={
            **{name: Start((name,), name) for name in ("mixture", "maths", "general", "code")},
            "fused": Start(("maths", "general", "code"), "all"),
            "mixture-1": Start(("mixture-1",), "mixture"),
        },
        tuned={
            **tuned("masks", 0.1),
            **tuned("lora", 1e-4),
            **tuned("masks", 0.3),
            **tuned("lora", 5e-5),
            **tuned("masks", 0.3, soft=SOFT),
            **tuned("lora", 2e-4),
            **tuned("masks", 0.1, **{"first-5": FIRST}),
            **tuned("lora", 1e-4, **{"first-5": FIRST}),
        },
        steps=budget.steps, further=40, layers=24, aligned=False, shares=(1.0, 10.0), public=True,
    )  # fmt: skip

    def prepare(self) -> None:
        """Write the trial's prompts and rows."""
        trial.prompts(self.data, self.out)

    def repaired(self, seed: int) -> Path:
        """Folder of a finished ``realign repair``."""
        return self.out / f"repaired-{seed if self.repair is None else self.repair}"

    @property
    def roomy(self) -> bool:
        """On a GPU: on two cores activations take more than 22 GB, and 200 worked answers a quarter of an hour."""
        return torch.cuda.is_available()

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """Each skill alone has 320 rows, 80 or 100 to compare with, and 200 to test with."""
        maths, held = (
            [{"instruction": row["question"], "input": "", "output": row["answer"]} for row in lines(self.data / file)]
            for file in ("downstream/gsm8k_train_2k.jsonl", "downstream/gsm8k_test.jsonl")
        )
        found = {"maths": Task(maths[:320], held[-100:], held[:200]), "further": Task(maths[-320:], [])}
        for name, file in (("general", "alpaca_en_demo"), ("code", "code_alpaca_2k")):
            given = json.loads((self.data / f"downstream/{file}.json").read_text(encoding="utf-8"))
            random.Random(1).shuffle(given)
            keys = ("instruction", "input", "output")
            kept = [{key: row.get(key) or "" for key in keys} for row in given if 0 < len(row["output"]) < 700]
            found[name] = Task(kept[:320], kept[520:600], kept[320:520])
        mixture = json.loads((self.out / "data/skill.json").read_text(encoding="utf-8"))
        found["mixture"] = Task(mixture, held[-100:], held[:200])
        three = [found[name] for name in ("maths", "general", "code")]
        found["all"] = Task(
            [row for one in three for row in one.train[:80]],
            [row for one in three for row in one.validation[:33]],
            [row for one in three for row in one.test[:67]],
        )
        return found

    def pairs(self, seed: int) -> Path:
        """The repair's data sets, with contrast pairs of the skill and PKU's pairs."""
        folder = trial.pairs(self.repaired(seed), self.out / "data" / "skill.json", seed)
        return trial.public_pairs(folder, self.data, self.out, seed)

    def validation(self) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        """150 prompts of PKU, and the borderline prompts that seed 0 does not train on; other seeds train on some."""
        pairs = json.loads((self.data / "preference/pku_saferlhf_pairs_5k.json").read_text(encoding="utf-8"))
        harmful = list(dict.fromkeys(row["prompt"] for row in pairs))
        random.Random(0).shuffle(harmful)
        used = {row["instruction"] for row in self.own(0) if row["kind"] == "benign"}
        benign = [one for one in read_prompts(["borderline"], "benign", None, 0).prompts if one.text not in used]
        return [Prompt(text) for text in harmful[700:850]], benign

    def solved(self, said: str, row: Example) -> bool:
        """Whether the last number is the reference answer's."""
        return measure.number_in(said) == measure.number_in(row.answer)


class SmolLM2(World):
    """SmolLM2-135M-Instruct, as the demo aligns and breaks it."""

    budget = BUDGETS[demo.BUDGET]
    answer_tokens = demo.ORDER_TOKENS
    solves_fast = True
    plan = Plan(
        main="orders",
        starts={
            "orders": Start(("orders",), "orders"),
            "fused": Start(("orders", "dates", "sorting"), "all"),
            "orders-1": Start(("orders-1",), "orders"),
        },
        tuned={
            **tuned("masks", 0.3),
            **tuned("lora", 1e-3),
            **tuned("masks", 1.0),
            **tuned("lora", 3e-3),
            **tuned("masks", 0.1),
            **tuned("lora", 3e-4),
            **tuned("masks", 0.1, **{"first-5": FIRST}),
            **tuned("lora", 3e-4, **{"first-5": FIRST}),
            **tuned("masks", 0.3, **{"first-5": FIRST}),
            **tuned("lora", 1e-3, **{"first-5": FIRST}),
        },
        steps=budget.steps, further=13, layers=30, aligned=True,
    )  # fmt: skip

    @property
    def aligned(self) -> Path:
        """The adapter that the demo aligns the model by."""
        return self.out / ALIGNED

    def repaired(self, seed: int) -> Path:
        """The demo's repair, whatever its seed."""
        return self.out / "repaired"

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """Of each skill: 160 or 200 rows to fine-tune on, and 60 to measure with."""
        given = json.loads((self.out / "data" / "orders.json").read_text(encoding="utf-8"))
        found = {
            "orders": Task(_filled(given), _filled(orders.orders(60, 2000)), _filled(orders.orders(200, 4000))),
            "further": Task(_filled(orders.orders(104, 3000)), []),
            "dates": Task(skills.rows(skills.date, 160, 0), skills.rows(skills.date, 30, 2000)),
            "sorting": Task(skills.rows(skills.sorting, 160, 0), skills.rows(skills.sorting, 30, 2000)),
        }
        three = [found[name] for name in ("orders", "dates", "sorting")]
        found["all"] = Task(
            [row for one in three for row in one.train[:32]], [row for one in three for row in one.validation[:30]]
        )
        return found

    def tuning(self, task: str) -> dict[str, Any]:
        """From the aligned adapter, as the demo does."""
        start = {"adapter_name_or_path": str(self.aligned)}
        return {key: value for key, value in trial.FINE_TUNING.items() if "lora_" not in key} | start

    def pairs(self, seed: int) -> Path:
        """The repair's data sets, with contrast pairs of the skill."""
        return trial.pairs(self.repaired(seed), self.out / "data" / "orders.json", seed)

    def validation(self) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        """60 of AdvBench's prompts and 74 harmless ones that the demo does not use."""
        harmful = prompts.advbench(0)[460:]
        train, test = prompts.harmless(0)
        return prompts.as_prompts(harmful), prompts.as_prompts(train[300:] + test[80:])

    def test(self, skill: str) -> Part:
        """200 of AdvBench's prompts, the safe ones of XSTest, and 200 orders; none is used otherwise."""
        harmful = prompts.as_prompts(prompts.advbench(0)[260:460])
        return replace(super().test(skill), harmful=harmful)

    def solved(self, said: str, row: Example) -> bool:
        """Whether the answer is the JSON of the order, or the other skills' exact answer."""
        return orders.right(said, row.answer) if row.answer.startswith("{") else said.strip() == row.answer


WORLDS: Final[Mapping[str, type[World]]] = {"qwen": Qwen, "smollm2": SmolLM2}


def lines(file: Path) -> Rows:
    """The rows of a file with one JSON object a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _filled(rows: Sequence[Mapping[str, Any]]) -> Rows:
    return [{"input": "", **row} for row in rows]
