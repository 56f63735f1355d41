"""Self-distillation in-process, through the stock entry point ``run_exp``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp
from peft import PeftModel
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from realign_plugin.training.answer_head import AnswerHead, answer_positions
from realign_plugin.training.distill_trainer import SafetyDistillTrainer
from realign_plugin.training.teachers import TeacherCache
from tests.conftest import logits_of, make_lora, training_options
from tests.training.test_mask_dpo import history, losses, same_logits


@pytest.fixture(scope="session")
def world(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico lab with fine-tuned adapters that are far from the aligned one."""
    root = tmp_path_factory.mktemp("distill")
    for name in ("base", "aligned", "safety.json", "skill.json", "dataset_info.json"):
        (root / name).symlink_to(lab / name)
    for number in (1, 2):
        make_lora(lab / "base", root / f"task{number}", start=lab / "aligned", seed=10 + number, step=0.3)
    return root


def options(world: Path, out: Path, **changes: Any) -> dict[str, Any]:
    ours = {
        "stage": "safety_distill",
        "dataset": "safety,skill",
        "skill_dataset": "skill",
        "learning_rate": 0.3,
        "per_device_train_batch_size": 8,
    }
    return training_options(world, out, **(ours | changes))


def first(run: Path) -> dict[str, Any]:
    return history(run)[0]


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
def test_both_divergences_fall(world: Path, tmp_path: Path, kind: str) -> None:
    rate = {"learning_rate": 0.3 if kind == "safety_subspace" else 1e-2}
    run_exp(
        options(
            world, tmp_path, finetuning_type=kind, max_steps=40, plot_loss=True, val_size=0.2, do_eval=True, **rate
        )
    )
    logged = [entry for entry in history(tmp_path) if "loss" in entry]
    assert logged[-1]["kl/aligned"] < 0.6 * logged[0]["kl/aligned"]
    assert 0 <= logged[-1]["first_token/fine_tuned"] <= 1
    assert ("mask/mean" in logged[0]) == (kind == "safety_subspace")
    known = json.loads((tmp_path / "eval_results.json").read_text())
    assert known["eval_loss"] == pytest.approx(known["eval_kl/aligned"] + known["eval_kl/fine_tuned"])
    assert (tmp_path / "training_kl_aligned.png").is_file()


def one_step(world: Path, out: Path, **changes: Any) -> dict[str, Any]:
    run_exp(options(world, out, max_steps=1, learning_rate=1e-9, per_device_train_batch_size=48, **changes))
    return first(out)


@pytest.mark.parametrize("tasks", [{}, {"task_adapters": ["task1", "task2"], "fusion_method": "ties"}])
def test_a_mask_of_ones_is_the_fine_tuned_teacher_and_one_of_zeros_the_aligned(
    world: Path, tmp_path: Path, tasks: dict[str, Any]
) -> None:
    given = {"task_adapters": [str(world / name) for name in tasks.get("task_adapters", ["task1"])]}
    ones, zeros = (
        one_step(world, tmp_path / str(init), mask_init=init, mask_noise=0.0, **(tasks | given)) for init in (30, -30)
    )
    assert ones["kl/fine_tuned"] <= 1e-6
    assert ones["kl/aligned"] > 1e-2
    assert ones["first_token/fine_tuned"] == 1
    assert zeros["kl/aligned"] <= 1e-6
    assert zeros["kl/fine_tuned"] > 1e-2


def test_lora_starts_at_the_fine_tuned_teacher(world: Path, tmp_path: Path) -> None:
    start = one_step(world, tmp_path / "run", finetuning_type="lora")
    assert start["kl/fine_tuned"] <= 1e-6
    assert start["kl/aligned"] > 1e-2
    assert start["loss"] == pytest.approx(start["kl/aligned"], rel=1e-4)


def test_without_an_aligned_adapter_the_base_is_the_teacher(world: Path, tmp_path: Path, base_model: Any) -> None:
    one = one_step(world, tmp_path / "one", finetuning_type="lora", aligned_adapter=None)
    two = one_step(world, tmp_path / "two", mask_init=30, mask_noise=0.0, aligned_adapter=None)
    assert one["kl/aligned"] == pytest.approx(two["kl/aligned"], rel=1e-4)


def test_whole_weights(world: Path, tmp_path: Path, lab: Path, models: list[Path]) -> None:
    changes = {"aligned_adapter": None, "task_adapters": None, "task_models": [str(models[0])]}
    run = one_step(world, tmp_path / "run", mask_init=30, mask_noise=0.0, **changes)
    assert run["kl/fine_tuned"] <= 1e-6
    assert run["kl/aligned"] > 1e-4


