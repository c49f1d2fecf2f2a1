"""The figure of `kdscope analyze efficiency`: accuracy against parameters, latency and memory."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn
from kdscope.figures.style import TWO_COLUMNS, colours, interval, legend_below, marks, panels, styled

AXES = {
    "parameters": "Parameters",
    "latency-1": "Latency of one image (ms)",
    "memory-128": "Memory of 128 images (MB)",
}


CAPTION = "Accuracy of each network against its parameters, latency and memory, with the interval of the accuracy."


@FIGURES.register("efficiency")
def efficiency(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each network as a point, with the interval of its accuracy."""
    with styled():
        shown = table[table["measure"].isin(("accuracy", *AXES))]
        yield drawn(table, "efficiency-accuracy", shown, lambda: against_cost(shown), CAPTION)


def against_cost(table: pd.DataFrame) -> Figure:
    """Accuracy with its interval against three costs, on axes from 0; a colour for each kind of network."""
    method = table["method"].where(table["role"] == "distilled").fillna("")
    named = (table["role"] + " " + method).str.strip() + ", " + table["architecture"]
    table = table.assign(kind=named)
    kinds = list(dict.fromkeys(named))
    colour, mark = colours(kinds), marks(kinds)
    figure, grid = panels(1, len(AXES), TWO_COLUMNS, 2.7, sharey=True)
    for axes, (cost, title) in zip(grid[0], AXES.items(), strict=True):
        for _, own in table.groupby("b", sort=False):
            kind = own["kind"].iloc[0]
            by = own.drop_duplicates("measure").set_index("measure")
            place = by.loc[cost, "value"]
            style = {"color": colour[kind], "fmt": mark[kind], "elinewidth": 0.6, "alpha": 0.9}
            interval(axes, by.loc["accuracy"], place, upright=True, **style)
        axes.set_xlim(0, 1.12 * table.loc[table["measure"] == cost, "value"].max())
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if cost == "parameters" else ScalarFormatter())
        axes.set_xlabel(title)
    grid[0][0].set_ylabel(f"Accuracy, {table['split'].iloc[0]} (share)")
    legend_below(figure, [Line2D([], [], color=colour[k], marker=mark[k], linestyle="", label=k) for k in kinds])
    return figure
