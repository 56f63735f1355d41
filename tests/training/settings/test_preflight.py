"""What is checked before anything slow starts."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realign_plugin import SafetySubspace, UserError
from realign_plugin.training import resuming
from realign_plugin.training.settings import command_line, inference, preflight, sources
from realign_plugin.training.settings.known_arguments import known_arguments
from tests.conftest import make_llama, training_options

GOOD = {"stage": "mask_dpo", "finetuning_type": "safety_subspace", "task_adapters": ["a"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finetuning_type": "lora"}, "finetuning_type: 'lora' with stage: mask_dpo, expected 'safety_subspace'"),
        (
            {"fusion_method": "tys"},
            "fusion_method: 'tys' is unknown, expected one of task_arithmetic, average, ties, dare",
        ),
        ({"mask_granularity": "elements"}, "did you mean 'element'"),
        ({"mask_reference": "initial"}, "mask_reference: 'initial' is unknown"),
        ({"mask_estimator": "hard"}, "mask_estimator: 'hard' is unknown"),
        ({"mask": "hard"}, "mask: 'hard' is unknown"),
        ({"mask_threshold": 0.0}, "mask_threshold: 0.0 is out of range"),
        ({"ties_density": 0.0}, "ties_density: 0.0 is out of range, expected \\(0, 1\\]"),
        ({"dare_drop_rate": 1.0}, "dare_drop_rate: 1.0 is out of range"),
        ({"mask_temperature": 0}, "mask_temperature: 0 is out of range"),
        ({"mask_noise": -1.0}, "mask_noise: -1.0 is out of range"),
        ({"mask_noise": "loud"}, "mask_noise: 'loud', expected a valid number"),
        ({"mask_noise": float("nan")}, "mask_noise: 'nan', expected a finite number"),
        ({"mask_keep_weight": -0.1}, "mask_keep_weight"),
        ({"mask_granularity": "module"}, "add it"),
        ({"mask_compile": "maybe"}, "mask_compile: 'maybe', expected true or false"),
        ({"mask_rescale": "on"}, "mask_rescale: 'on', expected a valid boolean"),
        ({"mask_compile": True, "fusion_method": "ties"}, "mask_compile: true with fusion_method: ties"),
        (
            {"mask_compile": True, "task_adapters": None, "task_models": ["m"]},
            "mask_compile: true with .* mask_granularity: row",
        ),
        ({"task_weight": [0.1, 0.2]}, "task_weight: \\[0.1, 0.2\\] has 2 numbers for 1 task adapters"),
        ({"task_weight": 0}, "task_weight: \\[0.0\\] leaves nothing to mask, expected a number other than 0"),
        ({"task_adapters": None, "task_models": ["m", "n"], "task_weight": "0,0"}, "leaves nothing to mask"),
        ({"task_adapters": 7}, "task_adapters: 7 is not a path"),
    ],
)
def test_options_among_themselves(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        preflight.check_options(GOOD | change)
    assert "\n" not in str(caught.value)


def test_one_of_several_tasks_may_have_no_weight() -> None:
    found = preflight.check_options(GOOD | {"task_adapters": ["a", "b"], "task_weight": [0, 0.5]})
    assert found.task_weights == [0.0, 0.5]


def test_good_options_choose_the_mask_they_train_for() -> None:
    assert preflight.check_options(GOOD).mask == "soft"
    assert preflight.check_options(GOOD | {"mask_estimator": "straight_through"}).mask == "binary"
    assert preflight.check_options(GOOD | {"mask_estimator": "straight_through", "mask": "soft"}).mask == "soft"


@pytest.mark.parametrize(
    ("change", "resumed", "message"),
    [
        (
            {"stage": "dpo"},
            [],
            "stage: 'dpo' with finetuning_type: safety_subspace, expected one of mask_dpo, safety_distill",
        ),
        ({"task_adapters": None}, [], "task_adapters is not set"),
        ({"task_models": ["m"]}, [], "both set, expected one"),
        (
            {"task_adapters": None, "task_models": ["m"], "aligned_adapter": "a"},
            [],
            "aligned_adapter: 'a' with task_models, expected none",
        ),
        ({"task_adapters": None, "task_models": ["m"]}, ["x"], "task_models and adapter_name_or_path \\(x\\)"),
        (
            {},
            ["x"],
            "task_adapters and adapter_name_or_path \\(x\\) are both set, expected one; give LoRA adapters as",
        ),
        ({"task_adapters": None}, ["x"], "adapter_name_or_path: x is not a single safety subspace"),
    ],
)
def test_sources_of_a_run(change: dict[str, Any], resumed: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preflight.check_training(GOOD | change, resumed)


def test_a_resumed_subspace_that_cannot_be_compiled(lab: Path, tmp_path: Path) -> None:
    for fusion in ("ties", "dare"):
        made = SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"], fusion_method=fusion)
        made.save(tmp_path / fusion)
    options = GOOD | {"task_adapters": None, "mask_compile": True}
    with pytest.raises(UserError, match="mask_compile: true with fusion_method: ties"):
        preflight.check_training(options, [str(tmp_path / "ties")])
    preflight.check_training(options, [str(tmp_path / "dare")])


@pytest.mark.parametrize(
    ("name", "value"), [("task_adapters", ["a"]), ("task_models", ["m"]), ("aligned_adapter", "a")]
)
def test_a_subspace_goes_on_without_sources(subspace: Any, tmp_path: Path, name: str, value: Any) -> None:
    folder = str(subspace.save(tmp_path / "s"))
    options = GOOD | {"task_adapters": None, "task_models": None} | {name: value}
    with pytest.raises(UserError, match=f"{name} and adapter_name_or_path .* leave {name} out to go on from it, or"):
        preflight.check_training(options, [folder])


def test_paths_and_weights_from_text() -> None:
    assert preflight.split_paths("a, b,c") == ["a", "b", "c"]
    assert preflight.split_paths(["a", "b"]) == ["a", "b"]
    assert preflight.split_paths(None) == []
    assert preflight.split_weights("0.3,0.5") == ["0.3", "0.5"]
    assert preflight.split_weights(0.3) == 0.3


def test_serving_backends_need_an_export(subspace: Any, tmp_path: Path) -> None:
    folder = str(subspace.save(tmp_path / "s"))
    for backend in ("vllm", "sglang"):
        with pytest.raises(
            UserError, match=f"infer_backend: '{backend}' .*export first: `realign export {folder} OUT`"
        ):
            inference.check_inference([folder], backend=backend)
    inference.check_inference([folder], backend="huggingface")
    with pytest.raises(UserError, match=f"use_unsloth: True takes .*export first: `realign export {folder} OUT`"):
        inference.check_inference([folder], loader="use_unsloth")


def test_plain_adapters_are_the_hosts_business(lab: Path) -> None:
    inference.check_inference([str(lab / "aligned")], backend="vllm", export_dir="x", quantised=True)
    inference.check_inference(["hub/name"], backend="vllm")


def test_merging_into_a_quantised_model_or_onto_the_adapter_is_refused(subspace: Any, tmp_path: Path) -> None:
    folder = str(subspace.save(tmp_path / "s"))
    with pytest.raises(UserError, match="cannot be merged into a quantised base model"):
        inference.check_inference([folder], export_dir="out", quantised=True)
    with pytest.raises(UserError, match="is an input of this command"):
        inference.check_inference([folder], export_dir=f"{folder}/../s")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
    assert inference.is_quantised_model(str(tmp_path))
    assert not inference.is_quantised_model(str(tmp_path / "s"))
    assert not inference.is_quantised_model(None)


def checkpoint(run: Path, step: int, state: str = '{"stateful_callbacks": {"realign_plugin": {}}}') -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).write_text("x")
    (folder / "trainer_state.json").write_text(state)
    return folder


def test_half_written_checkpoints_are_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = checkpoint(tmp_path, 10)
    (checkpoint(tmp_path, 20) / "trainer_state.json").unlink()
    checkpoint(tmp_path, 30, '{"log_his')
    (checkpoint(tmp_path, 40) / "adapter_model.safetensors").unlink()
    moved = resuming.set_aside_incomplete(tmp_path)
    assert len(moved) == 3
    assert list(tmp_path.glob("checkpoint-*")) == [good]
    assert capsys.readouterr().err.count("was not written to its end") == 3
    assert resuming.set_aside_incomplete(tmp_path) == []
    assert resuming.set_aside_incomplete(tmp_path / "nowhere") == []


def test_options_of_a_command_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("stage: mask_dpo\nfinetuning_type: lora\ntask_adapters: [a, b]\n")
    options = command_line.command_options([str(file), "finetuning_type=safety_subspace", "task_weight=0.4"])
    assert options == {
        "stage": "mask_dpo", "finetuning_type": "safety_subspace", "task_adapters": ["a", "b"], "task_weight": 0.4,
    }  # fmt: skip
    flags = [
        "--stage",
        "mask_dpo",
        "--do_train",
        "--mask_noise",
        "0.5",
        "--mask_rescale",
        "false",
        "--mask_compile",
        "--fusion_seed",
        "3",
        "--bf16",
        "true",
    ]
    expected = {"stage": "mask_dpo", "mask_noise": 0.5, "mask_rescale": False, "mask_compile": True, "fusion_seed": 3}
    expected["do_train"] = True
    assert command_line.command_options(flags) == expected
    assert command_line.command_options([str(tmp_path / "none.yaml")]) == {}


def test_numbers_among_flags_have_the_types_of_their_options() -> None:
    flags = "--stage mask_dpo --finetuning_type safety_subspace --task_adapters a --fusion_seed 3 --mask_seed 7"
    spec = preflight.check_options(command_line.command_options([*flags.split(), "--mask_noise_end", "0"]))
    assert (spec.fusion_seed, spec.mask_seed, spec.mask_noise_end) == (3, 7, 0.0)


def test_flags_in_all_forms_that_the_host_takes() -> None:
    """With dashes, cut short, and negated; none of the host's names is a short form of one that is read here."""
    words = "--task-adapters a --finetuning_t safety_subspace --no-mask-rescale --do-train"
    expected = {"task_adapters": "a", "finetuning_type": "safety_subspace", "mask_rescale": False, "do_train": True}
    assert command_line.command_options(words.split()) == expected
    read = [*preflight.OPTIONS, "adapter_name_or_path", "model_name_or_path", "do_train", "deepspeed", "fsdp_config"]
    theirs = known_arguments().keys() - set(read) - {"fsdp", "task"}  # read too; no training's
    assert len(theirs) > 200
    assert not [(one, name) for one in theirs for name in read if name.startswith(one)]


