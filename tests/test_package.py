"""What a wheel holds."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_hooks_tasks_and_configurations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"realign_plugin_boot.py", "realign_plugin.pth", "realign_plugin.start", "realign_plugin/cli.py"}
    assert expected <= names
    assert any(name.startswith("realign_plugin/lm_eval_tasks/") for name in names)
    assert any(name.startswith("realign_plugin/mergekit_configs/") for name in names)
    assert not [name for name in names if name.startswith(("tests", "examples", "runs"))]


def test_the_wheel_hooks_a_fresh_environment_and_leaves_it_clean(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "v", with_pip=False)
    python = tmp_path / "v" / "bin" / "python"
    code = "import sys; print('realign_plugin_boot' in sys.modules)"

    def pip(*words: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(python), *words]
        subprocess.run(
            command, check=True, capture_output=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        )

    pip("install", "--no-deps", "--no-index", str(wheel))
    assert subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() == "True"
    pip("uninstall", "-y", "realign-plugin")
    result = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("False", "")


def test_constraints_pin_what_the_ranges_allow() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(r) for rs in project["optional-dependencies"].values() for r in rs]
    wanted += [Requirement(r) for r in project["dependencies"]]
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {
        r.name.lower().replace("_", "-"): next(iter(r.specifier)).version
        for r in map(Requirement, filter(None, lines))
    }
    for requirement in wanted:
        name = requirement.name.lower().replace("_", "-")
        if name != "realign-plugin":
            assert name in pins, f"{name} is not pinned"
            assert pins[name] in requirement.specifier, requirement
