"""Safe LoRA and SafeMERGE against a second implementation: square matrices, float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from realign_plugin import UserError
from realign_plugin.merging.alignment import Update, cosine, difference, inner, project
from tests.conftest import make_fine_tuned, make_lora
from tests.merging.conftest import Merge, state_of


def lora(folder: Path, module: str) -> np.ndarray:
    """What an adapter adds: alpha 8 over rank 4 times B A, float64."""
    state = load_file(folder / "adapter_model.safetensors")
    a, b = (state[f"base_model.model.{module}.lora_{f}.weight"].double().numpy() for f in "AB")
    return np.asarray(2.0 * b @ a)


def angle_and_projection(alignment: np.ndarray, update: np.ndarray) -> tuple[float, np.ndarray]:
    square = alignment @ alignment.T / np.linalg.norm(alignment)
    moved = square @ update
    return float((update * moved).sum() / np.linalg.norm(update) / np.linalg.norm(moved)), moved


def modules_of(folder: Path) -> list[str]:
    names = load_file(folder / "adapter_model.safetensors")
    return sorted({name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names})


def configuration(
    method: str, base: Path, models: list[dict[str, Any]] | None = None, **parameters: Any
) -> dict[str, Any]:
    listed = models or [{"model": str(base)}]
    given = {key: str(value) if isinstance(value, Path) else value for key, value in parameters.items()}
    return {"merge_method": method, "base_model": str(base), "models": listed, "parameters": given}


def role(path: Path, name: str) -> dict[str, Any]:
    return {"model": str(path), "parameters": {"role": name}}


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_thin_factors_give_what_square_matrices_give(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    aligned, tuned = Update(draw(12, 3), draw(3, 9)), Update(draw(12, 4), draw(4, 9))
    for alignment in (aligned, Update(aligned.dense())):
        for update in (tuned, Update(tuned.dense()), difference(tuned, aligned)):
            moved = project(alignment, update)
            angle, expected = angle_and_projection(alignment.dense().double().numpy(), update.dense().double().numpy())
            assert cosine(update, moved) == pytest.approx(angle, abs=1e-5)
            assert np.allclose(moved.dense().double().numpy(), expected, rtol=1e-3, atol=1e-3)
    assert inner(tuned, tuned) == pytest.approx(float(tuned.dense().double().square().sum()), rel=1e-5)


@pytest.mark.parametrize("method", ["safe_lora", "safe_merge"])
@pytest.mark.parametrize("threshold", [-1.0, 0.5, 1.0])
def test_adapters_on_an_unaligned_base(
    yard: Path, merge: Merge, tmp_path: Path, method: str, threshold: float
) -> None:
    home = yard / "fp32"
    parameters = {"aligned_adapter": home / "aligned", "task_adapter": home / "task1", "threshold": threshold}
    if method == "safe_merge":
        parameters |= {"weight": 0.3, "safe_adapter": home / "task2"}
    merged = merge(configuration(method, home / "base", **parameters))
    base = state_of(home / "base")
    report = json.loads((tmp_path / "merged" / f"{method}_report.json").read_text())
    rows = {row["module"]: row for row in report["rows"]}
    touched = modules_of(home / "task1")
    assert set(rows) == set(touched)
    for module in touched:
        aligned, tuned = lora(home / "aligned", module), lora(home / "task1", module)
        angle, projection = angle_and_projection(aligned, tuned - aligned)
        kept = tuned - aligned
        if angle < threshold:
            safe = lora(home / "task2", module) - aligned
            kept = projection if method == "safe_lora" else 0.3 * kept + 0.7 * safe
        assert rows[module]["cosine"] == pytest.approx(angle, abs=1e-5)
        assert rows[module]["changed"] == (angle < threshold)
        expected = base[f"{module}.weight"].double().numpy() + aligned + kept
        assert np.abs(merged[f"{module}.weight"].double().numpy() - expected).max() <= 2e-6
    for name, tensor in merged.items():
        assert name.removesuffix(".weight") in touched or torch.equal(tensor, base[name])
    assert report["changed"] == sum(row["changed"] for row in rows.values())
    assert {-1.0: 0, 1.0: len(touched)}.get(threshold, report["changed"]) == report["changed"]


def test_without_a_safe_adapter_deviating_modules_go_towards_the_aligned_model(
    yard: Path, merge: Merge, tmp_path: Path
) -> None:
    home = yard / "fp32"
    parameters = {
        "aligned_adapter": home / "aligned",
        "task_adapter": home / "task1",
        "threshold": 1.0,
        "weight": 0.25,
    }
    merged = merge(configuration("safe_merge", home / "base", **parameters))
    module = modules_of(home / "task1")[0]
    aligned, tuned = lora(home / "aligned", module), lora(home / "task1", module)
    expected = state_of(home / "base")[f"{module}.weight"].double().numpy() + aligned + 0.25 * (tuned - aligned)
    assert np.abs(merged[f"{module}.weight"].double().numpy() - expected).max() <= 2e-6


def test_an_adapter_on_an_instruct_base_with_the_model_before_alignment(
    yard: Path, merge: Merge, tmp_path: Path
) -> None:
    home = yard / "fp32"
    task = make_lora(home / "base", tmp_path / "task")
    unaligned = make_fine_tuned(home / "base", tmp_path / "unaligned", seed=7)
    models = [role(unaligned, "unaligned")]
    merged = merge(configuration("safe_lora", home / "base", models, task_adapter=task, threshold=1.0))
    base, before = state_of(home / "base"), state_of(unaligned)
    for module in modules_of(task):
        weight = base[f"{module}.weight"].double().numpy()
        _, projection = angle_and_projection(weight - before[f"{module}.weight"].double().numpy(), lora(task, module))
        assert np.abs(merged[f"{module}.weight"].double().numpy() - weight - projection).max() <= 5e-6


def test_full_models_with_roles(yard: Path, merge: Merge, tmp_path: Path) -> None:
    home = yard / "fp32"
    unaligned = make_fine_tuned(home / "base", tmp_path / "unaligned", seed=7)
    models = [role(unaligned, "unaligned"), role(home / "full1", "fine_tuned"), role(home / "full2", "safe")]
    merged = merge(configuration("safe_merge", home / "base", models, threshold=1.0, weight=0.5))
    base, tuned, safe = (state_of(home / name) for name in ("base", "full1", "full2"))
    name = "model.layers.1.mlp.down_proj.weight"
    update = 0.5 * (tuned[name] - base[name]).double() + 0.5 * (safe[name] - base[name]).double()
    assert (merged[name].double() - base[name].double() - update).abs().max() <= 2e-6
    assert torch.equal(merged["model.norm.weight"], tuned["model.norm.weight"])
    sliced = configuration("safe_merge", home / "base", models, threshold=1.0, weight=0.5)
    del sliced["models"]
    sliced["slices"] = [
        {"sources": [model | {"layer_range": part} for model in (*models, {"model": str(home / "base")})]}
        for part in ([0, 1], [1, 2])
    ]
    again = merge(sliced, tmp_path / "sliced")
    assert all(torch.equal(again[name], merged[name]) for name in merged)
    misplaced = configuration("safe_merge", home / "base", models, threshold=1.0)
    misplaced["models"][1]["parameters"]["weight"] = 0.9
    with pytest.raises(UserError, match=r"weight: is given under .*full1, where mergekit does not read it"):
        merge(misplaced, tmp_path / "misplaced")


@pytest.mark.parametrize("method", ["safe_lora", "safe_merge"])
def test_what_the_methods_need(yard: Path, merge: Merge, tmp_path: Path, method: str) -> None:
    home = yard / "fp32"
    task, aligned = home / "task1", home / "aligned"
    lesser = make_lora(home / "base", tmp_path / "lesser", target_modules=["q_proj"])
    cases: list[tuple[dict[str, Any], str]] = [
        (configuration(method, home / "base", task_adapter=task), "compares updates with what alignment changed"),
        (configuration(method, home / "base", aligned_adapter=aligned), "neither task_adapter nor a model with role"),
        (
            configuration(
                method, home / "base", [role(home / "full1", "fine_tuned")], aligned_adapter=aligned, task_adapter=task
            ),
            "task_adapter and a model with role: fine_tuned are both given",
        ),
        (
            configuration(
                method, home / "base", [role(home / "full1", "unaligned")], aligned_adapter=aligned, task_adapter=task
            ),
            "aligned_adapter and a model with role: unaligned are both given",
        ),
        (
            configuration(method, home / "base", [role(home / "full1", "unalined")], task_adapter=task),
            "role: 'unalined' is unknown, expected one of unaligned, fine_tuned",
        ),
        (
            configuration(method, home / "base", aligned_adapter=aligned, task_adapter=[str(task), str(task)]),
            "is a list, which mergekit would spread over the layers",
        ),
        (
            configuration(method, home / "base", aligned_adapter=aligned, task_adapter=task, threshold=2),
            "threshold: 2",
        ),
        (
            configuration(
                method, home / "base", [{"model": str(home / "full1")}], aligned_adapter=aligned, task_adapter=task
            ),
            f"full1 has no role, so that {method} would ignore it",
        ),
        (
            configuration(
                method,
                home / "base",
                [role(home / "full1", "unaligned"), role(home / "full2", "unaligned")],
                task_adapter=task,
            ),
            "models: 2 have role: unaligned",
        ),
        (
            configuration(method, home / "base", [role(home / "full1", "unaligned")], task_adapter=task, role="safe"),
            "role: is given for all models at once" if method == "safe_merge" else "role: 'safe' is unknown",
        ),
        (
            configuration(method, home / "base", aligned_adapter=aligned, task_adapter=lesser),
            "self_attn.v_proj is missing in",
        ),
    ]
    for config, message in cases:
        with pytest.raises(UserError) as caught:
            merge(config)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "merged").exists()
