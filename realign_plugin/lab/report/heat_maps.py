"""What each trained mask keeps, by layer and module: one heat map a subspace, all in the same colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from realign_plugin.errors import UserError
from realign_plugin.lab.report.drawing import HEAT_STEPS, canvas, colour, inline_svg
from realign_plugin.lab.report.numbers import percent
from realign_plugin.lab.report.run import Run
from realign_plugin.subspace.inspection import ModuleRow, inspect_subspace, place
from realign_plugin.subspace.subspace import SafetySubspace

if TYPE_CHECKING:
    from markupsafe import Markup

USUAL: Final = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
)


@dataclass(frozen=True)
class HeatMap:
    """One subspace.

    Attributes:
        title: What trained it.
        folder: Where it lies in the run folder.
        kept: Share of all elements whose sigmoid(logit) is above one half.
        mean: Mean of sigmoid(logits) over all elements.
        rows: Each module.
        svg: The picture.
        first: Whether no other seed of the same training comes before it.
    """

    title: str
    folder: str
    kept: float
    mean: float
    rows: list[ModuleRow]
    svg: Markup
    first: bool


@dataclass
class HeatMaps:
    """All subspaces.

    Attributes:
        maps: Those that could be read.
        low: What the first colour stands for.
        high: What the last colour stands for.
        notes: Why others have no map, one line each.
    """

    maps: list[HeatMap] = field(default_factory=list)
    low: float = 0.0
    high: float = 1.0
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> list[HeatMap]:
        """Those of which another seed comes first."""
        return [one for one in self.maps if not one.first]


def draw_heat_maps(run: Run) -> HeatMaps:
    """Read each subspace that a model of the study names, once, and draw what its mask keeps."""
    trainings = {training.folder: training for training in run.study.trainings}
    folders, stems = {}, {}
    for model in run.study.models:
        if model.subspace and model.subspace not in folders:
            training = trainings.get(model.subspace)
            label = f"{model.group}: {model.label}" if model.group else model.label
            folders[model.subspace] = training.label if training else label
            stems[model.subspace] = training.title if training else label
    result, read, shown = HeatMaps(), [], set()
    for folder, title in folders.items():
        if not (run.folder / folder).is_dir():
            result.notes.append(f"{title}: {folder} is not there.")
            continue
        try:
            read.append((folder, title, inspect_subspace(SafetySubspace.load(run.folder / folder, lazy=True))))
        except UserError as error:
            result.notes.append(f"{title}: {error}.")
    kept = [row.kept for _, _, rows in read for row in rows]
    if not kept:
        return result
    # A little room on both sides keeps a study of equal masks from dividing by zero.
    result.low, result.high = max(0.0, min(kept) - 0.005), min(1.0, max(kept) + 0.005)
    for number, (folder, title, rows) in enumerate(read):
        total = sum(row.elements for row in rows)
        share = sum(row.kept * row.elements for row in rows) / total
        mean = sum(row.mean * row.elements for row in rows) / total
        svg = _draw(rows, f"mask-{number}", _words(rows, title, share), result.low, result.high)
        result.maps.append(HeatMap(title, folder, share, mean, rows, svg, stems[folder] not in shown))
        shown.add(stems[folder])
    return result


def _order(name: str) -> int:
    """The order in which data pass through a layer, for the usual names of modules; others come last."""
    last = name.rpartition(".")[2]
    return USUAL.index(last) if last in USUAL else len(USUAL)


def _short_names(names: Sequence[str]) -> list[str]:
    """Last parts of names, where they tell the modules apart."""
    last = [name.rpartition(".")[2] for name in names]
    return last if len(set(last)) == len(last) else list(names)


def _draw(rows: Sequence[ModuleRow], name: str, words: str, low: float, high: float) -> Markup:
    from matplotlib.patches import Rectangle

    layers = sorted({place(row.module)[0] for row in rows})
    names = sorted(dict.fromkeys(place(row.module)[1] for row in rows), key=_order)
    labels = _short_names(names)
    below = 16 + 5.4 * max(len(label) for label in labels)
    step = 15 if len(layers) <= 40 else 9
    with canvas(max(190, 84 + 34 * len(names)), round(26 + below + step * max(len(layers), 2))) as (figure, axes):
        for row in rows:
            layer, module = place(row.module)
            share = (row.kept - low) / (high - low)
            axes.add_patch(
                Rectangle(
                    (names.index(module) + 0.03, layers.index(layer) + 0.03),
                    0.94,
                    0.94,
                    facecolor=colour(f"heat-{round(share * (HEAT_STEPS - 1))}"),
                    edgecolor=colour("rule"),
                    linewidth=0.4,
                )
            )
        axes.set_xlim(0, len(names))
        axes.set_ylim(len(layers), 0)
        axes.set_xticks([n + 0.5 for n in range(len(names))], labels, rotation=50, ha="right", rotation_mode="anchor")
        every = 1 if len(layers) <= 16 else 2 if len(layers) <= 40 else 5
        shown = [index for index in range(len(layers)) if index % every == 0]
        axes.set_yticks([n + 0.5 for n in shown], [str(layers[n]) if layers[n] >= 0 else "–" for n in shown])
        axes.set_ylabel("layer")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return inline_svg(figure, name, words)


def _words(rows: Sequence[ModuleRow], title: str, share: float) -> str:
    least, most = min(rows, key=lambda row: row.kept), max(rows, key=lambda row: row.kept)
    by_module: dict[str, list[ModuleRow]] = {}
    for row in rows:
        by_module.setdefault(place(row.module)[1], []).append(row)
    means = "; ".join(
        f"{name} {percent(sum(r.kept * r.elements for r in some) / sum(r.elements for r in some))}"
        for name, some in by_module.items()
    )
    return (
        f"Heat map of {title}: the mask keeps {percent(share)} of all elements, least in {least.module} "
        f"({percent(least.kept)}), most in {most.module} ({percent(most.kept)}). By kind of module: {means}."
    )
