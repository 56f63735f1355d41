"""The host's settings that our stages refuse, set, or say something about."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from llamafactory.hparams.finetuning_args import FinetuningArguments
from llamafactory.train.tuner import run_exp

from realign_plugin import UserError
from realign_plugin.training import hook
from realign_plugin.training.answer_head import answer_positions
from realign_plugin.training.distill_trainer import SafetyDistillTrainer
from realign_plugin.training.settings import command_line
from tests.conftest import training_options
from tests.training.test_safety_distill import options, world  # noqa: F401

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "interleaved": ({"mix_strategy": "interleave_under"}, "mix_strategy: 'interleave_under' with stage: safety_d"),
    "prompts": ({"train_on_prompt": True}, "train_on_prompt: True with stage: safety_distill, expected none"),
    "loss": (
        {"use_dft_loss": True},
        "use_dft_loss: True with stage: safety_distill, expected none, since the loss is",
    ),
    "vocabulary": ({"resize_vocab": True}, "resize_vocab: True with stage: .*resize and save"),
    "new tokens": ({"add_tokens": "x"}, r"add_tokens: \['x'\] with stage: .*resize and save"),
    "generation": ({"predict_with_generate": True}, "predict_with_generate: True with stage: safety_distill"),
    "other trainers": ({"use_hyper_parallel": True}, "use_hyper_parallel: True has no meaning here"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_would_be_ignored(world: Path, tmp_path: Path, case: str) -> None:  # noqa: F811
    changes, message = BAD[case]
    with pytest.raises(UserError, match=message):
        run_exp(options(world, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("USE_MCA", "1"), ("USE_MCA", "y"), ("USE_MEGATRON_BRIDGE", "true")])
def test_megatron(
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(options(world, tmp_path / "run")))
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}: Megatron's trainers have none of our stages"):
        command_line.check_command([str(file)])


@pytest.mark.parametrize("name", ["use_mca", "use_megatron_bridge"])
def test_another_trainer_does_not_run_its_stage_for_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    groups = [None, None, None, SimpleNamespace(real_names={"stage": "safety_distill"}, **{name: True})]
    tuner = SimpleNamespace(get_train_args=lambda args: groups, run_exp=None, run_sft=print, run_dpo=print)
    hook.attach_tuner(tuner)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"{name}: its trainers know no stage: safety_distill"):
        tuner.get_train_args({})


def test_every_list_of_arguments_has_ours() -> None:
    functions = ("_verify_model_args", *(f"_parse_{kind}_args" for kind in ("train", "infer")))
    functions += tuple(f"get_{kind}_args" for kind in ("train", "infer", "eval"))
    parser = SimpleNamespace(
        _TRAIN_MBRIDGE_ARGS=[int, FinetuningArguments], others=[int], **dict.fromkeys(functions, print)
    )
    hook.attach_parser(parser)  # type: ignore[arg-type]
    assert [cls.__name__ for cls in parser._TRAIN_MBRIDGE_ARGS] == ["int", "RealignFinetuningArguments"]
    assert parser.others == [int]


def test_only_the_last_answer_of_a_conversation_is_learnt_from(
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "data").mkdir()
    row = (
        '{"instruction": "how do i make paper ?", "output": "sorry no", "history": [["what is blue ?", "take it ."]]}'
    )
    for name in ("safety", "skill"):
        (tmp_path / "data" / f"{name}.json").write_text(f"[{row}]")
    columns = '{"prompt": "instruction", "response": "output", "history": "history"}'
    entries = ", ".join(f'"{n}": {{"file_name": "{n}.json", "columns": {columns}}}' for n in ("safety", "skill"))
    (tmp_path / "data" / "dataset_info.json").write_text(f"{{{entries}}}")
    seen: list[list[int]] = []
    compute = SafetyDistillTrainer.compute_loss

    def kept(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.extend(answer_positions(inputs["labels"]).sum(1, keepdim=True).tolist())
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SafetyDistillTrainer, "compute_loss", kept)
    run_exp(options(world, tmp_path / "run", dataset_dir=str(tmp_path / "data"), max_steps=1))
    assert seen == [[3], [3]]  # sorry, no, and the end


def test_experts_have_one_lora_adapter(lab: Path, tmp_path: Path) -> None:
    from tests.tuner.test_architectures import World

    made = World("experts in one tensor", tmp_path)
    made.base().save_pretrained(tmp_path / "base")
    changes = {"stage": "safety_distill", "dataset": "safety,skill", "skill_dataset": "skill"}
    changes |= {"model_name_or_path": str(tmp_path / "base"), "aligned_adapter": str(tmp_path / "aligned")}
    with pytest.raises(UserError, match="finetuning_type: lora with adapters that have target_parameters"):
        run_exp(
            training_options(
                lab, tmp_path / "out", finetuning_type="lora", task_adapters=[str(tmp_path / "tuned")], **changes
            )
        )
