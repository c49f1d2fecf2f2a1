"""The figures of `kdscope analyze graph`: functions of its table.

- graph-heat: the graph of some images of one batch, ordered by class, a row for each pair of layers, a column for each
  network; for the first seed of each recipe (the second recipe's is graph-heat-2, and so on).
- graph-numbers: what the graphs look at, with intervals, each head as a small dot, and the null.
"""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
from kdscope.figures.sheet import asked, drawn
from kdscope.figures.style import ROW, TWO_COLUMNS, brief, colours, interval, legend_below, marks, panels, styled
from kdscope.figures.widths import fixed

NETWORKS = {
    "teacher": "teacher",
    "student": "student",
    "independent": "student alone",
    "untrained": "untrained heads",
}
MEASURES = {
    "same-class-mass": "Attention to the class",
    "identity-mass": "Attention to itself",
    "row-entropy": "Entropy (nat)",
    "head-correlation": "Correlation of heads",
    "graph-divergence": "KL to the teacher's (nat)",
    "saturation": "Saturated scores (share)",
}
MOST_NAMED = 12  # classes along an axis
CAPTIONS = {
    "heat": "The attention graph of some images of one batch, ordered by class, a row for each pair of layers and a "
    "column for each network: how much the image behind attends to the image in front, in multiples of an even share.",
    "numbers": "What the attention graphs look at, for each pair of layers; small dots are heads, black ticks the null "
    "(queries of other images).",
}