def test_another_base_model_is_found_by_its_headers(lab: Path, subspace: Any, tmp_path: Path) -> None:
    sources.check_base_model(str(lab / "base"), subspace)
    sources.check_base_model("hub/name", subspace)
    make_llama(tmp_path / "wide", hidden=48)
    with pytest.raises(
        UserError, match=r"q_proj has shape \(48, 48\) in .*wide, the adapters were trained for \(32, 32\)"
    ):
        sources.check_base_model(str(tmp_path / "wide"), subspace)
    shutil.copytree(lab / "base", tmp_path / "base")
    shutil.copy(tmp_path / "wide" / "model.safetensors", tmp_path / "base" / "model-00001-of-00001.safetensors")
    sources.check_base_model(str(tmp_path / "base"), subspace)  # what an earlier save left is not read
    file = tmp_path / "wide" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"^model_name_or_path: .*model.safetensors is corrupt"):
        sources.check_base_model(str(tmp_path / "wide"), subspace)


def test_commands_of_other_stages_are_left_alone() -> None:
    command_line.check_command(["--stage", "dpo", "--finetuning_type", "lora"])
    with pytest.raises(UserError, match="task_adapters is not set"):
        command_line.check_command(["--stage", "mask_dpo", "--finetuning_type", "safety_subspace"])


