"""Fetch wheels for a machine with one GPU, Python 3.12, PyTorch 2.11 and transformers and no network.

    python benchmarks/gpu/gather.py FOLDER

What such a machine lacks to train with LLaMA-Factory and this package, or has in another version, in the versions of
constraints.txt, as Linux x86-64 wheels; ``set_up.sh`` installs them there. Wheels that the folder holds already and
that are wanted no more are removed. Ends with 1 if they are larger than a transfer of 60 MiB.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

PYTHON = "3.12"
MOST_MIB = 60
PACKAGES = (
    "accelerate",
    "annotated-types",
    "datasets",
    "dill",
    "fsspec",
    "immutables",
    "llamafactory",
    "mergekit",
    "multiprocess",
    "omegaconf",
    "peft",
    "pydantic",
    "pydantic-core",
    "tokenizers",
    "transformers",
    "trl",
    "typing-inspection",
)
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def plain(name: str) -> str:
    """The name of a package or of a wheel's file as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(names: tuple[str, ...]) -> list[str]:
    """``NAME==VERSION`` of each package, from constraints.txt."""
    lines = [line.strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if "==" in line]
    known = {plain(line.partition("==")[0]): line for line in lines}
    if lost := [name for name in names if name not in known]:
        raise SystemExit(f"gather: {', '.join(lost)} not in {CONSTRAINTS}, expected a line NAME==VERSION for each")
    return [known[name] for name in names]


def wheel_of(pin: str, folder: Path) -> Path:
    """The wheel of one package in a folder."""
    name, _, version = pin.partition("==")
    for file in folder.glob("*.whl"):
        parts = file.name.split("-")
        if plain(parts[0]) == plain(name) and parts[1] == version:
            return file
    raise SystemExit(f"gather: {folder} has no wheel of {pin}, expected one from `pip download`")


def main() -> None:
    """Download, check the size, and print what there is."""
    parser = argparse.ArgumentParser(description="Wheels for a GPU machine without a network.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    pins = pinned(PACKAGES)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, *pins], check=True)
    wanted = {wheel_of(pin, folder) for pin in pins}
    for file in set(folder.glob("*.whl")) - wanted:
        file.unlink()
    for file in sorted(wanted):
        print(f"{file.stat().st_size / 2**20:7.2f} MiB  {file.name}")
    total = sum(file.stat().st_size for file in wanted) / 2**20
    print(f"{total:7.2f} MiB  {len(wanted)} wheels in {folder}")
    if total > MOST_MIB:
        raise SystemExit(f"gather: {total:.1f} MiB of wheels, expected at most {MOST_MIB}; shorten PACKAGES")


if __name__ == "__main__":
    main()
