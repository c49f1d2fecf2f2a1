"""Students along an axis, each in a panel between its floor and its ceiling: in one panel they hide each other."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures.style import TWO_COLUMNS, colours, legend_below, panels

FRAME = {"floor": "--", "ceiling": ":"}
GREYS = {"0.35": (0, (1, 1)), "0.65": (0, (1, 2.5))}  # of what else is beside a student


def in_panels(
    students: Sequence[tuple[str, pd.DataFrame]],
    label: str,
    others: Mapping[str, Sequence[pd.DataFrame | None]] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A panel for each student, at most four in a row, on one scale that begins at 0.

    Args:
        students: title and rows, one for each place "at", with value, interval, floor and ceiling.
        label: of what is measured.
        others: by their name, rows that stand beside each student, if any.
    """
    across = min(4, len(students))
    down = -(-len(students) // across)
    width = TWO_COLUMNS * max(0.5, across / 4)
    figure, grid = panels(down, across, width, 0.5 + 1.7 * down, sharex=True, sharey=True)
    every = [axes for line in grid for axes in line]
    colour = colours(["student", *FRAME])
    for k, (axes, (title, own)) in enumerate(zip(every, students, strict=False)):
        axes.plot(own["at"], own["value"], "-", marker="o", markersize=3, color=colour["student"], zorder=4)
        axes.fill_between(own["at"], own["ci_low"], own["ci_high"], color=colour["student"], alpha=0.2, linewidth=0)
        for side, style in FRAME.items():
            axes.plot(own["at"], own[side].astype(float), style, color=colour[side], linewidth=1.3, zorder=3)
        for (grey, style), rows in zip(GREYS.items(), (others or {}).values(), strict=False):
            if rows[k] is not None:
                axes.plot(rows[k]["at"], rows[k]["value"], linestyle=style, color=grey, linewidth=1.3, zorder=2)
        axes.set_title(title)
    grid[0][0].set_ylim(bottom=0)  # of all, and once all are drawn
    for axes in every[len(students) :]:
        axes.set_axis_off()
    for line in grid:
        line[0].set_ylabel(label)
    shown = every[: len(students)]
    for axes in shown[-across:]:
        axes.tick_params(labelbottom=True)
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=3, label="student")]
    handles += [
        Line2D([], [], color=colour[side], linestyle=style, label=side)
        for side, style in FRAME.items()
        if any(own[side].notna().any() for _, own in students)
    ]
    handles += [
        Line2D([], [], color=grey, linestyle=style, label=name)
        for (grey, style), (name, rows) in zip(GREYS.items(), (others or {}).items(), strict=False)
        if any(own is not None for own in rows)
    ]
    legend_below(figure, handles)
    return figure, shown
