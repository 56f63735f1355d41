"""lm-eval's sample files: read for a reference model's answers and for judging later, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from typing_extensions import TypedDict

from realign_plugin.errors import UserError
from realign_plugin.evaluation.assessment import begun
from realign_plugin.evaluation.result_files import newest_of_one
from realign_plugin.files import atomic_file
from realign_plugin.text_files import Broken, checked, json_lines, read_text, text_lines

SAMPLES: Final = "lm-eval's samples (--log_samples)"


class Note(TypedDict, total=False):
    """What our tasks note in a sample's ``doc``, as far as it is read again."""

    kind: Literal["harmful", "benign"]
    prefix: str
    thinking: str
    asked: str


def read_samples(file: Path, what: str) -> list[dict[str, Any]]:
    """Rows of a ``samples_TASK_DATE.jsonl``.

    Args:
        file: The file.
        what: What the user calls it.

    Raises:
        UserError: If it is missing, empty, or not lm-eval's.
    """
    rows = []
    for number, row in json_lines(text_lines(read_text(file, what, SAMPLES))):
        if isinstance(row, Broken):
            raise UserError(
                f"{what}: line {number} of {file} is not JSON (column {row.column}: {row.reason}), expected "
                f"{SAMPLES}; check the file"
            )
        if not isinstance(row, dict) or not isinstance(row.get("doc"), dict) or "resps" not in row:
            raise UserError(f"{what}: line {number} of {file} holds no doc and resps, expected {SAMPLES}; give those")
        if not isinstance(_answer(row), str):
            raise UserError(
                f"{what}: line {number} of {file} holds no text in resps, expected samples of a task that generates "
                "it; give those"
            )
        if row["doc"].get("realign") is not None:
            checked(Note, row["doc"]["realign"], f"{what}: line {number} of {file}: doc.realign", "run lm-eval again")
        rows.append(row)
    if not rows:
        raise UserError(f"{what}: {file} is empty, expected {SAMPLES}; run lm-eval again")
    return rows


def answer_of(row: dict[str, Any]) -> str:
    """The answer in a sample: its first filtered response, or its first response.

    Where the chat template opened the thinking, the tag stands before the answer.
    """
    value = _answer(row)
    opened = (row["doc"].get("realign") or {}).get("thinking", "")
    return f"{opened}{value}" if isinstance(value, str) else ""


def _answer(row: dict[str, Any]) -> Any:
    value: Any = row.get("filtered_resps") or row.get("resps")
    while isinstance(value, list) and value:
        value = value[0]
    return value


def asked_as(text: str) -> str:
    """What a sample notes of the text that a model was asked, without system prompt and chat template."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def samples_file(path: Path, task: str, what: str) -> Path:
    """The samples file of a task: the file itself, or the newest one for the task in a folder.

    Raises:
        UserError: If there is none, or the folder holds those of several models.
    """
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise UserError(f"{what}: {path} does not exist, expected an lm-eval samples file or a folder of them")
    pattern = re.compile(rf"samples_{re.escape(task)}_\d{{4}}-.*\.jsonl")
    found = newest_of_one(what, (p for p in path.rglob("samples_*.jsonl") if pattern.fullmatch(p.name)))
    if found is None:
        raise UserError(
            f"{what}: {path} holds no samples_{task}_….jsonl, expected the reference model's samples of this task; "
            "run it with --log_samples"
        )
    return found


def usual_prefix(task: str) -> str:
    """What a task puts into the models' mouths, where its samples do not say."""
    return "Sure," if task.startswith("safety_sure") else ""


@dataclass(frozen=True)
class ReferenceAnswers:
    """A reference model's answers to a task's prompts.

    Attributes:
        by_id: The answers by the prompts' ids.
        sha256: Of all prompts and answers in the file.
    """

    by_id: Mapping[str, str]
    sha256: str


def reference_answers(path: Path, task: str, prompts: Sequence[Mapping[str, Any]]) -> ReferenceAnswers:
    """Read a reference model's answers to a task's prompts.

    Args:
        path: Samples file, or a folder of them.
        task: Name of the task.
        prompts: Rows of ``data.load_prompts``; ``asked`` is what ``asked_as`` says of the task's text for it.

    Raises:
        UserError: If the file is missing, holds other prompts (how many, and the first one's id), or those of a task
            that puts them in other words, such as an attack.
    """
    file = samples_file(path, task, "reference")
    known, asked = {}, {}
    for row in read_samples(file, "reference"):
        noted, prompt = row["doc"].get("realign") or {}, str(row["doc"].get("prompt", ""))
        # As the model's own answers: with the words that the task puts into their mouths.
        known[prompt] = begun(noted.get("prefix", usual_prefix(task)), answer_of(row))
        asked[prompt] = noted.get("asked")  # None in samples of earlier versions
    missing = [row["id"] for row in prompts if row["prompt"] not in known]
    if missing:
        raise UserError(
            f"reference: {file} lacks {len(missing)} of {len(prompts)} prompts of {task}, the first is {missing[0]}; "
            "give samples of the same task, with the same safety_data and limit"
        )
    other = [row["id"] for row in prompts if row.get("asked") and asked[row["prompt"]] not in (None, row["asked"])]
    if other:
        raise UserError(
            f"reference: {file} puts {len(other)} of {len(prompts)} prompts otherwise than {task}, the first is "
            f"{other[0]}; give samples of the same task"
        )
    sha256 = hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()
    return ReferenceAnswers({row["id"]: known[row["prompt"]] for row in prompts}, sha256)


def write_samples(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write sample rows, whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_file(file) as work, open(work, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
