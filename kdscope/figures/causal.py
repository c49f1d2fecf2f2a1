"""The figures of `kdscope analyze causal`: functions of its table.

- causal-curves: the probability of the label as pixels are deleted (inserted) by maps and by controls.
- causal-frame: area under the deletion curve of each network, by each map and control, with intervals.
"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
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

ORDER = ("own", "teacher", "other-image", "randomised-weights", "random")
TITLES = {
    "own": "own map",
    "teacher": "teacher's map",
    "other-image": "map of another image",
    "randomised-weights": "map with random weights",
    "random": "random mask",
}
KINDS = ("own", "teacher-student")  # what students that had no teacher do by its maps is in the table


@FIGURES.register("causal")
def causal(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure, by its file's name."""
    table = table[table["pair"].isin(KINDS) & (table["seed"].astype(str) != "all")]
    with styled():
        yield "causal-curves", curves(table)
        yield "causal-frame", frame(table)


def curves(table: pd.DataFrame) -> Figure:
    """A row for each map, a column for each network: deletion as full lines, insertion dashed, bands of confidence."""
    rows = table[table["measure"].isin(["deletion-curve", "insertion-curve"])]
    layers, networks = list(dict.fromkeys(rows["layer"])), list(dict.fromkeys(rows["b"]))[:4]
    names = short_names(networks)
    figure, grid = panels(len(layers), len(networks), TWO_COLUMNS, 0.5 + 1.8 * len(layers), sharex=True, sharey=True)
    colour = colours(ORDER)
    for line, layer in zip(grid, layers, strict=True):
        for axes, network in zip(line, networks, strict=True):
            here = rows[(rows["layer"] == layer) & (rows["b"] == network)]
            for (by, measure, _), part in here.groupby(["by", "measure", "a"], sort=False):
                dash = DASHES[0] if measure.startswith("deletion") else DASHES[1]
                axes.plot(part["share"], part["value"], dash, color=colour[by])
                axes.fill_between(part["share"], part["ci_low"], part["ci_high"], color=colour[by], alpha=0.15, lw=0)
            axes.set_title(f"{names[network]}: {layer}")
            axes.set_xlim(0, 1)
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


def frame(table: pd.DataFrame) -> Figure:
    """A panel for each map, a line for each network: a map that finds the evidence lies left of its controls."""
    rows = table[table["measure"] == "deletion-auc"]
    layers, networks = list(dict.fromkeys(rows["layer"])), list(dict.fromkeys(rows["b"]))
    names = short_names(networks)
    height = 0.9 + 2.4 * ROW * len(networks)
    figure, (line,) = panels(1, len(layers), TWO_COLUMNS, height, sharey=True)
    colour, mark = colours(ORDER), marks(ORDER)
    for axes, layer in zip(line, layers, strict=True):
        here = rows[rows["layer"] == layer]
        for row in here.itertuples():
            at = networks.index(row.b) + 0.14 * (2 - ORDER.index(row.by))
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
