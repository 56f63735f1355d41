"""Safe Delta (arXiv 2505.12038): fine-tuned elements that change the aligned model's outputs little are kept.

The others stay the aligned model's, and make up for what the kept ones change (Optimal Brain Surgeon). Written from
what the authors say of it; their scale is for layers of 4,096 by 4,096, and is taken by the number of elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from stacking import scale
from torch import Tensor

from realign_plugin.files import write_json
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME, LoraAdapter, read_lora
from realign_plugin.subspace.lora_names import MODEL_PREFIX

ELEMENTS: Final = 4096**2
DAMPING: Final = 0.01
DEAREST: Final = 0.15
"""Share of a layer's elements, those with the highest price, that are never kept."""
BLOCK: Final = 128
ROWS: Final = 128


def chosen(change: Tensor, price: Tensor, budget: float) -> Tensor:
    """Which elements are kept: the cheapest inputs first, until the safety that they cost is the budget.

    Args:
        change: Fine-tuned minus aligned weight, [out, in].
        price: Safety that a squared change of an input costs, [in].
        budget: Safety that may be lost in this layer.
    """
    order = price.expand_as(change).flatten().argsort(stable=True)
    order = order[: change.numel() - int(DEAREST * change.numel())]
    spent = (change.double() ** 2 * price).flatten()[order].cumsum(0)
    kept = torch.zeros(change.numel(), dtype=torch.bool)
    kept[order] = spent <= budget
    return kept.view_as(change)


def compensated(aligned: Tensor, tuned: Tensor, kept: Tensor, factor: Tensor) -> Tensor:
    """The aligned weight with kept elements fine-tuned, and each later input making up for the earlier ones.

    Args:
        aligned: [out, in].
        tuned: [out, in].
        kept: [out, in].
        factor: Upper Cholesky factor of the inverse Hessian, [in, in].
    """
    found = aligned.clone()
    for first in range(0, found.shape[1], BLOCK):
        last = min(first + BLOCK, found.shape[1])
        errors = torch.zeros_like(found[:, first:last])
        for column in range(first, last):
            mask, own = kept[:, column], found[:, column]
            error = torch.where(mask, own - tuned[:, column], 0.0) / factor[column, column]
            found[:, column] = torch.where(mask, tuned[:, column], own)
            found[:, column + 1 : last] -= torch.outer(error, factor[column, column + 1 : last])
            errors[:, column - first] = error
        found[:, last:] -= errors @ factor[first:last, last:]
    return found


def fused(aligned: Tensor, tuned: Tensor, hessian: Tensor, share: float) -> Tensor:
    """One layer's weight.

    Args:
        aligned: [out, in].
        tuned: [out, in].
        hessian: Twice the mean of x x^T over the inputs x of the aligned model on safety data, [in, in].
        share: The paper's s: how much safety may be lost.
    """
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    price = factor.diagonal() ** -2
    budget = share * float(price.mean()) * aligned.numel() / ELEMENTS
    return compensated(aligned, tuned, chosen(tuned - aligned, price, budget), factor)


def hessians(model: Any, tokens: Sequence[Tensor], modules: Sequence[str]) -> dict[str, Tensor]:
    """Twice the mean of x x^T over rows, by module, in fp32; x are the inputs of a row's tokens."""
    found: dict[str, Tensor] = {}

    def note(name: str, given: Tensor) -> None:
        rows = given.flatten(0, -2).float()
        found[name] = found.get(name, torch.zeros(())) + rows.T @ rows * (2 / len(tokens))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name in modules
    ]
    with torch.no_grad():
        for row in tokens:
            model(row[None])
    for handle in handles:
        handle.remove()
    return found


def safe_delta(
    model: Path, aligned: Path | None, tuned: Path, rows: Sequence[Mapping[str, str]], share: float, out: Path
) -> Path:
    """Write the fused model as a LoRA adapter of full rank.

    Args:
        model: The base model.
        aligned: Adapter of the aligned model; None where the base itself is aligned.
        tuned: Adapter of the fine-tuned model.
        rows: Safety prompts, with the aligned model's refusals.
        share: See ``fused``.
        out: Folder to write.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, base = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    told = [
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in rows[:ROWS]
    ]
    tokens = [
        tokenizer.apply_chat_template(one, return_tensors="pt", return_dict=True)["input_ids"][0] for one in told
    ]
    last, first = read_lora(tuned, "tuned"), read_lora(aligned, "aligned") if aligned else None
    weights = {name: base.get_submodule(name).weight.detach().float().clone() for name in last.factors}
    starts = {name: weight + update(first, name) for name, weight in weights.items()}
    for name, start in starts.items():
        linear = base.get_submodule(name)
        linear.weight.data = start.to(linear.weight.dtype)
    curves, state, ranks = hessians(base.eval(), tokens, list(weights)), {}, {}
    for name, weight in weights.items():
        whole = fused(starts[name], weight + update(last, name), curves.pop(name), share) - weight
        narrow, ranks[name] = whole.shape[0] >= whole.shape[1], min(whole.shape)
        pair = (torch.eye(ranks[name]), whole) if narrow else (whole, torch.eye(ranks[name]))
        for side, factor in zip("AB", pair, strict=True):
            state[f"{MODEL_PREFIX}{name}.lora_{side}.weight"] = factor.contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / WEIGHTS_NAME, metadata={"format": "pt"})
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model)}
    config |= {"target_modules": list(weights), "r": 1, "lora_alpha": 1, "rank_pattern": ranks, "alpha_pattern": ranks}
    write_json(out / CONFIG_NAME, config)
    return out


def update(adapter: LoraAdapter | None, module: str) -> Tensor:
    """B A with its scale, [out, in]; 0 without an adapter."""
    if adapter is None:
        return torch.zeros(())
    pair = adapter.factors[module]
    return pair["B"].float() @ pair["A"].float() * scale(adapter, module)