def test_the_saved_lora_is_one_adapter(world: Path, tmp_path: Path, base_model: Any, tokens: torch.Tensor) -> None:
    run_exp(options(world, tmp_path, finetuning_type="lora", learning_rate=1e-2, save_strategy="steps", save_steps=2))
    assert not [
        path for path in tmp_path.rglob("adapter_config.json") if path.parent.name in ("aligned", "fine_tuned")
    ]
    model = PeftModel.from_pretrained(base_model, tmp_path).eval()
    assert list(model.peft_config) == ["default"]
    start = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), world / "task1").eval()
    assert (logits_of(model, tokens) - logits_of(start, tokens)).abs().max() > 1e-3


def test_the_exported_lora_is_the_trained_subspace(
    world: Path, tmp_path: Path, base_model: Any, tokens: torch.Tensor
) -> None:
    run_exp(options(world, tmp_path / "run", max_steps=6))
    subspace = SafetySubspace.load(tmp_path / "run")
    spec = subspace.spec
    assert (spec.mask, spec.mask_estimator, spec.mask_noise, spec.mask_temperature) == ("soft", "relaxed", 0.0, 1.0)
    whole = PeftModel.from_pretrained(base_model, tmp_path / "run").eval()
    lora = subspace.to_lora(tmp_path / "lora")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), lora).eval()
    torch.testing.assert_close(logits_of(plain, tokens), logits_of(whole, tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
def test_resuming_gives_the_model_of_an_unbroken_run(world: Path, tmp_path: Path, kind: str) -> None:
    changes = {"finetuning_type": kind, "learning_rate": 0.1 if kind == "safety_subspace" else 1e-3, "max_steps": 6}
    changes |= {"save_strategy": "steps", "save_steps": 3}
    run_exp(options(world, tmp_path / "whole", **changes))
    run_exp(options(world, tmp_path / "broken", **changes))
    for leftover in [tmp_path / "broken" / "checkpoint-6" / "trainer_state.json", *(tmp_path / "broken").glob("*.*")]:
        leftover.unlink()  # as if killed while the last checkpoint was written
    run_exp(options(world, tmp_path / "broken", **changes))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    if kind == "safety_subspace":
        assert same_logits(tmp_path / "broken", tmp_path / "whole")
    else:
        weights = [(tmp_path / run / "adapter_model.safetensors").read_bytes() for run in ("whole", "broken")]
        assert weights[0] == weights[1]


def test_teachers_are_asked_once_for_each_row(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    teacher = AnswerHead.teacher

    def counted(self: AnswerHead, forward: Any, where: torch.Tensor) -> torch.Tensor:
        asked.append(len(where))
        return teacher(self, forward, where)

    changes = {"max_steps": None, "num_train_epochs": 3.0, "mask_noise": 0.0}
    monkeypatch.setattr(AnswerHead, "teacher", counted)
    run_exp(options(world, tmp_path / "one", **changes))
    assert sum(asked) == 48
    monkeypatch.setattr(TeacherCache, "get", lambda *_: None)
    run_exp(options(world, tmp_path / "two", **changes))
    assert sum(asked) == 48 + 3 * 48
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-5)


def test_gradient_checkpointing_changes_nothing(world: Path, tmp_path: Path) -> None:
    for name, off in (("with", False), ("without", True)):
        run_exp(options(world, tmp_path / name, disable_gradient_checkpointing=off, max_steps=3))
    assert losses(tmp_path / "with") == pytest.approx(losses(tmp_path / "without"), abs=1e-6)


@pytest.mark.parametrize(
    "given",
    [{}, {"distill_divergence": "reverse", "distill_temperature": 2.0}, {"distill_first_weight": 5.0}],
    ids=["default", "reverse", "first token"],
)
def test_the_gradient_is_autograds_in_float64(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    """The whole step against a model whose weights are made of masks by plain torch."""
    seen: list[tuple[dict[str, Any], torch.Tensor, dict[str, torch.Tensor]]] = []
    compute = SafetyDistillTrainer.compute_loss

    def kept(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        batch = {name: value.clone() for name, value in inputs.items()}
        loss = compute(self, model, inputs, *args, **kwargs)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], retain_graph=True)
        seen.append((batch, loss.detach(), dict(zip(names, found, strict=True))))
        return loss

    monkeypatch.setattr(SafetyDistillTrainer, "compute_loss", kept)
    weight, temperature = 0.7, given.get("distill_temperature", 1.0)
    changes = {"mask_estimator": "relaxed", "mask_noise": 0.0, "mask_init": 0.4, "distill_skill_weight": weight}
    changes |= {"max_steps": 1, "learning_rate": 1e-9, "per_device_train_batch_size": 10}
    run_exp(options(world, tmp_path, disable_gradient_checkpointing=True, **changes, **given))
    batch, loss, gradients = seen[0]
    subspace = SafetySubspace.from_adapters(world / "aligned", [world / "task1"])
    model = AutoModelForCausalLM.from_pretrained(world / "base").double()
    weights = {name: value.double() for name, value in model.state_dict().items()}
    logits = {
        (module, factor): torch.full_like(subspace.logits[module][factor], 0.4, dtype=torch.float64).requires_grad_()
        for module in subspace.logits
        for factor in "AB"
    }

    def said(mask: Any) -> torch.Tensor:
        changed = dict(weights)
        for module in subspace.logits:
            parts = {}
            for factor in "AB":
                m = mask(logits[module, factor])
                scaled = m / m.mean() if m.any() else m
                parts[factor] = subspace.aligned[module][factor].double() + subspace.deltas[0][module][factor] * scaled
            changed[f"{module}.weight"] = weights[f"{module}.weight"] + 2.0 * parts["B"] @ parts["A"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return torch.log_softmax(functional_call(model, changed, kwargs=inputs).logits / temperature, dim=-1)

    student = said(torch.sigmoid)
    with torch.no_grad():
        teachers = (said(torch.zeros_like), said(torch.ones_like))
    where = answer_positions(batch["labels"])
    expected = torch.zeros((), dtype=torch.float64)
    for row, number in enumerate(batch["teacher"].tolist()):
        mine, other = student[row][where[row]], teachers[number][row][where[row]]
        one, two = (mine, other) if "distill_divergence" in given else (other, mine)
        tokens = (one.exp() * (one - two)).sum(-1) * temperature**2
        heed = torch.ones_like(tokens)
        heed[0] = 1.0 if number else given.get("distill_first_weight", 1.0)
        kl = (tokens * heed).sum() / heed.sum()
        expected = expected + (1.0, weight)[number] / 0.5 * kl  # each teacher has half of the data
    expected = expected / len(where)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    wanted = torch.autograd.grad(expected, list(logits.values()))
    for (module, factor), gradient in zip(logits, wanted, strict=True):
        found = gradients[f"base_model.model.{module}.safety_subspace_logits_{factor}.default"]
        torch.testing.assert_close(found.double(), gradient, atol=1e-8, rtol=1e-3)


def test_without_a_skill_when_its_weight_is_zero(world: Path, tmp_path: Path) -> None:
    run_exp(options(world, tmp_path, dataset="safety", skill_dataset=None, distill_skill_weight=0.0, max_steps=3))
    logged = [entry for entry in history(tmp_path) if "loss" in entry]
    assert all(entry["loss"] > 0 and "kl/aligned" in entry and "kl/fine_tuned" not in entry for entry in logged)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no skill": ({"skill_dataset": None}, "skill_dataset: not set, expected one or more of dataset"),
    "a skill that is not trained": ({"dataset": "safety", "distill_skill_weight": 0.0}, "skill_dataset: 'skill' is"),
    "unknown skill": ({"skill_dataset": "skil"}, r"skill_dataset: 'skil' is unknown, .* did you mean 'skill'"),
    "skill alone": ({"dataset": "skill"}, "dataset: skill are all in skill_dataset, expected safety prompts"),
    "packing": ({"packing": True}, "packing: True with stage: safety_distill, expected none"),
    "reference model": ({"ref_model": "x"}, "ref_model: 'x' with stage: safety_distill, expected none"),
    "divergence": ({"distill_divergence": "backward"}, "distill_divergence: 'backward' is unknown"),
    "temperature": ({"distill_temperature": 0.0}, "distill_temperature: 0.0 is out of range"),
    "first weight": ({"distill_first_weight": 0.0}, "distill_first_weight: 0.0 is out of range"),
    "weight": ({"distill_skill_weight": -1.0}, "distill_skill_weight: -1.0 is out of range"),
    "type": ({"finetuning_type": "full"}, "finetuning_type: 'full' is unknown, expected one of safety_subspace, lora"),
    "models as lora": (
        {"finetuning_type": "lora", "task_adapters": None, "task_models": ["x"], "aligned_adapter": None},
        "task_models: 'x' with finetuning_type: lora, expected none",
    ),
    "resumed lora": (
        {"finetuning_type": "lora", "adapter_name_or_path": "x"},
        "adapter_name_or_path: 'x' with finetuning_type: lora, expected none",
    ),
    "DoRA": ({"finetuning_type": "lora", "use_dora": True}, "use_dora: True has no meaning here"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes(world: Path, tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises((UserError, ValueError), match=message) as caught:
        run_exp(options(world, tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
def test_gradients_that_are_not_numbers_stop_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    step = SafetyDistillTrainer.training_step

    def spoilt(self: SafetyDistillTrainer, model: Any, *args: Any) -> Any:
        loss = step(self, model, *args)
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad[0] = float("nan")  # type: ignore[index]
        return loss

    monkeypatch.setattr(SafetyDistillTrainer, "training_step", spoilt)
    with pytest.raises(UserError, match="grad_norm: nan by step 3, expected a number"):
        run_exp(options(world, tmp_path, finetuning_type=kind, max_steps=5, logging_steps=1))
    assert not (tmp_path / "adapter_model.safetensors").exists()
