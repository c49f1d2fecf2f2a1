"""The figure of `kdscope compare` and `kdscope analyze comparison`: a function of its table.

- comparison-differences: accuracy of each method less that of those it is compared with, with intervals.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn, endings
from kdscope.figures.style import (
    BAND,
    ROW,
    TWO_COLUMNS,
    Estimate,
    colours,
    interval,
    legend_below,
    panels,
    short_names,
    styled,
)

CAPTION = (
    "Accuracy of each way of training less that of those it is compared with, paired by seed and by image. A full dot "
    "differs beyond chance (Holm), a hollow one does not; ticks are single seeds. A difference inside the grey band "
    "would be missed more often than once in five."
)


@FIGURES.register("comparison")
def comparison(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """The figure of each split, by its file's name; None where nothing was compared."""
    yield from differences(table, "comparison")


def differences(table: pd.DataFrame, name: str) -> Iterator[tuple[str, Figure | None]]:
    """The same for an analysis of another name."""
    rows = table[table["measure"] == "accuracy-difference"].assign(seed=table["seed"].astype(str))
    with styled():
        for split, end in endings(table).items():
            own = rows[rows["split"] == split]
            yield drawn(table, f"{name}-differences{end}", own, partial(forest, own), CAPTION)


def forest(rows: pd.DataFrame) -> Figure:
    """A panel for each reference and a line for each method, the best on top; ticks are single seeds.

    A full dot differs from the reference beyond chance (Holm). Inside the grey band, what the comparison would miss
    more often than once in five.
    """
    main, alone = rows[rows["p_holm"].notna()], rows[rows["p_holm"].isna()]
    references = list(dict.fromkeys(main["a"]))
    order = list(main[main["a"] == references[0]].sort_values("value")["b"])
    order += [name for name in dict.fromkeys(main["b"]) if name not in order]
    names, colour = short_names(order, 22), colours(references)
    height = 1.0 + ROW * max(3, len(order))
    figure, grid = panels(1, len(references), TWO_COLUMNS, height, sharey=True, sharex=True)
    for axes, reference in zip(grid[0], references, strict=True):
        for row in alone[alone["a"] == reference].itertuples():
            axes.plot(100 * row.value, order.index(row.b), "|", color=colour[reference], markersize=6, alpha=0.6)
        for row in main[main["a"] == reference].itertuples():
            _line(axes, row, order.index(row.b), colour[reference])
        axes.axvline(0, color="0.2", linewidth=0.8, zorder=2)
        axes.set_yticks(range(len(order)), [names[name] for name in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.use_sticky_edges = False
        axes.margins(x=0.05)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_xlabel(f"Accuracy less that of {reference} (points)")
    _legend(figure, main, len(alone) > 0)
    return figure


def _line(axes: Axes, row: Any, at: int, colour: tuple) -> None:
    found = row.p_holm < 1 - row.confidence
    axes.barh(at, 200 * row.detectable, 0.6, -100 * row.detectable, color=BAND, linewidth=0, zorder=1)
    points = Estimate(100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
    interval(axes, points, at, color=colour, markerfacecolor=colour if found else "white", zorder=4)


def _legend(figure: Figure, main: pd.DataFrame, seeds: bool) -> None:
    sure = main["confidence"].iloc[0]
    dot = {"color": "0.3", "marker": "o", "markersize": 4}
    handles = [
        Line2D([], [], **dot, label=f"beyond chance (Holm), {sure:.0%} interval"),
        Line2D([], [], **dot, markerfacecolor="white", label="not beyond chance"),
    ]
    if seeds:
        handles.append(Line2D([], [], color="0.3", marker="|", linestyle="", alpha=0.6, label="one seed"))
    handles.append(Patch(color=BAND, label="too small to be found four times in five"))
    legend_below(figure, handles)
