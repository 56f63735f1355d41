"""Bad source adapters: one line that names the value, what was expected and the fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from realign_plugin import SafetySubspace, UserError
from realign_plugin.subspace.fusing import plain_fusion
from realign_plugin.subspace.lora_adapters import read_lora
from realign_plugin.subspace.lora_names import natural_key
from tests.conftest import make_llama, make_lora


def edited_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edited_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)


@pytest.fixture
def task(lab: Path, tmp_path: Path) -> Path:
    """A copy of a task adapter, to be spoilt."""
    return Path(shutil.copytree(lab / "task1", tmp_path / "task"))


def spoil_file(task: Path) -> None:
    (task / "adapter_model.safetensors").write_bytes(b"not a tensor file")


def cut_file(task: Path) -> None:
    file = task / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def put(name: str, value: float) -> Callable[[Path], None]:
    def change(task: Path) -> None:
        def edit(state: dict[str, torch.Tensor]) -> None:
            state[next(k for k in state if name in k)][0, 0] = value

        edited_weights(task, edit)

    return change


def only_pickle(task: Path) -> None:
    (task / "adapter_model.safetensors").rename(task / "adapter_model.bin")


def resized(task: Path) -> None:
    edited_weights(task, lambda s: s.update({"base_model.model.model.embed_tokens.weight": torch.ones(80, 4)}))


def embedding(task: Path) -> None:
    edited_weights(
        task, lambda s: s.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 80)})
    )


BAD = {
    "missing": (shutil.rmtree, "does not exist, expected the folder of a LoRA adapter"),
    "no config": (lambda t: (t / "adapter_config.json").unlink(), "holds .*, expected adapter_config.json"),
    "config no JSON": (lambda t: (t / "adapter_config.json").write_text("{"), "is not JSON"),
    "config a list": (lambda t: (t / "adapter_config.json").write_text("[]"), "holds a list"),
    "no weights": (lambda t: (t / "adapter_model.safetensors").unlink(), "adapter_model.safetensors does not exist"),
    "pickle": (only_pickle, "holds adapter_model.bin \\(a pickle\\)"),
    "corrupt": (spoil_file, "is corrupt"),
    "cut off": (cut_file, "is corrupt"),
    "no tensors": (lambda t: save_file({}, t / "adapter_model.safetensors"), "holds no tensor"),
    "NaN": (put("v_proj.lora_B", float("nan")), "v_proj.lora_B.weight in .* holds NaN"),
    "infinite": (put("q_proj.lora_A", float("inf")), "q_proj.lora_A.weight in .* holds NaN or infinite"),
    "other method": (lambda t: edited_config(t, peft_type="LOHA"), "peft_type 'LOHA', expected 'LORA'"),
    "a subspace": (lambda t: edited_config(t, peft_type="SAFETY_SUBSPACE"), "realign export"),
    "DoRA": (
        lambda t: edited_config(t, use_dora=True),
        "has use_dora: 'True', expected plain LoRA on linear modules; train it again with use_dora: false",
    ),
    "modules_to_save": (
        lambda t: edited_config(t, modules_to_save=["lm_head"]),
        "modules_to_save: .*lm_head.*additional_target",
    ),
    "bias": (lambda t: edited_config(t, bias="all"), "bias: 'all', expected plain LoRA"),
    "embedding": (embedding, "LoRA factors of model.embed_tokens, an embedding table, .* without embed_tokens in"),
    "resized": (resized, "the whole weight of model.embed_tokens, .* vocabulary was resized, .* without resize_vocab"),
    "alpha": (lambda t: edited_config(t, lora_alpha=64), "alpha 64 of model.layers.0.self_attn.q_proj differs.*'s 8"),
    "rslora": (lambda t: edited_config(t, use_rslora=True), "use_rslora is True, aligned_adapter has False"),
    "base": (lambda t: edited_config(t, base_model_name_or_path="other/model"), "base model 'other/model' differs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters_are_refused_in_one_line(lab: Path, task: Path, case: str) -> None:
    spoil, message = BAD[case]
    spoil(task)
    with pytest.raises(UserError, match=message) as caught:
        SafetySubspace.from_adapters(lab / "aligned", [lab / "task2", task])
    text = str(caught.value)
    assert text.startswith("task_adapters[1]: ")
    assert "\n" not in text


def test_another_rank_is_named_with_its_module(lab: Path, tmp_path: Path) -> None:
    make_lora(lab / "base", tmp_path / "t", r=8)
    with pytest.raises(UserError, match=r"rank 8 of model.layers.0.self_attn.q_proj differs from aligned_adapter's 4"):
        SafetySubspace.from_adapters(lab / "aligned", [tmp_path / "t"])


def test_other_target_modules_are_named(lab: Path, tmp_path: Path) -> None:
    make_lora(lab / "base", tmp_path / "t", target_modules=["q_proj", "k_proj"])
    with pytest.raises(
        UserError, match=r"target module model.layers.0.self_attn.v_proj is missing, aligned_adapter has it"
    ):
        SafetySubspace.from_adapters(lab / "aligned", [tmp_path / "t"])
    make_lora(lab / "base", tmp_path / "more", target_modules=["q_proj", "k_proj", "v_proj"])
    with pytest.raises(UserError, match=r"target module model.layers.0.self_attn.k_proj is only there"):
        SafetySubspace.from_adapters(lab / "aligned", [tmp_path / "more"])


def test_another_width_is_named(lab: Path, tmp_path: Path) -> None:
    make_llama(tmp_path / "base", hidden=48)
    make_lora(tmp_path / "base", tmp_path / "t")
    with pytest.raises(UserError, match="expected one base"):
        SafetySubspace.from_adapters(lab / "aligned", [tmp_path / "t"])
    edited_config(tmp_path / "t", base_model_name_or_path=str(lab / "base"))
    with pytest.raises(UserError, match=r"A of model.layers.0.self_attn.q_proj has shape \(4, 48\)"):
        SafetySubspace.from_adapters(lab / "aligned", [tmp_path / "t"])


def test_the_same_base_on_another_machine_is_the_same(lab: Path, task: Path) -> None:
    edited_config(task, base_model_name_or_path="/elsewhere/base")
    assert len(SafetySubspace.from_adapters(lab / "aligned", [task]).logits) == 4


def test_a_copy_of_the_base_is_the_same(lab: Path, task: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "base", tmp_path / "copy")
    edited_config(task, base_model_name_or_path=str(tmp_path / "copy"))
    assert len(SafetySubspace.from_adapters(lab / "aligned", [task]).logits) == 4


def test_another_base_of_the_same_configuration_is_another(lab: Path, task: Path, models: list[Path]) -> None:
    assert (models[0] / "config.json").read_bytes() == (lab / "base" / "config.json").read_bytes()
    edited_config(task, base_model_name_or_path=str(models[0]))
    with pytest.raises(UserError, match=r"^task_adapters\[0\]: base model '.*full1' differs from"):
        SafetySubspace.from_adapters(lab / "aligned", [task])


def test_a_copy_in_another_dtype_is_the_same(lab: Path, task: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(lab / "base", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    assert (tmp_path / "bf16" / "config.json").read_bytes() != (lab / "base" / "config.json").read_bytes()
    edited_config(task, base_model_name_or_path=str(tmp_path / "bf16"))
    assert len(SafetySubspace.from_adapters(lab / "aligned", [task]).logits) == 4


def test_a_file_in_place_of_a_folder(lab: Path) -> None:
    with pytest.raises(UserError, match="is a file, expected the folder"):
        read_lora(lab / "aligned" / "adapter_config.json", "aligned_adapter")


def test_layers_are_in_natural_order() -> None:
    names = [f"model.layers.{i}.q_proj" for i in (10, 2, 0)]
    assert sorted(names, key=natural_key) == [f"model.layers.{i}.q_proj" for i in (0, 2, 10)]


def renamed(task: Path, change: Callable[[str], str]) -> Path:
    file = task / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(file).items()}, file)
    return task


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: name.replace("base_model.model.", "base_model.model.module."),
        lambda name: name.replace(".layers.", "._orig_mod.layers."),
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: f"_orig_mod.{name.replace('.weight', '.policy.weight')}",
    ],
)
def test_names_that_compilers_and_ddp_wrap_are_read(
    lab: Path, task: Path, tmp_path: Path, base_model: Any, change: Callable[[str], str]
) -> None:
    """PEFT itself loads nothing of these files; what is written is found by PEFT."""
    from peft import PeftModel

    fused = plain_fusion(None, [renamed(task, change)]).to_lora(tmp_path / "fused")
    model = PeftModel.from_pretrained(base_model, fused)
    plain = read_lora(lab / "task1", "")
    for module, pair in plain.factors.items():
        layer = model.base_model.model.get_submodule(module)
        torch.testing.assert_close(layer.get_delta_weight("default"), 2.0 * pair["B"] @ pair["A"])


def test_names_that_peft_would_not_find_are_refused(task: Path) -> None:
    for change, message in (
        (
            lambda name: name.removeprefix("base_model.model."),
            r"begins with 'base_model\.model\.', without",
        ),
        (lambda name: f"base_model.model.{name}", "expected lora_A and lora_B of linear modules"),
        (lambda name: name.replace("lora_A", "lora_magnitude_vector"), "expected lora_A and lora_B"),
        (lambda name: name.replace("q_proj", "k_proj"), "factors of .*k_proj, which target_modules .* does not name"),
    ):
        copy = Path(shutil.copytree(task, task.with_name("copy"), dirs_exist_ok=True))
        with pytest.raises(UserError, match=message):
            read_lora(renamed(copy, change), "task_adapters[0]")


def test_one_factor_under_two_names_is_refused(task: Path) -> None:
    def twice(state: dict[str, torch.Tensor]) -> None:
        name = next(iter(state))
        state[f"_orig_mod.{name}"] = state[name].clone()

    edited_weights(task, twice)
    with pytest.raises(UserError, match=r"holds A of model.layers.0.self_attn.q_proj twice"):
        read_lora(task, "task_adapters[0]")


def test_layers_that_were_chosen_by_number_are_exported_by_name(lab: Path, tmp_path: Path, base_model: Any) -> None:
    from peft import PeftModel

    task = make_lora(lab / "base", tmp_path / "t", layers_to_transform=[1])
    fused = plain_fusion(None, [task]).to_lora(tmp_path / "fused")
    assert read_lora(fused, "").config.target_modules == [f"model.layers.1.self_attn.{m}_proj" for m in "qv"]
    assert len([n for n, _ in PeftModel.from_pretrained(base_model, fused).named_parameters() if "lora_A" in n]) == 2


def test_the_rank_of_the_tensors_is_that_of_the_configuration(task: Path) -> None:
    edited_config(task, r=8)
    with pytest.raises(UserError, match=r"factors of rank 4 for .*, adapter_config.json gives it rank 8"):
        read_lora(task, "task_adapters[0]")


def test_numbers_too_large_for_the_dtype_are_not_written(lab: Path, task: Path, tmp_path: Path) -> None:
    put("q_proj.lora_A", 1e38)(task)
    subspace = SafetySubspace.from_adapters(lab / "aligned", [task], task_weight=10.0)
    for save in (lambda: subspace.to_lora(tmp_path / "out"), lambda: subspace.save(tmp_path / "out")):
        with pytest.raises(UserError, match=r"q_proj\S+ would hold numbers too large for float32"):
            save()
        assert not (tmp_path / "out").exists()
    half = SafetySubspace.from_adapters(lab / "aligned", [task])
    with pytest.raises(UserError, match="too large for float16"):
        half.to_lora(tmp_path / "out", dtype=torch.float16)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "lm_head",
            r"PEFT's copy of the base model's lm_head .* save_embedding_layers=False\), or train it without lm_",
        ),
        (
            "embed_tokens",
            "LoRA factors of model.embed_tokens, an embedding table, .* without embed_tokens in lora_target",
        ),
    ],
)
def test_an_output_head_or_an_embedding_says_what_it_is(lab: Path, tmp_path: Path, target: str, message: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(lab / "base"),
        LoraConfig(r=2, target_modules=["q_proj", target], task_type="CAUSAL_LM"),
    )
    model.save_pretrained(tmp_path / "t")
    with pytest.raises(UserError, match=message) as error:
        read_lora(tmp_path / "t", "task_adapters[0]")
    assert "\n" not in str(error.value)
    if target == "lm_head":  # the fix of the message
        model.save_pretrained(tmp_path / "t", save_embedding_layers=False)
        assert "lm_head" in read_lora(tmp_path / "t", "task_adapters[0]").factors
