"""Which room may import which, so that the drawing in docs/architecture.md stays true."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "realign_plugin"
GROUND = "ground"
"""The modules at the package's root, but for the command line."""
MAY_IMPORT = {
    GROUND: set(),
    "method": {GROUND},
    "subspace": {GROUND, "method"},
    "tuner": {GROUND, "method", "subspace"},
    "training": {GROUND, "method", "subspace", "tuner"},
    "trl": {GROUND, "method", "subspace", "tuner"},
    "merging": {GROUND, "method", "subspace"},
    "evaluation": {GROUND},
    "data": {GROUND, "subspace", "evaluation"},
    "lab": {GROUND, "method", "subspace", "tuner", "training", "merging", "evaluation", "data"},
    "commands": {GROUND, "method", "subspace", "evaluation", "data", "lab"},
    "cli": {GROUND, "commands", "data"},
}
PARTS_MAY_IMPORT = {
    "evaluation.answers": set(),
    "evaluation.metrics": set(),
    "evaluation.judging": {"evaluation.answers"},
    "data.rows": set(),
    "training.settings": set(),
    "data.answering": {"data.rows"},
    "lab.study.config": set(),
    "lab.study.planning": {"lab.study.config"},
}
"""Folders within a room, and which of the same room's folders each may import; never the modules next to it."""
LINES = 3000
"""Of one folder of modules, at most."""
HOSTS = {"llamafactory": "training", "mergekit": "merging", "lm_eval": "evaluation", "trl": "trl"}
"""Hosts, and the only room that may import each."""
LIGHT = {"torch", "safetensors", "pydantic", "realign_plugin"}
"""What ``method`` and ``subspace`` import besides the standard library, when they are imported."""


def room(module: str) -> str:
    """The room of a module."""
    parts = module.split(".")
    if len(parts) == 1:
        return GROUND
    if parts[1] == "cli":
        return "cli"
    return parts[1] if (PACKAGE / parts[1]).is_dir() else GROUND


def is_module(name: str) -> bool:
    """Whether a dotted name is one of ours."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imported(node: ast.AST) -> list[str]:
    """What an import statement imports, as modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if is_module(name) else node.module for name in whole]
    return []


def statements(tree: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    """Nodes of a module, without what only a type checker reads; without functions' bodies unless ``lazy``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        yield node
        yield from statements(node, lazy)


@cache
def imports(lazy: bool) -> dict[str, set[str]]:
    """What each of our modules imports."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found[name] = {one for node in statements(tree, lazy) for one in imported(node)}
    return found


def test_every_room_is_drawn() -> None:
    assert {room(module) for module in imports(True)} == MAY_IMPORT.keys()


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_rooms_import_those_below_them(name: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports(True).items()
        if room(module) == name and module != "realign_plugin"
        for other in others
        if other.startswith("realign_plugin.") and room(other) not in {name, *MAY_IMPORT[name]}
    ]
    assert not wrong


@pytest.mark.parametrize("name", PARTS_MAY_IMPORT)
def test_parts_of_a_room_import_what_is_below_them(name: str) -> None:
    whole, part = f"realign_plugin.{name.rpartition('.')[0]}.", f"realign_plugin.{name}"
    allowed = tuple(f"realign_plugin.{one}." for one in (name, *PARTS_MAY_IMPORT[name]))
    modules = {module: others for module, others in imports(True).items() if f"{module}.".startswith(f"{part}.")}
    assert len(modules) > 1
    wrong = [
        f"{module} imports {other}"
        for module, others in modules.items()
        for other in others
        if other.startswith(whole) and not f"{other}.".startswith(allowed)
    ]
    assert not wrong


def test_no_folder_is_too_long_to_read() -> None:
    lines = {
        folder: sum(len(file.read_text(encoding="utf-8").splitlines()) for file in folder.glob("*.py"))
        for folder in PACKAGE.rglob("*")
        if folder.is_dir()
    }
    assert not {folder.name: count for folder, count in lines.items() if count > LINES}


def test_a_hosts_name_is_imported_in_its_room_only() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports(True).items()
        for other in others
        if other.split(".")[0] in HOSTS and room(module) != HOSTS[other.split(".")[0]]
    ]
    assert not wrong


def test_method_and_subspace_are_light() -> None:
    import sys

    wrong = [
        f"{module} imports {other}"
        for module, others in imports(False).items()
        if room(module) in ("method", "subspace")
        for other in others
        if other.split(".")[0] not in LIGHT | sys.stdlib_module_names
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    """Counting what functions import too: a circle hides which of two modules is the lower one."""
    graph = {
        module: {other for other in others if is_module(other) and other != "realign_plugin"}
        for module, others in imports(True).items()
    }
    seen: dict[str, int] = {}

    def look(module: str, path: list[str]) -> None:
        if seen.get(module) == 2:
            return
        assert seen.get(module) != 1, " → ".join([*path[path.index(module) :], module])
        seen[module] = 1
        for other in sorted(graph.get(module, ())):
            look(other, [*path, module])
        seen[module] = 2

    for module in graph:
        look(module, [])
