"""Pictures: matplotlib without a display, and PNG files that are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from realign_plugin.errors import UserError
from realign_plugin.files import atomic_file

DPI: Final = 150


def pyplot_for(path: Path) -> Any:
    """``matplotlib.pyplot``, set to draw without a display, once it is known that a picture can go to a path.

    Args:
        path: PNG that will be written.

    Raises:
        UserError: If the path does not end in .png, or matplotlib is missing.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--plot: {path} does not end in .png, expected a PNG file; rename it")
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "--plot: matplotlib is not installed, expected it for plots; pip install matplotlib"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all, and close it.

    Args:
        figure: matplotlib's figure.
        path: PNG to write; its folder is made if it is missing.

    Raises:
        UserError: If the file cannot be written.
    """
    import matplotlib.pyplot as plt

    try:
        with atomic_file(path) as work, open(work, "wb") as file:
            figure.savefig(file, dpi=DPI, format="png")
    finally:
        plt.close(figure)
