"""How many threads a step gets: the cores, divided by the long steps that run at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from realign_plugin.lab.study.config.study import Machine
from realign_plugin.text_files import read_text


@dataclass(frozen=True)
class Processors:
    """What a study may use.

    Attributes:
        cores: Cores in all.
        jobs: Trainings and evaluations at a time; None: one, or as many as the assigned GPUs suffice for.
    """

    cores: int = 1
    jobs: int | None = None

    def share(self, machine: Machine) -> int:
        """Threads of a step where the configuration gives none."""
        each = max(1, min(machine.gpus_per_training or 1, machine.gpus_per_evaluation or 1))
        jobs = self.jobs or max(1, len(machine.gpus) // each)
        return max(1, self.cores // jobs)


def processors(cores: int | None, jobs: int | None, profile: Path | None) -> Processors:
    """What the command line leaves a study.

    Args:
        cores: ``--cores``; None: all of this machine's.
        jobs: ``--jobs``.
        profile: Folder of snakemake's profile; one with an executor has other machines, whose cores are unknown.

    Raises:
        UserError: If the profile cannot be read.
    """
    if cores is None and profile is not None and _elsewhere(profile):
        return Processors(1, jobs)
    return Processors(cores or len(os.sched_getaffinity(0)), jobs)


def _elsewhere(profile: Path) -> bool:
    text = read_text(profile / "config.yaml", "--profile", "snakemake's profile")
    return any(line.startswith("executor:") for line in text.splitlines())
