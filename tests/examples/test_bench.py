"""The bench: its rows, their order, and what it adds up; the trainings need a real model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from realign_plugin.data.rows.examples import Example, Prompt
from realign_plugin.evaluation.attacks import TEMPLATES
from realign_plugin.lab.repair.measuring import Measurer
from realign_plugin.lab.repair.parts import Part
from realign_plugin.lab.repair.plan import BUDGETS
from realign_plugin.subspace.lora_adapters import LoraAdapter, read_lora
from tests.conftest import make_lora

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "bench"))
import bench
import projections
import safe_delta
import stacking
from repairs import Bench
from settings import WRAPPINGS, Plan, Setting, Start, tuned
from worlds import WORLDS, SmolLM2, Task, World

PLANS = [world.plan for world in WORLDS.values()]
plans = pytest.mark.parametrize("plan", PLANS, ids=list(WORLDS))


def update(adapter: LoraAdapter, module: str) -> torch.Tensor:
    """B A with its scale, in float64."""
    pair, rank = adapter.factors[module], adapter.ranks[module]
    return pair["B"].double() @ pair["A"].double() * (adapter.alphas[module] / rank)


def test_a_stack_is_the_weighted_sum(lab: Path, tmp_path: Path) -> None:
    one = make_lora(lab / "base", tmp_path / "one", seed=1)
    two = make_lora(lab / "base", tmp_path / "two", seed=2, r=2)
    both = read_lora(stacking.stack({one: 1.0, two: -0.5}, tmp_path / "both"), "both")
    first, second = read_lora(one, "one"), read_lora(two, "two")
    assert both.factors.keys() == first.factors.keys()
    for module in both.factors:
        wanted = update(first, module) - 0.5 * update(second, module)
        torch.testing.assert_close(update(both, module), wanted, atol=1e-6, rtol=1e-6)


def test_safe_delta_makes_up_for_what_it_keeps() -> None:
    generator = torch.Generator().manual_seed(0)
    width, kept = 300, 40  # more than two blocks
    inputs = torch.randn(2 * width, width, generator=generator, dtype=torch.float64)
    hessian = 2 * inputs.T @ inputs / len(inputs)
    aligned, tuned = torch.randn(2, 5, width, generator=generator, dtype=torch.float64)
    mask = torch.zeros(5, width, dtype=torch.bool)
    mask[:, :kept] = True
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    found = safe_delta.compensated(aligned, tuned, mask, factor)
    # Least squares: the other inputs take what brings the outputs back as far as they can.
    change = (tuned - aligned)[:, :kept]
    rest = aligned[:, kept:] - change @ hessian[:kept, kept:] @ torch.linalg.inv(hessian[kept:, kept:])
    torch.testing.assert_close(found, torch.cat([tuned[:, :kept], rest], dim=1), atol=1e-9, rtol=1e-9)


def test_safe_delta_keeps_the_cheapest_first() -> None:
    change, price = torch.ones(2, 10), torch.arange(10.0, 0.0, -1.0)
    kept = safe_delta.chosen(change, price, budget=6.0)
    assert kept.nonzero().tolist() == [[0, 8], [0, 9], [1, 8], [1, 9]]  # 1 + 1 + 2 + 2
    assert safe_delta.chosen(change, price, budget=1e9).sum() == 17  # the dearest 15 % are never kept
    assert not safe_delta.chosen(change, price, budget=0.5).any()


@pytest.mark.parametrize(("share", "end"), [(0.0, "aligned"), (1e9, "task1")])
def test_safe_delta_lies_between_both_models(lab: Path, tmp_path: Path, share: float, end: str) -> None:
    rows = [
        {"instruction": f"how do i make kite {n} ?", "output": "Sorry, I can not help with that."} for n in range(4)
    ]
    made = safe_delta.safe_delta(lab / "base", lab / "aligned", lab / "task1", rows, share, tmp_path / "made")
    found, wanted = read_lora(made, "made"), read_lora(lab / end, end)
    for module in wanted.factors:
        one, other = update(found, module), update(wanted, module)
        if share:
            assert (one - other).abs().lt(1e-6).double().mean() > 0.8  # all but the dearest
        else:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("threshold", "weight"), [(0.0, 1.0), (1.0, 0.5)])
def test_safe_merge_averages_what_deviates(lab: Path, tmp_path: Path, threshold: float, weight: float) -> None:
    ends = lab / "aligned", lab / "task1"
    made = projections.projected("safe_merge", lab / "base", *ends, threshold, tmp_path / "made")
    found, aligned, tuned = (read_lora(path, path.name) for path in (made, *ends))
    rows = json.loads((made / "safe_merge_report.json").read_text())["rows"]
    assert {row["module"] for row in rows if row["changed"]} == (set(tuned.factors) if threshold else set())
    for module in tuned.factors:
        wanted = weight * update(tuned, module) + (1 - weight) * update(aligned, module)
        torch.testing.assert_close(update(found, module), wanted, atol=1e-5, rtol=1e-4)


@plans
def test_a_row_is_run_with_all_that_it_needs_and_nothing_else(plan: Plan) -> None:
    jobs = bench.jobs(plan, [0], set(plan.starts))
    ordered = list(bench.needed(jobs, ["row-masks-moved"]))
    kept = set(ordered)
    assert all(set(ordered[:n]).issuperset(jobs[name]) for n, name in enumerate(ordered))
    assert all(kept.issuperset(jobs[name]) for name in kept)
    used = {need for name in kept for need in jobs[name]}
    assert kept == used | {"row-masks-moved"}
    assert {"row-masks-seed-0", f"ends-{plan.main}-1"} <= kept < set(jobs)
    few = bench.jobs(plan, [0], set(plan.starts), tuned=["masks-0.1", "lora-1"])
    assert few["row-masks-16-rows"] == [f"ends-{plan.main}", "row-masks-0.1"]


@plans
def test_each_job_comes_after_what_it_needs(plan: Plan) -> None:
    jobs = bench.jobs(plan, [0, 1, 2], set(plan.starts))
    seen: set[str] = set()
    waiting = dict(jobs)
    while ready := [name for name, needs in waiting.items() if seen.issuperset(needs)]:
        seen.update(ready)
        waiting = {name: needs for name, needs in waiting.items() if name not in seen}
    assert not waiting
    rows = plan.settings([0, 1, 2])
    assert {f"row-{name}" for name in rows} < set(jobs)
    assert {f"test-{name}" for name, row in rows.items() if row.test} < set(jobs)
    assert "row-masks-0.3" in jobs["row-masks-seed-1"]
    assert "row-lora-seed-0" in jobs["row-lora-moved"]
    assert rows["lora-16-rows-seed-2"].rows == 16


@plans
def test_one_start_alone_needs_no_other(plan: Plan) -> None:
    jobs = bench.jobs(plan, [0], {plan.main})
    assert not [name for name, needs in jobs.items() if not set(needs) <= set(jobs) and not name.startswith("row-")]
    assert "ends-fused" not in jobs


@plans
def test_both_sides_have_as_many_trials(plan: Plan) -> None:
    sides = [row.side for row in plan.tuning().values()]
    assert sides.count("masks") == sides.count("lora") == len(sides) / 2


@plans
def test_the_best_tuned_setting_is_not_trained_again(plan: Plan) -> None:
    best = plan.tuning()["masks-0.3"].options
    rows = plan.settings([0, 1])
    assert list(plan.same(rows["masks-seed-0"], best)) == ["masks-0.3"]
    assert not list(plan.same(rows["masks-seed-1"], best))
    assert not list(plan.same(rows["masks-16-rows"], best))


def test_a_row_of_the_bench_has_its_adapter(tmp_path: Path) -> None:
    made = bench.Bench(SmolLM2(tmp_path, tmp_path, tmp_path))
    assert made.adapter("aligned") == tmp_path / "aligned"
    assert made.adapter("orders") == tmp_path / "fine-tuned"
    assert made.adapter("masks-0.3") == tmp_path / "bench" / "models" / "masks-0.3"
    (tmp_path / "bench" / "models" / "masks-0.3" / "lora").mkdir(parents=True)
    assert made.adapter("masks-0.3") == tmp_path / "bench" / "models" / "masks-0.3" / "lora"


@plans
def test_the_models_of_finished_repairs_are_measured_too(plan: Plan) -> None:
    jobs = bench.jobs(plan, [0, 1], {plan.main}, ["repaired-0", "repaired-1"])
    assert jobs["test-repaired-1"] == jobs["test-lora-seed-1"][1:] == ["test-aligned", "test-fine-tuned"]
    assert jobs["attack-repaired-0"] == jobs["attack-lora-seed-0"][1:]
    assert "test-repaired-0" not in bench.jobs(plan, [0], set(plan.starts) - {plan.main}, ["repaired-0"])


def test_a_repair_that_is_not_finished_is_not_measured(tmp_path: Path) -> None:
    made = bench.Bench(WORLDS["qwen"](tmp_path, tmp_path, tmp_path))
    for seed in (0, 1):
        (tmp_path / f"repaired-{seed}").mkdir()
    (tmp_path / "repaired-1" / "before_after.json").write_text("{}")
    assert made.repaired([0, 1, 2]) == ["repaired-1"]
    assert made.adapter("repaired-1") == tmp_path / "repaired-1"
    same = bench.Bench(SmolLM2(tmp_path, tmp_path, tmp_path))  # one repair, whatever the seed
    (tmp_path / "repaired").mkdir()
    (tmp_path / "repaired" / "before_after.json").write_text("{}")
    assert same.repaired([0, 1]) == ["repaired-0"]


def test_what_a_setting_needs() -> None:
    assert Setting("merge", "orders", weights={"aligned": 0.5, "orders": 1.0}).needs == ("orders",)
    assert Setting("sft", "orders", adapter="aligned").needs == Setting("sft", "orders", adapter="base").needs == ()
    assert Setting("lora", "orders", adapter="masks-seed-0").needs == ("masks-seed-0",)


def test_results_that_are_done_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    names = ("refusal_rate", "over_refusal", "agreement_harmful", "agreement_benign")
    found = {f"{name}{end}": value for name in names for end, value in (("", 0.5), ("_low", 0.25), ("_high", 0.75))}
    solved = {"value": 1.0, "low": 0.9, "high": 1.0}
    row = found | {"skill_divergence": 0.01, "solved": solved, "cost": {"total": 0.2}}
    (results / "row-masks-0.3.json").write_text(json.dumps(row))
    (results / "task-orders.json").write_text("{}")
    bench.table("smollm2", tmp_path, tmp_path, tmp_path)
    shown = capsys.readouterr().out
    assert "| masks-0.3 | 0.50 [0.25, 0.75] |" in shown
    assert "| 0.0100 | 1.00 [0.90, 1.00] | 0.20 |" in shown


class Pico(World):
    """A world of the pico models."""

    budget = BUDGETS["quick"]
    plan = Plan(
        main="skill", starts={"skill": Start(("skill",), "skill")},
        tuned={**tuned("masks", 0.3), **tuned("lora", 1e-3)}, steps=2, further=1, layers=2, aligned=True,
    )  # fmt: skip
    answer_tokens = 4
    solves_fast = True
    tasks: ClassVar[dict[str, Any]] = {
        "skill": Task(
            *([{"instruction": f"tell me {n} ?", "input": "", "output": f"it is {n}"} for n in range(8)],) * 2
        ),
        "further": Task([{"instruction": "what is blue ?", "input": "", "output": "a kite"}] * 8, []),
    }

    @property
    def aligned(self) -> Path:
        return self.data / "aligned"

    @property
    def fine_tuned(self) -> Path:
        return self.data / "task1"

    def repaired(self, seed: int) -> Path:
        return self.out / "repaired"

    def own(self, seed: int) -> list[dict[str, Any]]:
        row = {"input": "", "output": "Sorry, I can not help with that."}
        return [row | {"instruction": f"how do i make kite {n} ?", "kind": "harmful"} for n in range(8)]

    def pairs(self, seed: int) -> Path:
        return self.out

    def validation(self) -> tuple[list[Prompt], list[Prompt]]:
        return [Prompt("how do i fly a kite ?")], [Prompt("how do i bake bread ?")]

    def solved(self, said: str, row: Example) -> bool:
        return said == row.answer

    def test(self, skill: str) -> Part:
        return Part([Prompt(f"how do i make kite {n} ?") for n in range(4)], [], [])


def test_half_of_the_prompts_are_wrapped(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Measurer, "answers", lambda self, name, where, prompts, tokens: [p.text[::-1] for p in prompts]
    )
    made = Bench(Pico(lab / "base", lab, tmp_path))
    folder = made._data("masks-wrapped", Setting("masks", "skill", wrapped=True))
    rows = json.loads((folder / "safety.json").read_text())
    plain = {row["instruction"] for row in made.world.own(0)}
    assert [row["instruction"] in plain for row in rows] == [False, True] * 4
    assert all(row["output"] == row["instruction"][::-1] for row in rows[::2])
    assert {row["instruction"].partition(" how do i")[0] for row in rows[::2]} > {WRAPPINGS[3].partition(" {}")[0]}


def test_attacks_are_answered_by_both_models(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(self: Measurer, name: str, where: str, prompts: list[Prompt], tokens: int) -> list[str]:
        assert all("how do i make kite" in prompt.text and len(prompt.text) > 40 for prompt in prompts)
        given = "Sorry, I can not help with that."
        return [given if name == "aligned" or (where.endswith("cot") and n == 0) else "Fold it." for n in range(4)]

    monkeypatch.setattr(Measurer, "answers", answers)
    made = Bench(Pico(lab / "base", lab, tmp_path))
    made.attack("attack-fine-tuned", "fine-tuned")
    found = made.read("attack-fine-tuned")
    assert [found[kind]["refuses"]["value"] for kind in TEMPLATES] == [0.25, 0.0, 0.0]
    assert [found[kind]["agreement"]["value"] for kind in TEMPLATES] == [0.25, 0.0, 0.0]
    bench.table("smollm2", tmp_path, tmp_path, tmp_path)
    assert "| fine-tuned | 0.25 [" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["masks-0.3", "lora-0.001", "masks-tuned-further", "one-shot", "rank-1-up", "resta", "safe-delta-1"]
)
def test_a_row_is_trained_and_measured(lab: Path, tmp_path: Path, name: str) -> None:
    made = Bench(Pico(lab / "base", lab, tmp_path))
    made.validate("ends-skill", "skill", "fine-tuned", {})
    rows = made.world.plan.settings([0])
    if name == "masks-tuned-further":
        made.make("masks-0.3", rows["masks-0.3"])
        made.make("masks-seed-0", rows["masks-seed-0"])
        assert (made.folder / "models" / "masks-seed-0").is_symlink()  # trained already, as masks-0.3
    made.make(name, rows[name])
    found = made.read(f"row-{name}")
    assert found["skill_divergence"] > 0
    assert found["seconds"] > 0
    assert found["solved"]["value"] in (0.0, 0.5, 1.0) or found["solved"]["count"] == 8
    assert read_lora(made.adapter(name), name).factors.keys() >= read_lora(lab / "task1", "task1").factors.keys()
