"""The figures of `kdscope analyze causal`: functions of its table.

- causal-curves: the probability of the label as pixels are deleted (inserted) by maps and by controls.
- causal-frame: area under the deletion curve of each network, by each map and control, with intervals.
- causal-epochs: the same while students learned, where their probes kept causal maps.

`causal-gallery` (`kdscope.figures.gallery`) shows some images with their maps.
"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn
from kdscope.figures.style import (
    DASHES,
    ROW,
    TWO_COLUMNS,
    colours,
    interval,
    legend_below,
    marks,
    panels,
    short_names,
    styled,
)

ORDER = ("own", "teacher", "other-image", "smooth-random", "randomised-weights", "random")
TITLES = {
    "own": "own map",
    "teacher": "teacher's map",
    "other-image": "map of another image",
    "smooth-random": "random mask as smooth as the map",
    "randomised-weights": "map with random weights",
    "random": "random mask",
}
MAPS = ("own", "teacher")
CURVES = ("deletion-curve", "insertion-curve")
ACROSS = 4  # networks beside each other
CAPTIONS = {
    "curves": "Probability of the label as pixels are deleted (full lines) or inserted (dashed) in the order of a map, "
    "and of controls. A map that finds the evidence falls faster, and rises faster, than they.",
    "frame": "Area under the deletion curve by each map and by controls. One that finds evidence lies left of these.",
    "epochs": "Area under the deletion curve while the students learned, by their maps and by controls.",
}
KINDS = ("own", "teacher-student")  # what students that had no teacher do by its maps is in the table


@FIGURES.register("causal")
def causal(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure, by its file's name."""
    rows = _all_seeds(table[table["pair"].isin(KINDS)])
    area, final = rows["measure"] == "deletion-auc", rows["epoch"].isna()
    lines, areas, probes = rows[rows["measure"].isin(CURVES) & final], rows[area & final], rows[area & ~final]
    with styled():
        yield drawn(table, "causal-curves", lines, lambda: curves(lines), CAPTIONS["curves"])
        yield drawn(table, "causal-frame", areas, lambda: frame(areas), CAPTIONS["frame"])
        yield drawn(table, "causal-epochs", probes, lambda: over_epochs(probes), CAPTIONS["epochs"])


def curves(rows: pd.DataFrame) -> Figure:
    """Rows of networks for each map: deletion as full lines, insertion dashed, bands of confidence."""
    networks = list(dict.fromkeys(rows["b"]))
    lines = [(layer, at) for layer in dict.fromkeys(rows["layer"]) for at in range(0, len(networks), ACROSS)]
    names = short_names(networks, 20)
    columns = min(ACROSS, len(networks))
    figure, grid = panels(len(lines), columns, TWO_COLUMNS, 0.6 + 1.6 * len(lines), sharex=True, sharey=True)
    colour = colours(ORDER)
    for line, (layer, at) in zip(grid, lines, strict=True):
        for axes, network in zip(line, networks[at : at + columns], strict=False):
            here = rows[(rows["layer"] == layer) & (rows["b"] == network)]
            for (by, measure, _), part in here.groupby(["by", "measure", "a"], sort=False):
                dash = DASHES[0] if measure.startswith("deletion") else DASHES[1]
                axes.plot(part["share"], part["value"], dash, color=colour[by])
                alpha = 0.15 if by in MAPS else 0.06  # controls lie upon each other
                axes.fill_between(part["share"], part["ci_low"], part["ci_high"], color=colour[by], alpha=alpha, lw=0)
            axes.set_title(f"{names[network]}: {layer}")
            axes.set_xlim(0, 1)
        for axes in line[len(networks[at : at + columns]) :]:
            axes.set_visible(False)
        line[0].set_ylabel("Probability of the label")
    for axes in grid[-1]:
        axes.set_xlabel("Share of pixels changed")
    present = [by for by in ORDER if by in set(rows["by"])]
    handles = [Line2D([], [], color=colour[by], label=TITLES[by]) for by in present]
    handles += [
        Line2D([], [], color="0.3", linestyle=dash, label=mode)
        for dash, mode in zip(DASHES, ("deletion", "insertion"), strict=False)
    ]
    legend_below(figure, handles)
    return figure


def frame(rows: pd.DataFrame) -> Figure:
    """A panel for each map, a line for each network: a map that finds the evidence lies left of its controls."""
    layers, networks = list(dict.fromkeys(rows["layer"])), list(dict.fromkeys(rows["b"]))
    names = short_names(networks)
    height = 1.0 + 2.6 * ROW * len(networks)
    figure, (line,) = panels(1, len(layers), TWO_COLUMNS, height, sharey=True)
    colour, mark = colours(ORDER), marks(ORDER)
    for axes, layer in zip(line, layers, strict=True):
        here = rows[rows["layer"] == layer]
        for row in here.itertuples():
            at = networks.index(row.b) + 0.13 * (2.5 - ORDER.index(row.by))
            interval(axes, row, at, color=colour[row.by], fmt=mark[row.by])
        axes.set_yticks(range(len(networks)), [names[network] for network in networks])
        axes.set_ylim(-0.6, len(networks) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_title(layer)
        axes.set_xlabel("Area under the deletion curve (probability)")
    present = [by for by in ORDER if by in set(rows["by"])]
    legend_below(
        figure,
        [
            Line2D([], [], linestyle="", marker=mark[by], markersize=4, color=colour[by], label=TITLES[by])
            for by in present
        ],
    )
    return figure


def over_epochs(rows: pd.DataFrame) -> Figure:
    """A column for each student, a row for each map: the area under the deletion curve by its map and by controls."""
    networks, layers = list(dict.fromkeys(rows["b"]))[:ACROSS], list(dict.fromkeys(rows["layer"]))
    names, colour = short_names(networks, 20), colours(ORDER)
    figure, grid = panels(len(layers), len(networks), TWO_COLUMNS, 0.6 + 1.6 * len(layers), sharex=True, sharey=True)
    for line, layer in zip(grid, layers, strict=True):
        for axes, network in zip(line, networks, strict=True):
            here = rows[(rows["layer"] == layer) & (rows["b"] == network)]
            for by, own in here.groupby("by", sort=False):
                own = own.sort_values("epoch")
                epochs = own["epoch"].astype(float)
                axes.plot(epochs, own["value"], color=colour[by], marker=".", markersize=4)
                axes.fill_between(epochs, own["ci_low"], own["ci_high"], color=colour[by], alpha=0.15, linewidth=0)
            axes.set_title(f"{names[network]}: {layer}")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        line[0].set_ylabel("Area under the\ndeletion curve")
    for axes in grid[-1]:
        axes.set_xlabel("Epoch")
    present = [by for by in ORDER if by in set(rows["by"])]
    legend_below(figure, [Line2D([], [], color=colour[by], marker=".", label=TITLES[by]) for by in present])
    return figure


def _all_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """All seeds of a group as one where there are several, else its one."""
    seed = rows["seed"].fillna("").astype(str)
    together = seed.groupby([rows[key] for key in ("pair", "group", "a_group")]).transform(lambda s: (s == "all").any())
    return rows[~together.astype(bool) | (seed == "all")]
