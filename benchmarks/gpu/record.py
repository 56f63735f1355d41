"""One JSON file of all measurements, written again after each, and the clock that ends them."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Record:
    """Figures by group and name.

    Attributes:
        device: Where everything is measured.
        content: What the file holds.
    """

    def __init__(self, file: Path, seconds: float, device: torch.device, settings: dict[str, Any]) -> None:
        """Start the clock and the file.

        Args:
            file: The JSON file; its folder is made.
            seconds: After so many, ``measure`` starts nothing more.
            device: Where everything is measured.
            settings: What the command was told.
        """
        self.device, self._file, self._seconds, self._start = device, file, seconds, time.perf_counter()
        self.content: dict[str, Any] = {
            "machine": machine(device),
            "settings": settings,
            "figures": {},
            "skipped": [],
            "elapsed_s": 0.0,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def left(self) -> float:
        """Seconds that are left."""
        return self._seconds - (time.perf_counter() - self._start)

    def measure(self, group: str, name: str, run: Callable[[], dict[str, Any]], needs: float = 0.0) -> None:
        """Measure and write, unless time is up; an error is written down and the rest goes on.

        Args:
            group: Heading of the figures.
            name: Their name.
            run: Measures, and returns figures.
            needs: Seconds that have to be left.
        """
        if self.left() < max(needs, 0.0):
            self.content["skipped"].append(f"{group} / {name}")
            self._write()
            return
        started, error = time.perf_counter(), None
        try:
            found = run()
        except (Exception, SystemExit) as raised:
            found = {"error": f"{type(raised).__name__}: {' '.join(str(raised).split())[:600]}"}
            error = raised.with_traceback(None)
        del error
        free()
        found["wall_s"] = round(time.perf_counter() - started, 1)
        self.content["figures"].setdefault(group, {})[name] = found
        self._write()
        shown = "  ".join(f"{key} {value}" for key, value in found.items())
        print(f"[{time.perf_counter() - self._start:6.1f} s] {group} / {name}: {shown}", flush=True)

    def _write(self) -> None:
        self.content["elapsed_s"] = round(time.perf_counter() - self._start, 1)
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1), encoding="utf-8")
        os.replace(part, self._file)


def machine(device: torch.device) -> dict[str, Any]:
    """Versions, and the name of the GPU."""
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


def free() -> None:
    """Give back what is no more in use, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gib(count: float) -> float:
    """Bytes in GiB."""
    return round(count / 2**30, 3)


def table(content: dict[str, Any]) -> str:
    """All figures as text, a table for each group: names of figures down, names of measurements across."""
    lines = [json.dumps(content["machine"])]
    for group, columns in content["figures"].items():
        shown = {name: {k: str(v) for k, v in found.items() if k != "error"} for name, found in columns.items()}
        names = list(dict.fromkeys(key for found in shown.values() for key in found))
        first = max(map(len, names))
        widths = {name: 2 + max(map(len, [name, *found.values()])) for name, found in shown.items()}
        lines += ["", group, " " * first + "".join(f"{name:>{width}}" for name, width in widths.items())]
        for key in names:
            cells = "".join(f"{found.get(key, ''):>{widths[name]}}" for name, found in shown.items())
            lines.append(f"{key:<{first}}{cells}")
        lines += [f"{name}: {found['error']}" for name, found in columns.items() if "error" in found]
    if content["skipped"]:
        lines += ["", f"no time for: {'; '.join(content['skipped'])}"]
    return "\n".join(lines)
