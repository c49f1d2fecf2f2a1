"""The figure of `kdscope analyze detection-patch-in`: a function of its table.

- detection-patch-in-lost: points of AP that are lost in each region and level, by students and by the student alone.
"""

from collections.abc import Iterator
from itertools import product

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
from kdscope.figures.detection_rows import height, labels_of, last_split, lines, one_each
from kdscope.figures.sheet import drawn
from kdscope.figures.style import TWO_COLUMNS, Estimate, colours, interval, legend_below, marks, panels, styled

NAMES = {"fg": "on objects", "ring": "around them", "far": "far away", "all": "everywhere"}
HOW = {"kdscope": "as trained", "fitted": "fitted"}
CAPTION = (
    "Points of AP that the teacher's own head loses where its features are the student's: Shapley's values of the "
    "regions (left) and levels (right), which add up to what is lost everywhere."
)
MEANT = {
    "kdscope": " As trained: features as they are, or through the adapter of the run; no student alone was ever asked "
    "to fit.",
    "fitted": " Fitted: those of all students through a linear map that least squares finds on training images.",
}


@FIGURES.register("detection-patch-in")
def detection_patch_in(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """The figure by its file's name; None where the table has no rows for it."""
    known = table.assign(part=table["part"].astype(str))
    rows = one_each(last_split(known[known["measure"] == "ap-lost"]))
    caption = CAPTION + "".join(MEANT[how] for how in dict.fromkeys(rows["definition"]))
    with styled():
        yield drawn(table, "detection-patch-in-lost", rows, lambda: lost(rows), caption)


def lost(rows: pd.DataFrame) -> Figure:
    """A panel for each kind of parts and each definition, a line for each part, a mark for each network."""
    names = list(dict.fromkeys(rows["b"]))
    texts, colour, mark = labels_of(names), colours(names), marks(names)
    kinds = list(dict.fromkeys(rows["by"]))
    parts = {kind: list(dict.fromkeys(rows.loc[rows["by"] == kind, "part"])) for kind in kinds}
    step = 0.7 / max(1, len(names))
    hows = list(dict.fromkeys(rows["definition"]))
    most = len(hows) * max(map(len, parts.values()))
    high = height(round(most * max(1.0, 0.5 * len(names)))) + 0.3
    figure, grid = panels(len(hows), len(kinds), TWO_COLUMNS, high, sharex="col")
    for (line, how), (column, kind) in product(enumerate(hows), enumerate(kinds)):
        axes = grid[line][column]
        for row in rows[(rows["by"] == kind) & (rows["definition"] == how)].itertuples():
            at = parts[kind].index(row.part) + (names.index(row.b) - (len(names) - 1) / 2) * step
            estimate = Estimate(100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
            interval(axes, estimate, at, color=colour[row.b], fmt=mark[row.b], zorder=4)
        axes.axvline(0, color="0.2", linewidth=0.8, zorder=3)
        said = [NAMES.get(part, f"stride {part}") for part in parts[kind]]
        title = f"by {kind}, features {HOW[how]}"
        lines(axes, said, title, "Points of AP lost" * (line == len(hows) - 1), 6)
    legend_below(
        figure,
        [
            Line2D([], [], color=colour[name], marker=mark[name], markersize=4, linestyle="", label=texts[name])
            for name in names
        ],
    )
    return figure
