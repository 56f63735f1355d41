"""How a training step of masked DPO grows with rank, layers, tasks and tokens, beside LoRA-DPO's.

    python benchmarks/growth.py [--runs 3] [--hidden 512] [--grid rank layers tasks tokens checkpointing]

Each point is a run of training_step.py; from the points of one axis, the others fixed, a line is fitted to the CPU
seconds of a step: seconds more for each unit of the axis, for ``mask_dpo`` and for ``lora_dpo``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

STEP: Final = Path(__file__).with_name("training_step.py")
FIXED: Final = {"rank": 64, "layers": 2, "tokens": 64, "pairs": 4}
AXES: Final[dict[str, list[int]]] = {
    "rank": [16, 64, 256],
    "layers": [1, 2, 4],
    "tasks": [1, 4],
    "tokens": [64, 512, 2048],
    "checkpointing": [0, 1],
}


def measure(chosen: argparse.Namespace, axis: str, value: int) -> dict[str, Any]:
    """One run of training_step.py.

    Args:
        chosen: The command line.
        axis: What is varied.
        value: Its value; ``tasks`` is read off the side with four of them.
    """
    point = FIXED | ({axis: value} if axis in FIXED else {})
    if axis == "tokens":
        point["pairs"] = 1  # 2,048 tokens of four pairs take minutes a step
    sides = ["lora_dpo", "mask_dpo_4" if axis == "tasks" and value == 4 else "mask_dpo"]
    words = [sys.executable, str(STEP), "--hidden", str(chosen.hidden), "--runs", str(chosen.runs)]
    words += [word for name, number in point.items() for word in (f"--{name}", str(number))]
    words += ["--checkpointing"] if axis == "checkpointing" and value else []
    found = subprocess.run([*words, "--sides", ",".join(sides)], capture_output=True, text=True, check=True).stdout
    result = json.loads(found.splitlines()[-1])["training_step"]
    mask = result[sides[1]]
    return {
        axis: value,
        "lora_dpo_s": result["lora_dpo"]["cpu_s"],
        "mask_dpo_s": mask["cpu_s"],
        "ratio": mask["ratio"],
        "mib_more": mask["mib_more"],
    }


def slope(points: list[dict[str, Any]], axis: str, what: str) -> float:
    """Of the line through the points, by least squares."""
    x, y = ([point[key] for point in points] for key in (axis, what))
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    """Measure each axis, and print points and slopes."""
    parser = argparse.ArgumentParser(description="Growth of a training step.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--grid", nargs="+", default=list(AXES), choices=list(AXES))
    chosen = parser.parse_args()
    result: dict[str, Any] = {"hidden": chosen.hidden, "runs": chosen.runs, "fixed": FIXED}
    for axis in chosen.grid:
        points = [measure(chosen, axis, value) for value in AXES[axis]]
        result[axis] = {"points": points}
        if axis != "checkpointing":
            sides = ("mask_dpo",) if axis == "tasks" else ("lora_dpo", "mask_dpo")  # LoRA-DPO has one task
            result[axis] |= {f"{side}_s_each": round(slope(points, axis, f"{side}_s"), 6) for side in sides}
    print(json.dumps({"growth": result}))


if __name__ == "__main__":
    main()
