from __future__ import annotations

from pathlib import Path

import pytest

from realign_plugin.errors import UserError
from realign_plugin.lab.estimate.reading import read_values
from realign_plugin.lab.study.config.loading import load
from realign_plugin.yaml_files import read_yaml, with_overrides
from tests.mutations import refusal

ODD = {
    "deep": b"root: " + b"[" * 100_000 + b"]" * 100_000,
    "deep in a block": b"- " * 100_000 + b"x",
    "digits": b"root: " + b"9" * 5000,
    "binary": b"root: \x80\x81",
    "nul": b"root: \x00",
    "a tag": b"root: !!python/object/apply:os.system ['true']",
    "an anchor": b"root: &a [*a]",
    "twice": b"root: a\nroot: b",
    "a list": b"[1]",
    "empty": b"",
    "a date": b"root: 2001-99-99",
    "itself": b"root: ${root}",
    "open": b"root: ${a",
    "merge": b"<<: 5",
    "extends a list": b"extends: [1]",
    "extends nothing": b'extends: "x\\0y"',
    "a set": b"root: !!set {a, b}",
    "bytes": b"root: !!binary aGVsbG8=",
    "a key": b"[1]: 2",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    file = tmp_path / "it.yaml"
    file.write_bytes(ODD[case])
    message = refusal(lambda: load(file), case)
    assert message
    assert "\n" not in message
    assert len(message) < 2000
    assert "\n" not in (refusal(lambda: read_values(file, []), case) or "")


@pytest.mark.parametrize(
    "override",
    [
        "root=" + "[" * 50_000,
        "root=[",
        "root=" + "9" * 5000,
        "a" + ".a" * 5000 + "=1",
        "root=${a",
        "=1",
        "[=1",
        "root.x=1",
    ],
)
def test_odd_overrides_are_refused_in_one_line(tmp_path: Path, override: str) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("root: runs/it\nmodel: m\n")
    with pytest.raises(UserError) as error:
        load(file, [override])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


def test_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_bytes("root: ${name}/纸\nname: runs\n".encode("utf-16"))
    read = read_yaml(file, "keys")
    assert with_overrides(read, ["name=x", "a.b=[1, 2]"], file, "a=b") == {
        "root": "x/纸",
        "name": "x",
        "a": {"b": [1, 2]},
    }
    file.write_text("- 1")
    with pytest.raises(UserError, match=r"it.yaml holds no keys, expected keys"):
        read_yaml(file, "keys")
