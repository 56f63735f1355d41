"""Answers as they come, kept on disk: an interrupted run does not ask for them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from realign_plugin.data.answering.local import Answering
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.data.rows.progress import counted
from realign_plugin.errors import UserError
from realign_plugin.files import atomic_file, model_stamp, sha256, try_folder
from realign_plugin.staging import reported
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME
from realign_plugin.text_files import json_lines, read_text, text_lines

FORMAT: Final = 2


class Journal:
    """Appends each batch of answers to a file, and knows those of earlier runs with the same models and settings.

    Attributes:
        models: The models by role: names, and sha256 of the adapters' weights.
    """

    def __init__(
        self,
        file: Path,
        models: Mapping[str, str | Path | None],
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ) -> None:
        """Read what an earlier run saved.

        Args:
            file: The journal.
            models: The models by role: names, folders of adapters, None for the base model.
            settings: What else the answers depend on.
            overwrite: Whether a journal of other models or settings is replaced.

        Raises:
            UserError: If the folder cannot be written, or the journal is of other models or settings.
        """
        try_folder(file.parent)
        self.models = {
            role: {"name": path.name, "sha256": sha256(path / WEIGHTS_NAME)} if isinstance(path, Path) else path
            for role, path in models.items()
        }
        self._file = file
        files = {role: _stamp(path) for role, path in models.items() if path is not None and Path(path).is_dir()}
        self._head: dict[str, Any] = {"format": FORMAT, "models": self.models, "files": files} | dict(settings)
        self._known: dict[str, list[str]] = {}
        self._stream: IO[str] | None = None
        self._read(overwrite)

    def _read(self, overwrite: bool) -> None:
        if not self._file.exists():
            return
        text = read_text(self._file, "answers", "answers of an earlier run", whole_lines=True)
        rows = [value for _, value in json_lines(text_lines(text))]
        if not rows or rows[0] != self._head:
            empty = len(rows) == 1 and isinstance(rows[0], dict) and rows[0].keys() == self._head.keys()
            if not (overwrite or empty):  # one without answers was left by a mistake that is corrected now
                raise UserError(
                    f"{self._file}: has answers of other models or settings, expected those of this command; give "
                    "another --name, or --overwrite to replace it"
                )
            self._file.unlink()
            return
        for row in rows[1:]:
            if isinstance(row, dict):  # a line may be cut off, if the disk was full
                self._known[row["batch"]] = row["answers"]

    def __enter__(self) -> Journal:
        with atomic_file(self._file) as work, open(work, "w", encoding="utf-8", newline="\n") as stream:
            for row in (self._head, *({"batch": key, "answers": said} for key, said in self._known.items())):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        with reported(self._file):
            self._stream = open(self._file, "a", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        # Closing writes again what a full disk did not take; the error that is on its way says so already.
        with suppress(OSError) if error is not None else reported(self._file):
            self._stream.close()

    def answers(
        self, wanted: Sequence[tuple[str, Sequence[Prompt], int]], load: Callable[[], Answering]
    ) -> list[list[str]]:
        """All answers, those of earlier runs included; models are loaded only if one is missing.

        Batches are the same whatever an earlier run had done: what is padded with what can change an answer's last
        bits, and so a word.

        Args:
            wanted: Which model answers which prompts, with how many tokens.
            load: Loads the models.

        Returns:
            For each of ``wanted``, answers in the order of the prompts.
        """
        answerer: Answering | None = None
        result = []
        with counted("answers", sum(len(prompts) for _, prompts, _ in wanted)) as advance:
            for name, prompts, tokens in wanted:
                said = [""] * len(prompts)
                for batch in batches(prompts, self._head["batch_size"]):
                    texts = [prompts[number] for number in batch]
                    key = _key(name, tokens, texts)
                    if key not in self._known:
                        answerer = answerer or load()
                        self._note(key, answerer.answers(name, texts, tokens))
                    for number, answer in zip(batch, self._known[key], strict=True):
                        said[number] = answer
                    advance(len(batch))
                result.append(said)
        return result

    def _note(self, key: str, answers: list[str]) -> None:
        assert self._stream is not None
        self._known[key] = answers
        with reported(self._file):
            self._stream.write(json.dumps({"batch": key, "answers": answers}, ensure_ascii=False) + "\n")
            self._stream.flush()

    def table(self, name: str, rows: Iterable[Any]) -> Path:
        """Write rows next to the journal, as a source for a data set.

        Args:
            name: Name of the data set.
            rows: Its rows.
        """
        file = self._file.with_name(f"{name}.rows.jsonl")
        with atomic_file(file) as work, open(work, "w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")  # a user's row may hold dates
        return file


def _stamp(path: str | Path) -> str:
    """What a change of a model is known by, beyond the weights of an adapter."""
    return sha256(path / CONFIG_NAME) if isinstance(path, Path) else model_stamp(Path(path))


def batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Numbers of prompts, similar lengths together.

    Args:
        prompts: The prompts.
        size: How many there are in a batch.
    """
    order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number].text), number))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _key(name: str, tokens: int, prompts: Sequence[Prompt]) -> str:
    text = json.dumps([name, tokens, [[p.system, p.history, p.text] for p in prompts]])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
