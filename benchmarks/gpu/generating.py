"""Generation and one long forward pass through an unmerged safety subspace over plain LoRA."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import Record
from shapes import SHAPES, random_model, write_adapters, write_base
from timing import in_turn

from realign_plugin import SafetySubspace


def measure(record: Record, folder: Path, tiny: bool, seconds: float) -> None:
    """Batches of one and eight sequences, each in about so many seconds; then 1,024 tokens at once."""
    shape = SHAPES["tiny" if tiny else "1B"]
    loaded: dict[str, Any] = {}

    def load() -> dict[str, Any]:
        loaded.update(models(record.device, shape, 4 if tiny else 16, folder))
        return {}

    record.measure("generation", "load", load)
    for batch, prompt, new in ((1, 32, 8), (8, 32, 8)) if tiny else ((1, 32, 32), (8, 32, 32), (4, 1024, 0)):
        name = f"{batch} x {prompt} + {new}" if new else f"{batch} x {prompt}, forward"
        record.measure(
            "generation", name, partial(one_batch, record.device, loaded, batch, prompt, new, seconds), needs=seconds
        )


def models(device: torch.device, shape: Any, rank: int, folder: Path) -> dict[str, Any]:
    """Plain LoRA, the subspace, and the subspace merged; each on its own copy of one model."""
    from peft import PeftModel

    base = write_base(shape, folder / shape.name)
    adapters = write_adapters(shape, rank, "all", base, folder, device)
    SafetySubspace.from_adapters(adapters["aligned"], [adapters["task"]]).save(folder / "subspace")
    config = shape.config()
    config.eos_token_id = None

    def put(adapter: Path) -> Any:
        return PeftModel.from_pretrained(random_model(config, device), str(adapter)).eval()

    masked = folder / "subspace"
    return {"lora": put(adapters["task"]), "masked": put(masked), "merged": put(masked).merge_and_unload().eval()}


def one_batch(
    device: torch.device, loaded: dict[str, Any], batch: int, prompt: int, new: int, seconds: float
) -> dict[str, Any]:
    """Milliseconds of each model, a token where some are generated, and ratios to plain LoRA."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, 500, (batch, prompt), generator=generator).to(device)

    def side(model: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                if not new:
                    return model(input_ids=tokens, logits_to_keep=1).logits
                return model.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=new,
                    min_new_tokens=new,
                    do_sample=False,
                )

        return run

    times = in_turn(device, {name: side(model) for name, model in loaded.items()}, seconds, rounds=3)
    found: dict[str, Any] = {f"{name}_ms": round(1e3 * value / max(new, 1), 3) for name, value in times.items()}
    for name in ("masked", "merged"):
        found[f"{name}_ratio"] = round(times[name] / times["lora"], 3)
    return found
