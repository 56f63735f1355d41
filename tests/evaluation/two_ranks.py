"""Run by ``torchrun``: one evaluation in two processes over gloo; rank 0 prints what came of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from realign_plugin.evaluation.task_names import tasks_folder
from tests.evaluation.parrot import Parrot


class Ranked(Parrot):
    """The parrot, one of several."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.zeros_like(tensor) for _ in range(self._world_size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def gather_object(self, value: Any, dst: int = 0) -> Any:
        parts = [None] * self._world_size if self._rank == dst else None
        dist.gather_object(value, parts, dst=dst)
        return parts

    def barrier(self) -> None:
        dist.barrier()


def main() -> None:
    """Evaluate, and print the metrics."""
    dist.init_process_group("gloo")
    metadata = {"safety_data": sys.argv[1], "judge_cache": f"{sys.argv[2]}/{dist.get_rank()}"}
    manager = TaskManager(include_defaults=False, include_path=str(tasks_folder()), metadata=metadata)
    found = simple_evaluate(
        model=Ranked(), tasks=["safety_catqa"], task_manager=manager, metadata=metadata, bootstrap_iters=0
    )
    if found is not None and dist.get_rank() == 0:
        row = {key: value for key, value in found["results"]["safety_catqa"].items() if key.endswith(",none")}
        print("RESULT" + json.dumps(row | {"report": found["realign"]["judge"]["report"]}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
