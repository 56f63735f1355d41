"""Whether ``model_name_or_path`` is the model that adapters are for, and has room for them; no host is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from realign_plugin.subspace.checkpoints import Checkpoint, check_untied, weight_files
from realign_plugin.subspace.files import read_spec, tensor_shapes
from realign_plugin.subspace.fingerprints import check_same_base, fingerprint
from realign_plugin.subspace.subspace import SafetySubspace
from realign_plugin.training.settings.inference import is_subspace

WHAT = "model_name_or_path"


def check_base_of(model: str | None, adapters: Sequence[str]) -> None:
    """Refuse a local model that a trained subspace is not for.

    Of several adapters only the first is put into the model itself.

    Args:
        model: ``model_name_or_path``.
        adapters: ``adapter_name_or_path``.

    Raises:
        UserError: If it is another one.
    """
    if not adapters or not is_subspace(adapters[0]):
        return
    path = adapters[0]
    spec, _ = read_spec(Path(path))
    modules = spec.sampled_modules or list(tensor_shapes(path))
    fix = "give it"
    if spec.vector_space == "lora":
        fix = f"give it, or export a LoRA adapter, whose base is not compared: `realign export {path} OUT`"
    check_same_base(WHAT, model, f"the model that {path} was trained on", spec.base_sha256, modules, fix)


def check_room(model: str | None, adapters: Sequence[str]) -> None:
    """Refuse to merge a trained subspace of the output head into a local model that has none of its own.

    A model of the hub is checked when it is loaded.

    Args:
        model: ``model_name_or_path``.
        adapters: ``adapter_name_or_path``.

    Raises:
        UserError: If its output head is the embedding.
    """
    ours = [path for path in adapters if is_subspace(path)]
    if ours and model and Path(model).is_dir() and weight_files(Path(model), WHAT):
        for path in ours:
            check_untied(Checkpoint(model, WHAT), tensor_shapes(path), "adapter_name_or_path")


def check_base_of_sources(model: str | None, subspace: SafetySubspace) -> None:
    """Refuse a local model other than the one that the adapters of a new subspace name, if that is local too.

    Args:
        model: ``model_name_or_path``.
        subspace: What is to be trained on it.

    Raises:
        UserError: If it is another one.
    """
    named, modules = subspace.base_model, subspace.spec.sampled_modules
    fix = "give it, or correct base_model_name_or_path in the adapters' adapter_config.json"
    check_same_base(
        WHAT, model, f"{named}, which the adapters were trained on", fingerprint(named, modules), modules, fix
    )
