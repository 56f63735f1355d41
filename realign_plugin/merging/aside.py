"""A merged model is written aside and takes its place when it is whole; a killed merge leaves nothing there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realign_plugin.errors import UserError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
CONFIG = "config.json"


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A folder of the target's name that takes its place when the block ends well.

    It lies beside the target; a model that was there stays whole until two renames put the new one there. A target
    that cannot be renamed (a mount point, the working folder, one in a folder that is not writable) gets it inside,
    and its files are moved one by one: first the old ``config.json`` and weights go, last the new ``config.json``
    comes, so that what is there in between is no model.

    Files of the target that are no weights and that the new model does not have are kept. What killed merges left
    behind is removed.

    Args:
        target: Where the model goes.

    Yields:
        The folder to write to.

    Raises:
        UserError: If the target is a file or cannot be written.
    """
    given, target = target, Path(os.path.realpath(target))
    if target.exists() and not target.is_dir():
        raise UserError(f"{given}: is a file, expected a folder to write to; give another path")
    clean_up(target)
    stays = target.exists() and _cannot_be_renamed(target)
    nest = (target if stays else target.parent) / f".{target.name}.{os.getpid()}.merge"
    work = nest / target.name
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{given}: cannot be written ({error.strerror}), expected a writable folder") from error
    try:
        yield work
        if stays:
            _move_in(work, target)
        else:
            _swap(work, target)
    finally:
        shutil.rmtree(nest, ignore_errors=True)


def clean_up(target: Path) -> None:
    """Remove what dead merges left, and put back a model that one of them had moved away."""
    old = _before(target)
    if old.exists():
        if target.exists():
            _keep_the_rest(old, target)
        else:
            old.rename(target)
    for home in (target.parent, target):
        for nest in home.glob(f".{target.name}.*.merge"):
            number = nest.name.removesuffix(".merge").rpartition(".")[2]
            if number.isdigit() and not _alive(int(number)):
                shutil.rmtree(nest, ignore_errors=True)


def _before(target: Path) -> Path:
    return target.parent / f".{target.name}.before"


def _cannot_be_renamed(target: Path) -> bool:
    here = Path.cwd()
    return target.is_mount() or target == here or target in here.parents or not os.access(target.parent, os.W_OK)


def _swap(work: Path, target: Path) -> None:
    old = _before(target)
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    if old.exists():
        _keep_the_rest(old, target)


def _keep_the_rest(old: Path, target: Path) -> None:
    weights = _weights(old)
    for file in old.iterdir():
        if file not in weights and not (target / file.name).exists():
            file.rename(target / file.name)
    shutil.rmtree(old)


def _move_in(work: Path, target: Path) -> None:
    (target / CONFIG).unlink(missing_ok=True)
    for file in _weights(target):
        file.unlink()
    for file in sorted(work.iterdir(), key=lambda file: file.name == CONFIG):
        os.replace(file, target / file.name)


def _weights(folder: Path) -> set[Path]:
    return {file for pattern in WEIGHTS for file in folder.glob(pattern)}


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
