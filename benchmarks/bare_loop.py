"""DPO in a bare loop, without a host: plain LoRA, a masked subspace, and the published way.

The published way is what the research code does, written anew: RelaxedBernoulli builds the masked adapter from the
task vector, the adapter is swapped in at every forward, and a second model is the reference.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributions import RelaxedBernoulli
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from realign_plugin import SafetySubspace, attach_subspace

Forward = Callable[[torch.Tensor], torch.Tensor]


def steps(
    chosen: argparse.Namespace,
    parameters: Iterable[torch.Tensor],
    policy: Forward,
    reference: Forward,
    as_reference: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[float]:
    """CPU seconds of each step of DPO.

    Args:
        chosen: The command line.
        parameters: What is trained.
        policy: Logits of tokens.
        reference: Logits of tokens, within ``as_reference`` and without gradients.
        as_reference: A context.
    """
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(chosen.folder / "base")
    rows, times = json.loads((chosen.folder / "pairs.json").read_text(encoding="utf-8")), []
    for number in range(chosen.steps):
        part = rows[number * chosen.pairs : (number + 1) * chosen.pairs]
        texts = [
            f"<user> {row['instruction']} <assistant> {row[kind]} <eos>"
            for kind in ("chosen", "rejected")
            for row in part
        ]
        tokens = tokenizer(texts, return_tensors="pt")["input_ids"]
        prompt = len(part[0]["instruction"].split()) + 2
        start = time.process_time()
        with torch.no_grad(), as_reference():
            expected = log_probs(reference(tokens), tokens, prompt)
        gains = (log_probs(policy(tokens), tokens, prompt) - expected).chunk(2)
        loss = -torch.nn.functional.logsigmoid(0.1 * (gains[0] - gains[1])).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
    return times


def log_probs(logits: torch.Tensor, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Log probability of each answer, ``[rows]``."""
    answers = logits[:, prompt - 1 : -1].log_softmax(-1)
    return answers.gather(-1, tokens[:, prompt:, None]).squeeze(-1).sum(-1)


def base(chosen: argparse.Namespace) -> Any:
    """The base model; its weights are copied, since those that are mapped from a file are not counted."""
    model = AutoModelForCausalLM.from_pretrained(chosen.folder / "base")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def lora(chosen: argparse.Namespace) -> list[float]:
    """Plain LoRA from the fine-tuned adapter; the reference is the base model."""
    model = PeftModel.from_pretrained(base(chosen), chosen.folder / "task1", is_trainable=True)

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(tokens).logits
        return logits

    return steps(chosen, [p for p in model.parameters() if p.requires_grad], forward, forward, model.disable_adapter)


def masked(chosen: argparse.Namespace) -> list[float]:
    """A masked subspace; the reference is the fine-tuned model."""
    subspace = SafetySubspace.from_adapters(chosen.folder / "aligned", [chosen.folder / "task1"])
    model = attach_subspace(base(chosen), subspace).train()
    del subspace

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(tokens).logits
        return logits

    trained = [p for p in model.parameters() if p.requires_grad]
    return steps(chosen, trained, forward, forward, lambda: model.base_model.reference("init"))


def published(chosen: argparse.Namespace) -> list[float]:
    """Masked state dicts, swapped in at every forward; a second model."""
    folder = chosen.folder
    policy, reference = (PeftModel.from_pretrained(base(chosen), folder / "task1") for _ in range(2))
    aligned, tuned = (
        {
            key.replace(".weight", ".default.weight"): value.clone()
            for key, value in load_file(folder / part / "adapter_model.safetensors").items()
        }
        for part in ("aligned", "task1")
    )
    vectors = {key: tuned[key] - aligned[key] for key in aligned}
    del tuned
    logits = {key: torch.zeros_like(value, requires_grad=True) for key, value in vectors.items()}
    temperature = torch.tensor(0.5)

    def forward(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        state = {}
        for key, alpha in logits.items():
            mask = RelaxedBernoulli(temperature, logits=alpha).rsample()
            state[key] = aligned[key] + vectors[key] * mask / mask.mean()
        found: torch.Tensor = functional_call(model, state, (), {"input_ids": tokens}).logits
        return found

    return steps(chosen, logits.values(), lambda t: forward(policy, t), lambda t: reference(input_ids=t).logits)
