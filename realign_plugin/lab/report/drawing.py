"""matplotlib figures as inline SVG whose colours are the page's, so that light and dark both work."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from realign_plugin.errors import UserError

if TYPE_CHECKING:
    from markupsafe import Markup

SVG: Final = "http://www.w3.org/2000/svg"
XLINK: Final = "http://www.w3.org/1999/xlink"
HEAT_STEPS: Final = 21
"""Steps of the heat map's colours."""

HALO: Final = "halo"
"""Start of the ``gid`` of texts that the page sets off from what lies below them."""

ROLE_NAMES: Final = ("base", "aligned", "fine-tuned", "realigned", "baseline", "fused", "fused-realigned", "other")
_VARIABLES: Final = (
    "ink",
    "muted",
    "rule",
    "paper",
    "accent",
    *(f"role-{name}" for name in ROLE_NAMES),
    *(f"heat-{step}" for step in range(HEAT_STEPS)),
)
_STAND_INS: Final = {name: f"#5e{index:02x}e5" for index, name in enumerate(_VARIABLES)}
_COLOURS: Final = {colour: name for name, colour in _STAND_INS.items()}
_FONT: Final = re.compile(r"font:\s*(?:[a-z]+\s+)*?(?:(bold|[1-9]00)\s+)?([\d.]+)px[^;]*;?|font-family:[^;]*;?")


def colour(name: str) -> str:
    """The colour to draw with, which becomes the page's ``var(--name)``."""
    return _STAND_INS[name]


def role_name(role: str) -> str:
    """A role as it stands in names of variables and classes; ``other`` for one that is unknown."""
    name = role.replace(" ", "-")
    return name if name in ROLE_NAMES else "other"


@contextmanager
def canvas(width: int, height: int, **grid: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the page's style; lengths are CSS pixels.

    Args:
        width: Of the picture.
        height: Of the picture.
        **grid: For ``plt.subplots``: ``nrows``, ``sharex`` ...

    Yields:
        matplotlib's figure and axes.

    Raises:
        UserError: If matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "report: matplotlib is not installed, expected it for the charts; pip install 'realign-plugin[study]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(_style()):
        figure, axes = plt.subplots(figsize=(width / 72, height / 72), layout="constrained", **grid)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def _style() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "realign-plugin",
        "text.parse_math": False,
        "figure.dpi": 72,
        "savefig.dpi": 72,
        "font.size": 12,
        "font.family": ["DejaVu Sans"],
        "axes.edgecolor": colour("muted"),
        "axes.labelcolor": colour("muted"),
        "axes.titlecolor": colour("ink"),
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "text.color": colour("ink"),
        "grid.color": colour("rule"),
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "lines.color": colour("ink"),
        "patch.edgecolor": colour("ink"),
    }


def inline_svg(figure: Any, name: str, words: str) -> Markup:
    """A figure as an ``<svg>`` element for the page.

    Args:
        figure: matplotlib's figure, drawn in ``colour``'s colours.
        name: Unique on the page; the prefix of its elements' ids.
        words: What the picture shows, with its numbers, for screen readers.

    Returns:
        The element, with ``role="img"``; without declarations, metadata and ids that nothing refers to.
    """
    from markupsafe import Markup

    buffer = io.BytesIO()
    # Chinese or Hindi headings are drawn by the browser's fonts; matplotlib's own need not have them.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{SVG}}}metadata":
                parent.remove(child)
    _rename(root, name)
    width = round(float(root.attrib.pop("width").removesuffix("pt")))
    root.attrib.pop("height", None)
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "aria-label": words, "class": "chart", "style": f"--width: {width}px"}
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _rename(root: ElementTree.Element, name: str) -> None:
    """Give the ids that are used the picture's own, drop the others, and put variables in place of colours."""
    link = f"{{{XLINK}}}href"
    used = set()
    for element in root.iter():
        used |= {element.attrib[key][1:] for key in (link, "href") if element.attrib.get(key, "").startswith("#")}
        used |= set(re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values())))
    names = {old: f"{name}-{number}" for number, old in enumerate(sorted(used))}
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in names:
            element.attrib["id"] = names[old]
        elif old is not None and old.startswith(HALO):
            element.attrib["class"] = HALO
        if link in element.attrib:
            element.attrib["href"] = f"#{names[element.attrib.pop(link)[1:]]}"
        for key, value in list(element.attrib.items()):
            element.attrib[key] = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{names[found[1]]})", value)
        if "style" in element.attrib:
            element.attrib["style"] = _page_style(element.attrib["style"])


def _page_style(style: str) -> str:
    style = _FONT.sub(lambda found: _page_font(found[1], found[2]), style)
    return re.sub(r"#[0-9a-f]{6}", lambda found: f"var(--{_COLOURS[found[0]]})", style)


def _page_font(weight: str | None, size: str | None) -> str:
    """The part of matplotlib's font that is kept: its size and weight; the family is the page's."""
    return "".join((f"font-weight: {weight};" * bool(weight), f"font-size: {size}px;" * bool(size)))
