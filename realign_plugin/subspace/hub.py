"""Subspaces on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from realign_plugin.errors import UserError
from realign_plugin.files import write_text
from realign_plugin.subspace.card import Rows, base_name, subspace_card
from realign_plugin.subspace.lora_adapters import ADAPTER_FILES, CONFIG_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    from realign_plugin.subspace.subspace import SafetySubspace


def fetched(name: str | Path, subfolder: str | None = None, **options: Any) -> Path:
    """The folder of an adapter: itself, or the cached copy of a repository, downloaded if need be.

    Args:
        name: A folder, or a repository on the hub.
        subfolder: Where in it the adapter is.
        **options: Of ``huggingface_hub.hf_hub_download``: ``revision``, ``token``, ``cache_dir`` and others.

    Raises:
        UserError: If it is neither a folder nor a repository that can be read.
    """
    folder = Path(name, subfolder or "")
    if folder.is_dir():
        return folder
    from huggingface_hub import hf_hub_download

    for file in (WEIGHTS_NAME, CONFIG_NAME):
        path = _asked(
            f"adapter: {str(name)!r} is not a folder and cannot be fetched from the hub",
            "an adapter's folder or its repository; check the name, and `hf auth whoami`",
            partial(hf_hub_download, str(name), file, subfolder=subfolder, **options),
        )
        folder = Path(path).parent
    return folder


def push(
    subspace: SafetySubspace,
    repo_id: str,
    *,
    base_model: str | None = None,
    rows: Rows = (),
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a subspace and its model card to a repository, which is made if there is none.

    Args:
        subspace: What to upload.
        repo_id: ``user/name``.
        base_model: The base model's repository; None takes the recorded one, of a local folder its name only.
        rows: What was measured, for the card: the ``rows`` of ``before_after.json`` or ``table.json``.
        private: Whether a new repository is private.
        revision: Branch.
        token: Access token; None takes that of ``hf auth login`` or ``HF_TOKEN``.

    Returns:
        Address of the commit.

    Raises:
        UserError: If the repository cannot be made or written.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    fault, fix = f"repo_id: {repo_id!r} cannot be written on the hub", "a repository of yours; see `hf auth whoami`"
    repo = _asked(fault, fix, partial(api.create_repo, repo_id, private=private, exist_ok=True)).repo_id
    with TemporaryDirectory() as work:
        named = copy(subspace)
        named.base_model = base_model or (base_name(subspace.base_model) if subspace.base_model else None)
        folder = named.save(Path(work, "adapter"))
        write_text(folder / "README.md", subspace_card(named, repo, rows))
        upload = partial(
            api.upload_folder,
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*ADAPTER_FILES, "README.md"],
            revision=revision,
            commit_message="Upload a safety subspace",
        )
        done = _asked(fault, fix, upload)
    return str(done.commit_url)


def _asked(fault: str, fix: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers; the errors of its client in one line."""
    try:
        return ask()
    except Exception as error:  # of the client itself, of httpx, ValueError for a name that is none
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(f"{fault} ({type(error).__name__}: {first}), expected {fix}") from error
