"""Pictures are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realign_plugin.errors import UserError
from realign_plugin.plotting import pyplot_for, save_figure


def a_figure(path: Path) -> Any:
    figure, axes = pyplot_for(path).subplots()
    axes.plot([0, 1], [1, 0])
    return figure


def test_a_picture_is_written_whole_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.png"
    figure = a_figure(path)
    save_figure(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["p.png"]
    assert not pyplot_for(path).fignum_exists(figure.number)


def test_an_interrupted_picture_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    figure = a_figure(path)

    def full(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(UserError, match=r"p.png: cannot be written \(No space left on device\)"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_what_is_no_png_and_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p\.jpg does not end in \.png"):
        pyplot_for(tmp_path / "p.jpg")
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "p.png"
    with pytest.raises(UserError, match="expected a writable folder"):
        save_figure(a_figure(path), path)


def test_matplotlib_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match="matplotlib is not installed"):
        pyplot_for(tmp_path / "p.png")
