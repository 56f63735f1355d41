"""mergekit documents of a study: the files in ``mergekit_configs/`` with the study's paths and strengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import realign_plugin
from realign_plugin.lab.study.config.catalogue import MERGES

Document = dict[str, Any]
Situation = Literal["adapters", "instruct", "models"]
"""What fine-tuned: adapters on a base before alignment, adapters on an aligned base, or full checkpoints."""


def configs_folder() -> Path:
    """The folder of the mergekit configurations: inside an installed package, next to it in a checkout."""
    package = Path(realign_plugin.__file__).parent
    inside, beside = package / "mergekit_configs", package.parent / "mergekit_configs"
    return inside if inside.is_dir() else beside


def read(name: str, paths: dict[str, str]) -> Document:
    """A file of the folder with other paths.

    Args:
        name: The file, without its suffix.
        paths: What stands for each ``./models/NAME``; adapters are joined to models by ``+`` there.
    """
    import yaml

    document: Document = yaml.safe_load((configs_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    return _with_paths(document, paths)  # type: ignore[no-any-return]


def _with_paths(value: Any, paths: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _with_paths(part, paths) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_paths(part, paths) for part in value]
    if isinstance(value, str) and value.startswith("./models/"):
        parts = [paths[part.removeprefix("./models/")] for part in value.split("+")]
        return "+".join(parts)
    return value


def baseline(method: str, strength: float | None, situation: Situation, paths: dict[str, str]) -> Document:
    """The document of a merge of one fine-tuned model.

    Args:
        method: A name of ``MERGES``.
        strength: What its entry says.
        situation: What there is: adapters on a base before alignment, an adapter on an aligned model, or checkpoints.
        paths: See ``read``.
    """
    document = read(_file(method, situation), paths)
    models, parameters = document["models"], document.setdefault("parameters", {})
    match method:
        case "resta" | "resta_dare":
            models[1]["parameters"]["weight"] = strength
        case "interpolation":
            models[0]["parameters"]["weight"] = 1.0 - float(strength or 0.0)
            models[1]["parameters"]["weight"] = strength
        case "ties" | "dare":
            document["models"] = models[:1]
            models[0]["parameters"]["weight"] = strength
        case "safe_lora" | "safe_merge":
            document["merge_method"] = method
            document["models"] = [m for m in models if m.get("parameters", {}).get("role") != "safe"]
            parameters.pop("safe_adapter", None)  # without one the aligned model is the safe one
            parameters.pop("weight", None)
            parameters["threshold" if method == "safe_lora" else "weight"] = strength
    return document


def _file(method: str, situation: Situation) -> str:
    if method in ("safe_lora", "safe_merge"):
        files = {"adapters": method, "instruct": "safe_lora_instruct", "models": "safe_merge_models"}
        return files[situation]
    return MERGES[method].file + ("_lora" if situation == "adapters" else "")


def fused(method: str, options: dict[str, Any], models: list[str], aligned: str) -> Document:
    """The document of a plain fusion of several full checkpoints, with the weights that the training has.

    Args:
        method: A name of ``FUSIONS``.
        options: As for the training: ``task_weight``, ``ties_density``, ``dare_drop_rate``. What DARE drops is
            mergekit's own draw.
        models: The fine-tuned checkpoints.
        aligned: The aligned one.
    """
    document = read("task_arithmetic" if method == "average" else method, {
        "aligned": aligned, "finetuned-1": models[0], "finetuned-2": models[-1],
    })  # fmt: skip
    usual = dict(document["models"][0]["parameters"]) | ({"weight": 1.0} if method == "average" else {})
    weights = options.get("task_weight", usual["weight"])
    if method == "ties" and "ties_density" in options:
        usual["density"] = options["ties_density"]
    if method == "dare" and "dare_drop_rate" in options:
        usual["density"] = 1.0 - float(options["dare_drop_rate"])
    each = weights if isinstance(weights, list) else [weights] * len(models)
    share = len(models) if method == "average" else 1
    entries = [
        {"model": model, "parameters": usual | {"weight": weight / share}}
        for model, weight in zip(models, each, strict=True)
    ]
    return document | {"models": entries, "parameters": document.get("parameters", {}) | {"normalize": False}}


def dial(subspace: str, models: list[str], base: str, *, mask: str | None, strength: float) -> Document:
    """The document of a trained subspace at a strength.

    Args:
        subspace: Its folder.
        models: The fine-tuned checkpoints of a weight-space subspace; the base alone in LoRA space.
        base: What it was trained on.
        mask: Mask; None takes its own.
        strength: 0 is the aligned model, 1 the realigned one.
    """
    parameters: dict[str, Any] = {"adapter": subspace, "strength": strength}
    if mask is not None:
        parameters["mask"] = mask
    return {
        "merge_method": "safety_subspace",
        "base_model": base,
        "models": [{"model": model} for model in models],
        "parameters": parameters,
    }
