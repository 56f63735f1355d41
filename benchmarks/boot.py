"""What the hooks cost an interpreter that imports no host, and what importing the package costs beyond torch and PEFT.

    python benchmarks/boot.py [RUNS]

The import of the boot module is timed by the interpreter itself (``-X importtime``), its .pth line included; the cost
of a hooked import system is that of finding 200 modules that do not exist, with and without the hook, alternating.
``import peft`` is timed with the plugin, whose type it then registers, and without; ``cli_s`` is the command's module.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys

PROBE = """
import importlib.util, time
start = time.perf_counter_ns()
for number in range(200):
    importlib.util.find_spec(f"no_such_module_{number}")
print(time.perf_counter_ns() - start)
"""


def boot_ms() -> float:
    """Time of importing the boot module at start-up, in ms."""
    command = [sys.executable, "-X", "importtime", "-c", "pass"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    match = re.search(r"\|\s+(\d+) \| +realign_plugin_boot", text)
    if match is None:
        raise SystemExit("the boot module is not imported at start-up: install the package with pip first")
    return int(match[1]) / 1000


def lookup_us(environment: dict[str, str]) -> float:
    """Time of looking up one module, in microseconds."""
    command = [sys.executable, "-c", PROBE]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout) / 2e5


def import_s(module: str, environment: dict[str, str]) -> float:
    """CPU time of importing a module, in seconds."""
    code = f"import time; start = time.process_time(); import {module}\nprint(time.process_time() - start)"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    """Time, and print medians."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    on, off = dict(os.environ), os.environ | {"REALIGN_PLUGIN": "0"}
    on.pop("REALIGN_PLUGIN", None)
    boots = sorted(boot_ms() for _ in range(runs))
    pairs = [(lookup_us(on), lookup_us(off)) for _ in range(runs)]
    peft = [(import_s("peft", on), import_s("peft", off)) for _ in range(5)]
    result = {
        "boot_ms": round(statistics.median(boots), 3),
        "boot_ms_worst": round(boots[-1], 3),
        "lookup_us_on": round(statistics.median(a for a, _ in pairs), 2),
        "lookup_us_off": round(statistics.median(b for _, b in pairs), 2),
        "peft_s_on": round(statistics.median(on for on, _ in peft), 2),
        "peft_s_off": round(statistics.median(off for _, off in peft), 2),
        "cli_s": round(statistics.median(import_s("realign_plugin.cli", on) for _ in range(5)), 3),
        "runs": runs,
    }
    print(json.dumps({"boot": result}))


if __name__ == "__main__":
    main()
