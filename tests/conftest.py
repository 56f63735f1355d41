"""Pico models and adapters, made on the spot; nothing is downloaded."""

from __future__ import annotations

import os

for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_name] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stock import COMMANDS, READ_AT_START, TOOLS, run_command

torch.set_num_threads(1)

TEXT = """how do i make a kite tell me the way to bake bread what is blue say no sorry can not help with that take
paper and string then fold it mix flour water one two three four five six seven eight nine ten red green . , ? !"""
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user> {{ m['content'] }} <assistant>"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }} <eos>"
    "{% elif m['content'] %}<system> {{ m['content'] }}{% endif %}{% endfor %}"
)


def make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<eos>", "<user>", "<assistant>", "<system>"]
    raw = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate([*special, *dict.fromkeys(TEXT.split())])}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        model_max_length=64,
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def make_llama(
    folder: Path, *, hidden: int = 32, layers: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=80,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)


def make_lora(
    base: Path, folder: Path, *, start: Path | None = None, seed: int = 1, step: float = 0.05, **options: Any
) -> Path:
    """A LoRA adapter with random factors; with ``start``, that adapter moved by a random step, as if fine-tuned."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(seed)
    if start is not None:
        peft_model = PeftModel.from_pretrained(model, start, is_trainable=True)
    else:
        settings = {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj"],
            "task_type": "CAUSAL_LM",
        } | options
        peft_model = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                if start is not None:
                    parameter.add_(step * noise)
                else:
                    parameter.copy_(0.1 * noise)
    peft_model.save_pretrained(folder)
    return folder


def make_tied(lab: Path, folder: Path) -> tuple[Path, Path]:
    """A base whose output head is the embedding, and a trained subspace of that head and a linear module."""
    from safetensors.torch import load_file, save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from realign_plugin import SafetySubspace

    base, adapter = folder / "tied", folder / "head"
    LlamaForCausalLM(LlamaConfig.from_pretrained(lab / "base", tie_word_embeddings=True)).save_pretrained(base)
    file = make_lora(base, adapter, target_modules=["q_proj", "lm_head"]) / "adapter_model.safetensors"
    factors = {name: tensor for name, tensor in load_file(file).items() if ".lora_" in name}  # PEFT adds the head
    save_file(factors, file, metadata={"format": "pt"})
    return base, with_random_logits(SafetySubspace.from_adapters(None, [adapter])).save(folder / "trained")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pico base model, an aligned adapter, three task adapters, pairs, safety and skill data."""
    root = tmp_path_factory.mktemp("lab")
    make_llama(root / "base")
    make_tokenizer(root / "base")
    make_lora(root / "base", root / "aligned")
    for number in (1, 2, 3):
        make_lora(root / "base", root / f"task{number}", start=root / "aligned", seed=10 + number)
    pairs = [
        {
            "instruction": f"how do i make {thing} {number} ?",
            "input": "",
            "chosen": "sorry i can not help with that .",
            "rejected": f"take {thing} and fold it then mix {number} .",
        }
        for thing in ("paper", "string", "flour", "bread")
        for number in ("one", "two", "three", "four", "five", "six")
    ]
    (root / "pairs.json").write_text(json.dumps(pairs))
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    info: dict[str, Any] = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    skill = [row | {"instruction": row["instruction"].replace("how do i make", "tell me")} for row in pairs]
    for name, rows, answer in (("safety", pairs, "chosen"), ("skill", skill, "rejected")):
        kept = [{"instruction": row["instruction"], "input": "", "output": row[answer]} for row in rows]
        (root / f"{name}.json").write_text(json.dumps(kept))
        info[name] = {"file_name": f"{name}.json"}
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of real depth: 13 layers, 26 target modules; an aligned adapter, two tasks, two full checkpoints.

    With 20 or more target modules PEFT shortens ``target_modules`` in what it saves to suffixes.
    """
    root = tmp_path_factory.mktemp("deep")
    make_llama(root / "base", hidden=16, layers=13)
    make_tokenizer(root / "base")
    make_lora(root / "base", root / "aligned", r=2)
    for number in (1, 2):
        make_lora(root / "base", root / f"task{number}", start=root / "aligned", seed=10 + number)
        make_fine_tuned(root / "base", root / f"full{number}", seed=20 + number)
    return root


def make_fine_tuned(base: Path, folder: Path, *, seed: int, step: float = 0.02, shard: str = "5GB") -> Path:
    """A full checkpoint: every weight of the base moved by a random step, as if fine-tuned."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((step * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def models(lab: Path) -> list[Path]:
    """Three full checkpoints fine-tuned from the pico base model; the second in several shards."""
    return [
        make_fine_tuned(lab / "base", lab / f"full{n}", seed=20 + n, shard="20KB" if n == 2 else "5GB")
        for n in (1, 2, 3)
    ]


@pytest.fixture
def base_model(lab: Path) -> Any:
    """The pico base model, freshly loaded."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(lab / "base").eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids ``[2, 12]``."""
    return torch.randint(6, 60, (2, 12), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def subspace(lab: Path) -> Any:
    """A subspace of two tasks with random logits."""
    from realign_plugin import SafetySubspace

    return with_random_logits(SafetySubspace.from_adapters(lab / "aligned", [lab / "task1", lab / "task2"]))


def with_random_logits(subspace: Any, seed: int = 3) -> Any:
    """Logits as training could have left them."""
    generator = torch.Generator().manual_seed(seed)
    for pair in subspace.logits.values():
        for factor in pair:
            pair[factor] = torch.randn(pair[factor].shape, generator=generator)
    return subspace


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Output logits, without gradient."""
    with torch.no_grad():
        output: torch.Tensor = model(input_ids=tokens).logits
    return output


def training_options(lab: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a small mask_dpo run, as a YAML file would give them; None removes one."""
    options = {
        "model_name_or_path": str(lab / "base"),
        "stage": "mask_dpo",
        "finetuning_type": "safety_subspace",
        "aligned_adapter": str(lab / "aligned"),
        "task_adapters": [str(lab / "task1")],
        "do_train": True,
        "dataset": "pairs",
        "dataset_dir": str(lab),
        "cutoff_len": 48,
        "output_dir": str(out),
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    return {key: value for key, value in (options | changes).items() if value is not None}


@pytest.fixture
def run_stock() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a stock command of this environment in a process of its own, forked where that makes no difference."""

    def run(
        *words: Any, env: dict[str, str] | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        # Now and then, on a loaded machine, one of two processes ends with SIGABRT: what it did then is said.
        own = {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "PYTHONFAULTHANDLER": "1"}
        environment = os.environ | own | (env or {})
        forked = words[0] in COMMANDS and not READ_AT_START & (env or {}).keys()
        return run_command([str(word) for word in words], environment, stdin, forked)

    return run
