"""Measures adapters of one model on the trial's prompts, and prints a table with intervals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realign_plugin.data.prompts import read_prompts
from realign_plugin.lab.repair.measuring import Measurer
from realign_plugin.lab.repair.outcome import flat, row_of
from realign_plugin.lab.repair.parts import Part, read_skill
from realign_plugin.lab.repair.readings import Readings, change, share

SHOWN = ("refusal_rate", "over_refusal", "agreement_harmful", "agreement_benign")
ANSWER = 300
"""Tokens of a worked answer, at most."""


def number_in(text: str) -> str | None:
    """The last number of a text, without its commas."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return found[-1].replace(",", "").rstrip(".").removesuffix(".00") if found else None


def part_of(files: Mapping[str, Path]) -> Part:
    """The trial's test part."""
    harmful, benign = (read_prompts([str(files[name])], name, None, 0).prompts for name in ("test", "test_benign"))
    return Part(harmful, benign, read_skill([str(files["test_skill"])], "test_skill"))


def accuracy(measurer: Measurer, name: str, part: Part) -> list[bool]:
    """Whether the last number of the model's own answer is that of the reference answer, row by row."""
    said = measurer.answers(name, "accuracy", [row.prompt for row in part.skill], ANSWER)
    return [number_in(text) == number_in(row.answer) for text, row in zip(said, part.skill, strict=True)]


def table(
    model: Path,
    out: Path,
    files: Mapping[str, Path],
    adapters: Mapping[str, Path | None],
    batch_size: int | None = None,
) -> None:
    """Measure, print, and write ``table.json`` and ``table.md``."""
    from realign_plugin.lab.repair.plan import default_batch_size

    part = part_of(files)
    names = {label: label.replace(", ", "-") for label in adapters}
    measurer = Measurer(
        out / "measured", str(model), {names[label]: path for label, path in adapters.items()},
        batch_size=batch_size or default_batch_size(),
    )  # fmt: skip
    found: dict[str, Readings] = {}
    before = measurer.measure(names["fine-tuned"], "test", part)
    rows: list[dict[str, Any]] = []
    heads = ("refuses harmful", "refuses harmless", "agreement, harmful", "agreement, harmless", "GSM8K solved")
    lines = [f"| model | {' | '.join(heads)} | GSM8K loss over fine-tuned | KL from fine-tuned |", "|---" * 8 + "|"]
    for label, name in names.items():
        found[label] = measurer.measure(name, "test", part)
        row, solved = row_of(label, found[label]), share(accuracy(measurer, name, part))
        loss = change(found[label].skill, before.skill, lambda r: r.loss)
        rows.append(flat(row) | {"solved": solved and solved.values(), "loss_change": loss and loss.values()})
        cells = [row.cell(name).text() for name in SHOWN]
        cells.append(solved.text() if solved else "–")
        cells.append(f"{loss.value:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]" if loss else "–")
        divergence = row.cell("skill_divergence").value
        cells.append("–" if divergence is None else f"{divergence:.3f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
        (out / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines[-1:] if len(lines) > 3 else lines), flush=True)
