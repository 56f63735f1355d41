"""Text pairs train the language model of a multimodal one."""

from __future__ import annotations

from pathlib import Path

from llamafactory.train.tuner import run_exp
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from realign_plugin import SafetySubspace
from tests.conftest import make_tokenizer, training_options
from tests.tuner.test_architectures import World


def test_text_pairs_train_a_multimodal_models_language(lab: Path, tmp_path: Path) -> None:
    world = World("a multimodal model", tmp_path)
    world.base().save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base")
    sources = {"model_name_or_path": str(tmp_path / "base"), "aligned_adapter": str(tmp_path / "aligned")}
    options = {**sources, "task_adapters": [str(tmp_path / "tuned")], "max_steps": 2}
    run_exp(training_options(lab, tmp_path / "out", **options))
    trained = SafetySubspace.load(tmp_path / "out")
    assert all("language_model" in module for module in trained.logits)
    assert any(bool(pair["B"].any()) for pair in trained.logits.values())
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    assert PeftModel.from_pretrained(model, tmp_path / "out").merge_and_unload() is not None