@FIGURES.register("graph")
def graph(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure that the table has the rows for, by its file's name."""
    cells = table[table["measure"] == "attention"]
    numbers = _all_seeds(table[table["measure"].isin(MEASURES)])
    with styled():
        given = [stem for stem in asked(table) if stem.startswith("graph-heat")]
        for k, (_, own) in enumerate(cells.groupby(["a", "b"], sort=False), 1):
            stem = given[k - 1] if k <= len(given) else f"graph-heat{f'-{k}' if k > 1 else ''}"
            yield drawn(table, stem, own, partial(heat_maps, own), CAPTIONS["heat"])
        yield drawn(table, "graph-numbers", numbers, lambda: summary(numbers), CAPTIONS["numbers"])


def _all_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all seeds together where there are any."""
    together = rows.groupby(["a", "group"])["seed"].transform(lambda seeds: (seeds == "all").any()).astype(bool)
    return rows[~together | (rows["seed"] == "all")]


def heat_maps(cells: pd.DataFrame) -> Figure:
    """Attention in multiples of an even share, in one logarithmic scale of colours around 1; lines part the classes."""
    pairs = list(dict.fromkeys(cells["layer"]))
    networks = [name for name in NETWORKS if name in set(cells["network"])]
    side = TWO_COLUMNS / len(networks)
    figure, grid = panels(len(pairs), len(networks), TWO_COLUMNS, len(pairs) * side + 0.75)
    away = float(np.abs(np.log(cells["value"])).max())
    norm = LogNorm(math.exp(-away), math.exp(away))
    image = None
    for line, pair in zip(grid, pairs, strict=True):
        for axes, network in zip(line, networks, strict=True):
            own = cells[(cells["layer"] == pair) & (cells["network"] == network)]
            image = axes.imshow(
                own.pivot(index="row", columns="column", values="value"), cmap="RdBu_r", norm=norm,
                interpolation="nearest",
            )  # fmt: skip
            _part_classes(axes, own, first=network == networks[0], last=pair == pairs[-1])
            if pair == pairs[0]:
                axes.set_title(NETWORKS[network], fontsize=7)
        line[0].set_ylabel(f"{pair.replace('-', ' to ')}\nimage behind", fontsize=7)
    bar = figure.colorbar(image, ax=[axes for line in grid for axes in line], location="bottom", shrink=0.5, aspect=40)
    bar.set_label("Attention in multiples of an even share (mean of the heads)")
    bar.outline.set_visible(False)
    _plain_ticks(bar, away)
    figure.suptitle(f"{brief(cells['b'].iloc[0], 40)} by {brief(cells['a'].iloc[0], 40)}", fontsize=8)
    return fixed(figure)


def _plain_ticks(bar, away: float) -> None:
    """Five numbers on a logarithmic bar."""
    at = np.exp(np.linspace(-0.9 * away, 0.9 * away, 5))
    bar.set_ticks(at, labels=[f"{value:.2g}" for value in at])
    bar.ax.minorticks_off()


def _part_classes(axes: Axes, own: pd.DataFrame, first: bool, last: bool) -> None:
    of = own.drop_duplicates("row").sort_values("row")["class_a"].astype(str).tolist()
    ends = [k for k in range(1, len(of)) if of[k] != of[k - 1]]
    for end in ends:
        axes.axhline(end - 0.5, color="0.35", linewidth=0.4)
        axes.axvline(end - 0.5, color="0.35", linewidth=0.4)
    starts = [0, *ends]
    middles = [(a + b - 1) / 2 for a, b in zip(starts, [*ends, len(of)], strict=True)]
    named = len(starts) <= MOST_NAMED
    names = [brief(_class(of[start]), 9) for start in starts]
    axes.set_yticks(middles if first and named else [], names if first and named else [], fontsize=6)
    axes.set_xticks(middles if last and named else [], names if last and named else [], fontsize=6, rotation=90)
    if last:
        axes.set_xlabel("image in front", fontsize=7)
    axes.tick_params(length=0, pad=1)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _class(name: str) -> str:
    """A class "7" becomes the number 7.0 beside empty cells of a CSV."""
    return name.removesuffix(".0")


def summary(rows: pd.DataFrame) -> Figure:
    """A panel for each measure, a line for each network of each student; pairs of layers by colour."""
    measures = [name for name in MEASURES if rows.loc[rows["measure"] == name, "value"].notna().any()]
    several = rows["b"].nunique() > 1
    lines = [
        (b, network)
        for b in dict.fromkeys(rows["b"])
        for network in NETWORKS
        if ((rows["b"] == b) & (rows["network"] == network)).any()
    ]
    names = [f"{brief(b, 18)}: {NETWORKS[n]}" if several else NETWORKS[n] for b, n in lines]
    pairs = list(dict.fromkeys(rows["layer"]))
    colour, mark = colours(pairs), marks(pairs)
    height = 0.9 + 1.6 * ROW * len(lines)
    across = 3
    down = math.ceil(len(measures) / across)
    figure, grid = panels(down, across, TWO_COLUMNS, down * height + 0.3, sharey=True)
    panel = [axes for line in grid for axes in line]
    for axes, measure in zip(panel, measures, strict=False):
        for k, line in enumerate(lines):
            for p, pair in enumerate(pairs):
                at = k + 0.5 * (p - (len(pairs) - 1) / 2) / max(1, len(pairs) - 1)
                own = rows[(rows["measure"] == measure) & (rows["layer"] == pair)]
                own = own[(own["b"] == line[0]) & (own["network"] == line[1])]
                _draw(axes, own, at, colour[pair], mark[pair])
        axes.set_xlabel(MEASURES[measure])
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
    for axes in panel[len(measures) :]:
        axes.set_axis_off()
    sure = rows["confidence"].iloc[0]
    handles = [Line2D([], [], color=colour[p], marker=mark[p], markersize=4, linewidth=1, label=p) for p in pairs]
    handles += [
        Line2D([], [], color="0.6", marker=".", markersize=3, linestyle="", label="a head"),
        Line2D([], [], color="black", marker="|", markersize=8, linestyle="", label="null: queries of other images"),
        Line2D([], [], color="0.4", linestyle=":", label="every image alike"),
        Line2D([], [], color="none", label=f"{sure:.0%} intervals"),
    ]
    legend_below(figure, handles)
    return figure


def _draw(axes: Axes, own: pd.DataFrame, at: float, colour: tuple, mark: str) -> None:
    heads, whole = own[own["head"] != "all"], own[own["head"] == "all"]
    axes.plot(heads["value"], [at] * len(heads), ".", color=colour, alpha=0.35, markersize=3, zorder=2)
    for row in whole.itertuples():
        if math.isnan(row.value):
            continue
        if not math.isnan(row.floor):
            axes.plot([row.floor], [at], "|", color="black", markersize=8, zorder=3)
        if not math.isnan(row.ceiling):
            axes.axvline(row.ceiling, color="0.4", linestyle=":", linewidth=0.8, zorder=1)
        interval(axes, row, at, color=colour, fmt=mark, zorder=4)
