"""A saved subspace in the host: its mask in an export, and a training that goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import export_model, run_exp
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace, UserError
from realign_plugin.method.draws import Draw
from realign_plugin.training.settings import command_line
from realign_plugin.tuner.layer import SafetySubspaceLayer
from tests.conftest import training_options, with_random_logits
from tests.training.test_mask_dpo import same_logits
from tests.training.test_safety_distill import options, world  # noqa: F401


@pytest.fixture(scope="module")
def trained(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subspace whose masks differ from each other; the mask that it was saved with is soft."""
    subspace = with_random_logits(SafetySubspace.from_adapters(lab / "aligned", [lab / "task1"]))
    subspace.save(out := tmp_path_factory.mktemp("trained") / "subspace")
    return out


def exported(lab: Path, adapter: Path, out: Path, **given: Any) -> dict[str, torch.Tensor]:
    """The merged model that the host exports."""
    fixed = {"model_name_or_path": str(lab / "base"), "infer_dtype": "float32", "export_dir": str(out)}
    export_model(fixed | {"adapter_name_or_path": str(adapter)} | given)
    found: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(out).state_dict()
    return found


@pytest.mark.parametrize("kind", ["safety_subspace", "lora"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("soft", None, None)),
        ({"mask": "binary"}, ("binary", None, None)),
        ({"mask": "binary", "mask_threshold": 0.9}, ("binary", 0.9, None)),
        ({"mask": "sampled", "mask_seed": 3}, ("sampled", None, 3)),
    ],
)
def test_export_merges_the_mask_that_is_asked_for(
    lab: Path, trained: Path, tmp_path: Path, kind: str, given: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = exported(lab, trained, tmp_path / "merged", finetuning_type=kind, **given)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), trained)
    model.base_model.set_mask(*expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.merge_and_unload().state_dict().items())


def test_a_threshold_alone_is_of_the_saved_mask(lab: Path, trained: Path, tmp_path: Path) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lab / "base"), trained)
    model.base_model.set_mask("binary")
    model.save_pretrained(tmp_path / "binary")
    found = exported(lab, tmp_path / "binary", tmp_path / "merged", mask_threshold=0.9)
    model.base_model.set_mask("binary", 0.9)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.merge_and_unload().state_dict().items())


@pytest.mark.parametrize(
    ("adapter", "given", "message"),
    [
        ("trained", {"mask_threshold": 0.9}, "threshold: 0.9 with the mask soft, expected none"),
        ("trained", {"mask": "binary", "mask_seed": 3}, "seed: 3 with the mask binary, expected none"),
        ("task1", {"mask": "binary"}, "mask: 'binary', but no adapter is a safety subspace"),
    ],
)
def test_a_choice_without_effect_is_refused(
    lab: Path, trained: Path, tmp_path: Path, adapter: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        exported(lab, trained if adapter == "trained" else lab / adapter, tmp_path / "merged", **given)


GOING_ON: dict[str, Any] = {"task_adapters": None, "aligned_adapter": None}


def test_training_goes_on_from_a_saved_subspace(lab: Path, tmp_path: Path) -> None:
    run_exp(training_options(lab, tmp_path / "one"))
    run_exp(training_options(lab, tmp_path / "two", adapter_name_or_path=str(tmp_path / "one"), **GOING_ON))
    first, second = (SafetySubspace.load(tmp_path / n) for n in ("one", "two"))
    assert not same_logits(tmp_path / "one", tmp_path / "two")
    assert all(torch.equal(first.deltas[0][m][f], second.deltas[0][m][f]) for m in first.logits for f in "AB")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1.0, 0.0, "relaxed")),
        (
            {"mask_temperature": 0.7, "mask_noise": 0.2, "mask_estimator": "straight_through"},
            (0.7, 0.2, "straight_through"),
        ),
    ],
)
def test_another_stage_draws_its_own_masks(
    lab: Path,
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    expected: tuple[Any, ...],
) -> None:
    """Self-distillation of what mask_dpo has trained with noise at temperature 0.5."""
    run_exp(training_options(lab, tmp_path / "one", max_steps=1))
    drawn: set[tuple[float, float, str]] = set()
    draw = SafetySubspaceLayer.how_to_draw

    def kept(self: Any, adapter: str, *args: Any, **kwargs: Any) -> Draw:
        spec = self.specs[adapter]
        drawn.add((spec.mask_temperature, self.noise[adapter], spec.mask_estimator))
        return draw(self, adapter, *args, **kwargs)

    monkeypatch.setattr(SafetySubspaceLayer, "how_to_draw", kept)
    run_exp(
        options(world, tmp_path / "two", adapter_name_or_path=str(tmp_path / "one"), max_steps=1, **GOING_ON, **given)
    )
    assert drawn == {expected}
    spec = SafetySubspace.load(tmp_path / "two").spec
    assert spec.mask_temperature == expected[0]
    assert spec.mask == ("binary" if given else "soft")