@pytest.mark.parametrize("forced", [False, True])
def test_one_process_builds_its_subspace_once(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    """With torchrun the check and the trainings are processes of their own."""
    from realign_plugin.training import hook

    options = training_options(lab, tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(options))
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", str(tmp_path / "x.json")])
    monkeypatch.setenv("FORCE_TORCHRUN", str(int(forced)))
    built: list[Any] = []

    def launch() -> None:
        built.extend(subspace for _, subspace in sources.kept)
        parsed = options | {"task_adapters": options["task_adapters"][0], "lora_target": ["all"], "mask": None}
        built.append(sources.build_subspace(parsed))

    launcher = SimpleNamespace(launch=launch)
    hook.attach_launcher(launcher)  # type: ignore[arg-type]
    launcher.launch()
    assert len(built) == (1 if forced else 2)
    assert built[0] is built[-1]
    assert not sources.kept


def test_every_option_can_be_a_flag() -> None:
    """With its default as text, as flags are."""
    from realign_plugin.training.settings.arguments import SafetySubspaceArguments

    given = {field.name: field.default for field in fields(SafetySubspaceArguments) if field.default is not None}
    given |= {"stage": "safety_distill", "finetuning_type": "lora"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    options = command_line.command_options(words)
    assert options == given
    preflight.check_options(options)
