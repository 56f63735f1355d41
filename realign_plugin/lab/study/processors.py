"""How many threads a step gets: the cores, divided by the long steps that run at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.lab.study.config.study import Machine
from realign_plugin.text_files import read_text
from realign_plugin.yaml_files import read_yaml


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
        UserError: If the profile cannot be read, or there are more jobs than cores.
    """
    if cores is None and profile is not None and _elsewhere(profile):
        return Processors(1, jobs)
    found = cores or len(os.sched_getaffinity(0))
    if jobs is not None and jobs > found:
        raise UserError(f"--jobs: {jobs} with {found} cores, expected at most {found}; give fewer jobs, or more cores")
    return Processors(found, jobs)


def limits(jobs: int | None, profile: Path | None) -> list[str]:
    """What tells snakemake to run so many trainings and evaluations at a time.

    Its command line replaces a profile's resources, which are given along with it.

    Args:
        jobs: ``--jobs``.
        profile: Folder of snakemake's profile.

    Raises:
        UserError: If the profile cannot be read.
    """
    from omegaconf import OmegaConf

    if jobs is None:
        return []
    found = read_yaml(profile / "config.yaml", "snakemake's profile") if profile is not None else OmegaConf.create()
    given: Any = OmegaConf.to_container(found, resolve=False)
    given = given.get("resources") or []
    words = [f"{name}={value}" for name, value in given.items()] if isinstance(given, dict) else given
    return ["--resources", *map(str, words), f"long={jobs}"]


def _elsewhere(profile: Path) -> bool:
    text = read_text(profile / "config.yaml", "--profile", "snakemake's profile")
    return any(line.startswith("executor:") for line in text.splitlines())
