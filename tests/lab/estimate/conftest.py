"""Configurations of small models: no weights are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin.cli import main

Options = dict[str, Any]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but a pico Llama's config.json."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, dtype="bfloat16", pad_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def options(llama: Path) -> Options:
    """Options of a mask_dpo training whose adapters are not there yet."""
    return {
        "model_name_or_path": str(llama),
        "stage": "mask_dpo",
        "finetuning_type": "safety_subspace",
        "task_adapters": ["nowhere"],
        "lora_rank": 4,
        "lora_target": "q_proj,v_proj",
        "cutoff_len": 60,
        "per_device_train_batch_size": 2,
        "output_dir": "out",
    }


@pytest.fixture
def realign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``realign estimate`` on a configuration: exit code, standard output, standard error."""

    def run(values: Options, *words: str) -> tuple[int, str, str]:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(values))
        with pytest.raises(SystemExit) as caught:
            main(["estimate", str(file), *words])
        captured = capsys.readouterr()
        code = caught.value.code
        return (0 if code is None else int(code)), captured.out, captured.err

    return run
