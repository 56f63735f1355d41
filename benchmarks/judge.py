"""The judge's own time: verdicts from a server with a fixed latency, against the floor set by that and by concurrency.

python benchmarks/judge.py [VERDICTS LATENCY_MS CONCURRENCY RUNS]

The server runs in a process of its own on 127.0.0.1. Start-up (importing the client, opening the cache) is left out.
On a busy machine look at least_new_s and new_cpu_s (this process alone) too: the median holds other programs' time.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVE = (
    "import sys, time; sys.path.insert(0, {root!r})\n"
    "from tests.evaluation.judging.judge_server import judge_server\n"
    "with judge_server(latency={latency}) as server:\n"
    "    print(server.url, flush=True)\n"
    "    time.sleep(600)\n"
)


def main() -> None:
    """Judge new answers in each run, and print medians."""
    count, latency, concurrency, runs = (
        int(x) for x in (*sys.argv[1:5], *("100", "50", "32", "7")[len(sys.argv[1:5]) :])
    )
    code = SERVE.format(root=str(ROOT), latency=latency / 1000)
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.stdout.readline().strip()}
    from realign_plugin.evaluation.judging.judge import Item, Judge
    from realign_plugin.evaluation.judging.settings import EvaluationSettings

    new, again, busy = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        settings = EvaluationSettings.load({"judge_cache": folder, "judge_concurrency": concurrency})
        Judge(settings).judge("harmful", [Item("warm", "up", "please")])
        for run in range(runs):
            items = [Item(str(n), f"how is kite {n} made ?", f"fold it {run} {n}") for n in range(count)]
            for times in (new, again):
                judge = Judge(settings)
                started, worked = time.perf_counter(), time.process_time()
                verdicts = judge.judge("harmful", items)
                times.append(time.perf_counter() - started)
                if times is new:
                    busy.append(time.process_time() - worked)
                assert all(verdict.label for verdict in verdicts)
    server.kill()
    floor = math.ceil(count / concurrency) * latency / 1000
    figures = {
        "verdicts": count,
        "latency_ms": latency,
        "concurrency": concurrency,
        "runs": runs,
        "floor_s": round(floor, 3),
        "new_s": round(statistics.median(new), 3),
        "least_new_s": round(min(new), 3),
        "new_cpu_s": round(statistics.median(busy), 3),
        "cached_s": round(statistics.median(again), 3),
    }
    print(json.dumps({"judge": figures}))


if __name__ == "__main__":
    main()