def test_a_second_training_without_a_word_goes_on_as_the_first(lab: Path, tmp_path: Path) -> None:
    run_exp(training_options(lab, tmp_path / "one", mask_temperature=0.3, mask_noise=0.4, max_steps=1))
    run_exp(
        training_options(lab, tmp_path / "two", adapter_name_or_path=str(tmp_path / "one"), max_steps=1, **GOING_ON)
    )
    spec = SafetySubspace.load(tmp_path / "two").spec
    assert (spec.mask_temperature, spec.mask_noise) == (0.3, 0.4)
    same = {"task_weight": "1.0", "mask_granularity": "element", "fusion_method": "task_arithmetic"}
    more = {"adapter_name_or_path": str(tmp_path / "two"), "max_steps": 1, **GOING_ON, **same}
    run_exp(training_options(lab, tmp_path / "three", **more))


@pytest.mark.parametrize("given", [{"mask_granularity": "row"}, {"fusion_method": "ties"}, {"task_weight": "0.5"}])
def test_what_a_subspace_was_built_with_stays(lab: Path, trained: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(given))}: .* with adapter_name_or_path, expected none"):
        run_exp(training_options(lab, tmp_path / "run", adapter_name_or_path=str(trained), **GOING_ON, **given))


@pytest.mark.parametrize("which", ["adapter_name_or_path", "ref_model", "ref_model_adapters"])
def test_the_output_is_not_what_is_read(lab: Path, trained: Path, tmp_path: Path, which: str) -> None:
    given = {"adapter_name_or_path": str(trained), "overwrite_output_dir": True, **GOING_ON}
    if which != "adapter_name_or_path":
        given |= {"ref_model": str(lab / "base"), "mask_reference": "model", which: str(lab / "task2")}
    out = Path(given[which])
    with pytest.raises(UserError, match=rf"is an input of this command \({out}\), expected another path"):
        run_exp(training_options(lab, out, **given))


@pytest.mark.parametrize("where", ["folder", "subfolder"])
def test_a_stock_stage_does_not_train_the_mask(
    lab: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """That of a subfolder, as that of a hub id, is known once it is loaded."""
    place = {"adapter_name_or_path": str(trained)}
    if where == "subfolder":
        place = {"adapter_name_or_path": str(trained.parent), "adapter_folder": trained.name}
    else:
        loaded = "llamafactory.train.dpo.workflow.load_model"
        monkeypatch.setattr(loaded, lambda *a, **k: pytest.fail("a model was loaded"))
    options = training_options(lab, tmp_path / "run", stage="dpo", finetuning_type="lora", max_steps=1, **GOING_ON)
    with pytest.raises(UserError, match="is a safety subspace, of which stage: dpo would train the mask"):
        run_exp(options | place)
    monkeypatch.undo()
    run_exp(options | place | {"create_new_adapter": True})
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_a_stock_stage_evaluates_under_the_subspaces_type(lab: Path, trained: Path, tmp_path: Path) -> None:
    """As LLaMA Board asks for it."""
    found = []
    for kind in ("safety_subspace", "lora"):
        given = {"stage": "sft", "finetuning_type": kind, "adapter_name_or_path": str(trained), "do_eval": True}
        more = {"do_train": None, "dataset": None, "eval_dataset": "skill", **GOING_ON}
        options = training_options(lab, tmp_path / kind, **given, **more)
        (file := tmp_path / "x.json").write_text(json.dumps(options))
        command_line.check_command([str(file)])
        run_exp(options)
        found.append(json.loads((tmp_path / kind / "eval_results.json").read_text())["eval_loss"])
    assert found[0] == found[1]
