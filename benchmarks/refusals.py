"""How well refusals and incoherent answers are recognised, with 95 % intervals (Wilson), and how fast.

python benchmarks/refusals.py [ANSWERS.json …]

Labelled answers come from PyRIT (MIT): pip fetches its wheel once into the user's cache folder (10 MB), and nothing of
them is printed but counts. Each further file is a JSON list of ``{"output"}`` of answers that are taken to be sound,
such as LLaMA-Factory's ``data/alpaca_en_demo.json``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from realign_plugin.evaluation.answers.coherence import incoherence
from realign_plugin.evaluation.answers.refusals import refuses
from realign_plugin.evaluation.metrics.rates import wilson

WHEEL = "pyrit==1.1.0"
LABELS = "pyrit/datasets/scorer_evals/"
HELP_WITH_SOMETHING_ELSE = (
    *("05f8cf34", "1ba891ba", "372653de", "4778aad0", "6437b1d9"),
    *("a1087c3e", "a22cfa99", "a2d94f68", "b575efee", "cc31026d"),
)
"""Labelled refusals (sha256) which help with another request, say with homework: none that their own text shows."""


def fetched() -> Path:
    """The wheel, from the cache folder or from the package index."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realign-plugin" / "benchmarks"
    if not list(folder.glob("pyrit-1.1.0-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "-d", str(folder)]
        subprocess.run(command, check=True)
    return next(folder.glob("pyrit-1.1.0-*.whl"))


def labelled_rows(wheel: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """What the label is on (``refusal_scorer``, or ``objective``: success of the attack), an id, and the row."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            kind = name.removeprefix(LABELS).partition("/")[0]
            if kind not in ("refusal_scorer", "objective") or not name.endswith(".csv"):
                continue
            text = archive.read(name).decode("utf-8-sig")
            while text.startswith("#"):
                text = text.partition("\n")[2]
            for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""))):
                yield kind, f"{name}-{number}", row


def labelled(wheel: Path) -> Iterator[tuple[bool, str, bool]]:
    """Whether the label is on refusal (else on success of the attack), the answer, and the label."""
    for kind, _, row in labelled_rows(wheel):
        yield kind == "refusal_scorer", row["assistant_response"], float(row["human_score"]) == 1


def show(name: str, hits: int, count: int) -> None:
    low, high = wilson(hits, count)
    print(f"{name:66} {hits:5d} of {count:5d}  {hits / count:.3f} [{low:.3f}, {high:.3f}]")


def count(name: str, texts: Sequence[str], found: Callable[[str], object]) -> int:
    hits = sum(bool(found(text)) for text in texts)
    show(name, hits, len(texts))
    return hits


def timed(name: str, texts: Sequence[str], looked_at: Callable[[str], object]) -> None:
    start = time.perf_counter()
    for text in texts:
        looked_at(text)
    print(f"{name:66} {len(texts) / (time.perf_counter() - start):.0f} answers a second")


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def unseen(texts: Sequence[str]) -> list[str]:
    """The half that nothing was tuned on; of the other half, first words were read when the phrases were written."""
    return [text for text in texts if digest(text)[0] % 2]


def main() -> None:
    labels: dict[str, set[tuple[bool, bool]]] = {}
    for on_refusal, text, label in labelled(fetched()):
        labels.setdefault(text, set()).add((on_refusal, label))
    helps = {text for text, known in labels.items() if known & {(True, False), (False, True)}}
    called = [text for text, known in labels.items() if (True, True) in known and text not in helps]
    refusals = [t for t in called if digest(t).hex()[:8] not in HELP_WITH_SOMETHING_ELSE]
    plain = [text for text in helps if (True, False) in labels[text]]
    achieved = [text for text in helps if (True, False) not in labels[text]]
    hits = count("labelled a refusal, and one by its own text: recall", refusals, refuses)
    count("the same, the half that nothing was tuned on", unseen(refusals), refuses)
    count("all that is labelled a refusal and nowhere as help", called, refuses)
    wrong = count("labelled no refusal: taken for one", plain, refuses)
    turned = count("objective achieved: taken for a refusal", achieved, refuses)
    count("the same, the half that nothing was tuned on", unseen(achieved), refuses)
    show("precision, refusals against no refusals", hits, hits + wrong)
    show("precision, the same and objective achieved", hits, hits + wrong + turned)
    count("all of them: taken for incoherent", list(labels), incoherence)
    for file in sys.argv[1:]:
        sound = [row["output"] for row in json.loads(Path(file).read_text(encoding="utf-8")) if row["output"]]
        count(f"{Path(file).name}: taken for a refusal", sound, refuses)
        count(f"{Path(file).name}: taken for incoherent", sound, incoherence)
    texts = list(labels)
    timed("refusals", texts, refuses)
    timed("incoherence", texts, incoherence)


if __name__ == "__main__":
    main()
