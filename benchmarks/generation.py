"""Generation through an unmerged safety subspace, against plain LoRA and against the merged model.

    python benchmarks/generation.py [--hidden 1024] [--layers 4] [--rank 256] [--tokens 64] [--runs 7]

One process, the three models on the same weights, in turn; greedy, a prompt of 32 tokens, one sequence and eight. The
figures are medians of seconds for all tokens, and of the ratio to plain LoRA in the same turn.

``whole_weights`` is the same for masks of whole weights (all linear modules) whose task vectors are in another dtype
(bf16) than the model (fp32): ratios to the base model alone, which does half the products.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from random_llama import write_adapters


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Generation through adapters.")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=7)
    return parser.parse_args()


def models(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Plain LoRA, the subspace on it, and the subspace merged; all of one random Llama."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from realign_plugin import SafetySubspace

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=chosen.hidden,
        intermediate_size=int(2.75 * chosen.hidden),
        num_hidden_layers=chosen.layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    lora = LoraConfig(
        r=chosen.rank, lora_alpha=2 * chosen.rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    write_adapters(get_peft_model(base, lora), folder, ["aligned", "task"])
    SafetySubspace.from_adapters(folder / "aligned", [folder / "task"]).save(folder / "subspace")

    def load(adapter: str) -> Any:
        plain = AutoModelForCausalLM.from_pretrained(folder / "base")
        return PeftModel.from_pretrained(plain, folder / adapter).eval()

    return {"lora": load("task"), "subspace": load("subspace"), "merged": load("subspace").merge_and_unload().eval()}


def whole_weights(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The base model, and masks of rows and of elements of its whole weights on it."""
    import torch
    from transformers import AutoModelForCausalLM

    from realign_plugin import SafetySubspace, attach_subspace

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    model.save_pretrained(folder / "aligned-model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(folder / "tuned-model")
    found = {"base": AutoModelForCausalLM.from_pretrained(folder / "base").eval()}
    for granularity in ("row", "element"):
        plain = AutoModelForCausalLM.from_pretrained(folder / "aligned-model", dtype=torch.float32)
        subspace = SafetySubspace.from_models(
            folder / "aligned-model", [folder / "tuned-model"], mask_granularity=granularity
        )
        found[granularity] = attach_subspace(plain, subspace, is_trainable=False).eval()
    return found


def main() -> None:
    """Generate in turn, and print medians and ratios."""
    import torch

    chosen = options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        them = models(chosen, Path(name))
        whole = whole_weights(chosen, Path(name))
    result: dict[str, Any] = {key: getattr(chosen, key) for key in ("hidden", "layers", "rank", "tokens", "runs")}
    result |= measure(chosen, them, "lora")
    result["whole_weights"] = measure(chosen, whole, "base")
    print(json.dumps({"generation": result}))


def measure(chosen: argparse.Namespace, them: dict[str, Any], first: str) -> dict[str, Any]:
    """Seconds of each model, and ratios to the first."""
    import torch

    result: dict[str, Any] = {}
    for batch in chosen.batches:
        prompt = torch.randint(4, 1024, (batch, 32), generator=torch.Generator().manual_seed(1))
        times: dict[str, list[float]] = {key: [] for key in them}
        for turn in range(chosen.runs + 1):
            for key, model in them.items():
                start = time.process_time()
                with torch.no_grad():
                    model.generate(
                        input_ids=prompt,
                        attention_mask=torch.ones_like(prompt),
                        max_new_tokens=chosen.tokens,
                        min_new_tokens=chosen.tokens,
                        do_sample=False,
                    )
                if turn:  # the first turn warms up
                    times[key].append(time.process_time() - start)
        found = {f"{key}_s": round(statistics.median(values), 3) for key, values in times.items()}
        for key in [name for name in them if name != first]:
            ratio = statistics.median(a / b for a, b in zip(times[key], times[first], strict=True))
            found[f"{key}_of_{first}"] = round(ratio, 3)
        result[f"batch_{batch}"] = found
    return result


if __name__ == "__main__":
    main()
