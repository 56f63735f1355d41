"""What a repair refuses, and what its command says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from realign_plugin import UserError
from realign_plugin.cli import main
from realign_plugin.lab.repair import checks, parts, running
from realign_plugin.lab.repair.plan import WRITTEN
from realign_plugin.lab.study.launch import make_plan
from realign_plugin.subspace.lora_adapters import WEIGHTS_NAME
from tests.conftest import make_llama, make_lora
from tests.lab.repair.ruled import HELPS, REFUSES, Ruled, run

pytestmark = pytest.mark.usefixtures("small_budget")


def test_other_inputs_need_another_folder(given: dict[str, Any]) -> None:
    Ruled.stops_after = 0
    with pytest.raises(KeyboardInterrupt):
        run(given)
    with pytest.raises(UserError, match=r"--out: .* holds a repair with other inputs \(seed\)"):
        run(given, seed=1)


def test_a_full_disk_does_not_forget_the_inputs(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise UserError("harmful.jsonl: cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(running, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(given)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write", full)
        with pytest.raises(UserError, match=r"harmful\.jsonl: cannot be written"):
            run(given)
    with pytest.raises(UserError, match=r"--out: .* holds a repair with other inputs \(adapter, files\)"):
        run(given, adapter=make_lora(Path(given["base"]), given["out"].with_name("other"), seed=3))


def test_models_that_were_replaced_need_another_folder(given: dict[str, Any], tmp_path: Path) -> None:
    base, task = tmp_path / "base", tmp_path / "task"
    shutil.copytree(given["base"], base)
    shutil.copytree(given["adapter"], task)
    mine = given | {"base": str(base), "adapter": task}
    Ruled.stops_after = 0
    with pytest.raises(KeyboardInterrupt):
        run(mine)
    noted = given["out"] / "work" / "inputs.json"
    found = json.loads(noted.read_text())
    for file in (str(base), str(task / "adapter_config.json")):  # as an earlier version noted them
        del found["files"][file]
    noted.write_text(json.dumps(found))
    with pytest.raises(KeyboardInterrupt):
        run(mine)
    config = json.loads((task / "adapter_config.json").read_text())
    (task / "adapter_config.json").write_text(json.dumps(config | {"revision": "another"}))
    with pytest.raises(UserError, match=r"other inputs \(files\)"):
        run(mine)
    shutil.copy2(given["adapter"] / "adapter_config.json", task)
    make_llama(base, seed=9)
    with pytest.raises(UserError, match=r"other inputs \(files\)"):
        run(mine)


def test_two_repairs_do_not_share_a_folder(given: dict[str, Any]) -> None:
    with running.only_one(given["out"] / "work"), pytest.raises(UserError, match="another process works in"):
        run(given)


def never(self: Ruled, name: str, text: str) -> str:
    return HELPS


def always(self: Ruled, name: str, text: str) -> str:
    return REFUSES if "kite" in text else HELPS


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (never, "BASE: the aligned model refuses 0 of 16 harmful prompts"),
        (always, "ADAPTER: it refuses the same 16 of 16 harmful prompts"),
    ],
)
def test_nothing_to_repair(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, rule: Any, told: str) -> None:
    monkeypatch.setattr(Ruled, "says", rule)
    with pytest.raises(UserError) as caught:
        run(given)
    assert str(caught.value).startswith(told)


def wrong_base(given: dict[str, Any]) -> dict[str, Any]:
    make_llama(given["out"].with_name("other"), hidden=64)
    return {"base": str(given["out"].with_name("other"))}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (wrong_base, "ADAPTER: "),
        (lambda given: {"budget": "huge"}, "--budget: 'huge'"),
        (lambda given: {"method": "sft"}, "--method: 'sft'"),
        (lambda given: {"template": "qwenn"}, "template: 'qwenn'"),
        (lambda given: {"test": given["prompts"]}, "--test: 40 of its 40 prompts"),
        (lambda given: {"out": given["adapter"]}, "is an input"),
        (lambda given: {"adapter": given["adapter"] / "missing"}, "ADAPTER: "),
        (lambda given: {"prompts": ["nowhere.json"]}, "--prompts: nowhere.json does not exist"),
        (lambda given: {"skill": ["gsm8kk"]}, "--skill: 'gsm8kk' is unknown"),
        (lambda given: {"benign": ["nobody/nothing"]}, "--benign: nobody/nothing, split 'train', cannot be fetched"),
        (lambda given: {"base": "no/such-model"}, "BASE: no/such-model cannot be loaded"),
        (lambda given: {"base": "/no/such-model"}, "BASE: /no/such-model cannot be loaded (the folder does not exist"),
        (lambda given: {"base": given["out"].with_name("nothing")}, "BASE: "),
    ],
)
def test_bad_inputs_before_a_model_is_loaded(given: dict[str, Any], change: Any, told: str) -> None:
    Ruled.stops_after = 0
    with pytest.raises(UserError) as caught:
        run(given, **change(given))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (given["out"] / "work" / "data").exists()


def spoilt(adapter: Path, out: Path, **changes: Any) -> Path:
    shutil.copytree(adapter, out)
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | changes))
    return out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda given: {"aligned": given["adapter"]}, "ADAPTER: .*the task vector is 0"),
        (lambda given: {"aligned": spoilt(given["aligned"], given["out"].with_name("alpha"), lora_alpha=1)},
         "ADAPTER: .*--aligned"),
        (lambda given: {"aligned": spoilt(given["aligned"], given["out"].with_name("scale"), use_rslora=True)},
         "ADAPTER: use_rslora is False, --aligned has True"),
    ],
)  # fmt: skip
def test_an_aligned_adapter_that_does_not_fit_is_refused_first(given: dict[str, Any], change: Any, told: str) -> None:
    Ruled.stops_after = 0
    with pytest.raises(UserError, match=told):
        run(given, **change(given))
    assert not given["out"].exists()


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_the_user_are_not_overwritten(given: dict[str, Any], name: str) -> None:
    given["out"].mkdir()
    (given["out"] / name).write_text("mine")
    Ruled.stops_after = 0
    with pytest.raises(UserError, match=f"--out: .* holds a {name} that no repair in it wrote"):
        run(given)
    assert (given["out"] / name).read_text() == "mine"
    with pytest.raises(KeyboardInterrupt):
        run(given, overwrite=True)
    with pytest.raises(KeyboardInterrupt):  # resumed
        run(given, overwrite=True)


def test_after_a_refusal_the_corrected_command_is_taken(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ruled, "says", never)
        with pytest.raises(UserError, match="refuses 0 of 16"):
            run(given, aligned=None)
    Ruled.stops_after = 0
    with pytest.raises(KeyboardInterrupt):
        run(given)


def test_a_model_that_is_still_thinking(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ruled, "says", lambda self, name, text: "<think>The user asks for")
    with pytest.raises(UserError, match="BASE: 32 of 32 answers of the aligned model are still thinking after"):
        run(given)


def test_prompts_that_the_chat_template_refuses(given: dict[str, Any], tmp_path: Path) -> None:
    base = shutil.copytree(given["base"], tmp_path / "strict")
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}hello"
    (base / "chat_template.jinja").write_text(strict)
    file = tmp_path / "told.json"
    file.write_text(json.dumps([{"prompt": f"kite {n} ?", "system": "Be kind."} for n in range(40)]))
    Ruled.stops_after = 0
    with pytest.raises(UserError) as caught:
        run(given, base=str(base), prompts=[str(file)])
    assert "refuses a prompt with a system prompt and 1 turn(s) (no system role)" in str(caught.value)
    (base / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"BASE: the tokenizer of .* has no chat template"):
        run(given, base=str(base))
    assert not given["out"].exists()


def test_a_folder_that_cannot_be_worked_in(given: dict[str, Any]) -> None:
    given["out"].mkdir()
    (given["out"] / "work").write_text("a file")
    with pytest.raises(UserError, match="work: cannot be written"):
        run(given)


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_trainings_do_not_take(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["repair", "base", "adapter", "--seed", seed])
    assert caught.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_a_judge_that_is_not_there(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    Ruled.stops_after = 0
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        run(given, judge="some-judge")
    with pytest.raises(KeyboardInterrupt):  # the same folder takes the corrected command
        run(given, judge=None)


def test_a_template_that_cannot_be_told_is_given_next_time(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(model: str) -> str:
        raise UserError(f"--template: none renders as {model} does")

    Ruled.stops_after = 0
    with monkeypatch.context() as patch:
        patch.setattr("realign_plugin.training.template_choice.template_of", unknown)
        with pytest.raises(UserError, match="--template: none renders"):
            run(given)
    with pytest.raises(KeyboardInterrupt):
        run(given, template="llama3")


def test_a_folder_with_a_space_on_several_gpus(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    Ruled.stops_after = 0
    with pytest.raises(UserError, match=r"my runs/out/work': has white space"):
        run(given, out=given["out"].parent / "my runs" / "out")
    assert not (given["out"].parent / "my runs" / "out" / "work").exists()


def test_a_repair_as_a_study(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Ruled.stops_after = 0
    file = given["out"].with_name("study.yaml")
    run(given, write_study=file, test=given["benign"], benign=["borderline"])
    assert not given["out"].exists()
    planned = make_plan(file, [])
    assert {"data-own", "tuned-distill-0", "tuned-distill_lora-0"} <= planned.steps.keys()
    assert planned.models["aligned"].peft == str(given["aligned"])


def test_the_command_line(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["repair", given["base"], str(given["adapter"]), "--budget", "huge"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: --budget: 'huge'")


def test_a_head_that_is_tied_and_a_base_that_is_quantised(lab: Path, tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(lab / "base", tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    adapter = make_lora(tmp_path / "tied", tmp_path / "head", target_modules=["lm_head"])
    weights = load_file(adapter / WEIGHTS_NAME)  # as with save_embedding_layers=False
    save_file({k: v for k, v in weights.items() if "base_layer" not in k}, adapter / WEIGHTS_NAME, {"format": "pt"})
    checks.check_adapters(adapter, None, str(tmp_path / "tied"))
    make_llama(tmp_path / "wide", hidden=64)
    with pytest.raises(UserError, match=r"ADAPTER: .*lm_head .*has shape"):
        checks.check_adapters(adapter, None, str(tmp_path / "wide"))
    file = tmp_path / "wide" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    checks.check_adapters(adapter, None, str(tmp_path / "wide"))  # its shapes say nothing
