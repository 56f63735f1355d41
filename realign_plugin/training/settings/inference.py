"""Checks of an export, chat or API run that uses a safety subspace; no host is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.outputs import refuse_inputs
from realign_plugin.subspace.files import PEFT_TYPE, read_spec
from realign_plugin.subspace.lora_adapters import CONFIG_NAME
from realign_plugin.subspace.spec import check_chosen_mask
from realign_plugin.text_files import read_json

CHOICE: Final = ("mask", "mask_threshold", "mask_seed")
"""The options that choose the mask of a trained subspace."""
LOADERS: Final = ("use_unsloth", "use_kt")
"""The host's options for loaders that read LoRA adapters themselves."""


def is_subspace(path: str | Path) -> bool:
    """Whether a local folder holds a safety subspace."""
    file = Path(path) / CONFIG_NAME
    try:
        return bool(read_json(file, "", "a configuration").get("peft_type") == PEFT_TYPE)
    except UserError:
        return False


def check_inference(
    adapters: Sequence[str],
    *,
    backend: str = "huggingface",
    export_dir: str | None = None,
    quantised: bool = False,
    options: Mapping[str, Any] | None = None,
    loader: str | None = None,
) -> None:
    """Check an export, chat or API run that uses a safety subspace.

    Args:
        adapters: ``adapter_name_or_path``.
        backend: ``infer_backend``.
        export_dir: Where a merged model goes, if it does.
        quantised: Whether the base model is loaded quantised.
        options: Our options by name.
        loader: The one of ``LOADERS`` that is on.

    Raises:
        UserError: If the adapter must be exported first, or cannot be merged.
    """
    ours = [path for path in adapters if is_subspace(path)]
    if not ours:
        return
    if export_dir:
        refuse_inputs(export_dir, adapters)
    if loader is not None or backend not in ("huggingface", "hf"):
        given = f"{loader}: True" if loader is not None else f"infer_backend: {backend!r}"
        raise UserError(
            f"{given} takes plain LoRA adapters only, {ours[0]} is a safety subspace; export first: `realign export "
            f"{ours[0]} OUT`, then give OUT"
        )
    if export_dir and quantised:
        raise UserError(
            f"quantization: a safety subspace ({ours[0]}) cannot be merged into a quantised base model, expected "
            "fp32, fp16 or "
            f"bf16 weights; leave quantization out, or `realign export {ours[0]} OUT` and serve the LoRA adapter"
        )
    chosen = [(options or {}).get(name) for name in CHOICE]
    if any(value is not None for value in chosen):
        for path in ours:
            check_chosen_mask(chosen[0] or read_spec(Path(path))[0].mask, *chosen[1:])


def asks_for_subspace(adapters: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Whether a run that does not train loads a subspace: it is one, or a mask is chosen for it.

    Args:
        adapters: ``adapter_name_or_path``.
        options: Our options by name.
    """
    return any(map(is_subspace, adapters)) or (bool(adapters) and any(options.get(n) is not None for n in CHOICE))


def is_quantised_model(path: str | None) -> bool:
    """Whether a local model folder says in its config that its weights are stored quantised."""
    file = Path(path or "") / "config.json"
    try:
        return bool(read_json(file, "", "a configuration").get("quantization_config"))
    except UserError:
        return False
