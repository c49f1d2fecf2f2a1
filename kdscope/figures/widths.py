"""The same figure for one column of a page: its panels go below each other, with the labels that they shared.

Figures are made two columns wide (`style.TWO_COLUMNS`). Letters keep their size, and panels about theirs, so that one
column is longer, not smaller. A figure that says `fixed` stays as it is: a matrix whose lines and columns mean
something, or one whose layout is settled.
"""

from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from kdscope.errors import unknown
from kdscope.figures.style import ONE_COLUMN, TWO_COLUMNS, legend_below

WIDTHS = {"one": ONE_COLUMN, "two": TWO_COLUMNS}
LETTERS = 17  # of a title of 8 points, in an inch


def fixed(figure: Figure) -> Figure:
    """Mark a figure as one whose width is its choice."""
    figure.fixed = True
    return figure


def fit(figure: Figure, width: str) -> Figure:
    """The figure at that width ("one" or "two" columns): the same object, and the same numbers.

    Raises:
        KDScopeError: another width.
    """
    if width not in WIDTHS:
        raise unknown("width", width, WIDTHS)
    settled = type(figure.get_layout_engine()).__name__ != "ConstrainedLayoutEngine"
    if width == "one" and figure.get_figwidth() > ONE_COLUMN and not settled and not getattr(figure, "fixed", False):
        _below_each_other(figure)
    return figure


def _below_each_other(figure: Figure) -> None:
    lines = _lines(figure)
    figure.draw_without_rendering()
    high = {axes: axes.get_position().height * figure.get_figheight() for line in lines for axes in line}
    across = max(1, round(max(map(len, lines)) * ONE_COLUMN / TWO_COLUMNS))
    _share_labels(lines)
    rows = [line[k : k + across] for line in lines for k in range(0, len(line), across)]
    heights = [max(high[axes] for axes in row) for row in rows]
    grid = GridSpec(len(rows), across, figure=figure, height_ratios=heights)
    for r, row in enumerate(rows):
        for c, axes in enumerate(row):
            axes.set_subplotspec(grid[r, c])
            _show_ticks(axes, left=c == 0, bottom=across == 1 or r == len(rows) - 1 or c >= len(rows[r + 1]))
    for axes in _unused(figure, lines):
        axes.remove()
    for title in (figure._suptitle, figure._supxlabel):
        if title is not None:
            title.set_text(fill(title.get_text(), int(ONE_COLUMN * LETTERS)))
    handles = [legend.legend_handles for legend in figure.legends]
    for legend in figure.legends[:]:
        legend.remove()
    figure.set_size_inches(ONE_COLUMN, sum(heights) + 0.5 * len(rows) + 0.4)
    for each in handles:
        legend_below(figure, each)
    for again in range(3):  # what titles, labels and the legend take is known only when it is laid out
        figure.draw_without_rendering()
        if not again:
            _wrap_labels(figure, [axes for row in rows for axes in row])
            figure.draw_without_rendering()
        now = [row[0].get_position().height * figure.get_figheight() for row in rows]
        figure.set_figheight(figure.get_figheight() + sum(heights) - sum(now))


def _lines(figure: Figure) -> list[list[Axes]]:
    """The panels that show something, line by line; a bar of colours is none."""
    found: dict[int, list[tuple[int, Axes]]] = {}
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place is not None and not hasattr(axes, "_colorbar") and axes.get_visible() and axes.axison:
            found.setdefault(place.rowspan.start, []).append((place.colspan.start, axes))
    return [[axes for _, axes in sorted(found[row], key=lambda pair: pair[0])] for row in sorted(found)]


def _unused(figure: Figure, lines: list[list[Axes]]) -> list[Axes]:
    shown = {axes for line in lines for axes in line}
    return [axes for axes in figure.axes if axes not in shown and not hasattr(axes, "_colorbar")]


def _share_labels(lines: list[list[Axes]]) -> None:
    """What the first of a line, and the first or last of a column, say for the others, these say themselves."""
    most = max(map(len, lines))
    for line in lines:
        for axes in line[1:]:
            if not axes.get_ylabel():
                axes.set_ylabel(line[0].get_ylabel(), fontsize=line[0].yaxis.label.get_fontsize())
    for column in range(most):
        own = [line[column] for line in lines if column < len(line)]
        for axes in own:
            if not axes.get_xlabel():
                axes.set_xlabel(own[-1].get_xlabel(), fontsize=own[-1].xaxis.label.get_fontsize())
            if not any(axes.get_title(side) for side in ("left", "center", "right")):
                for side in ("left", "center", "right"):
                    axes.set_title(own[0].get_title(side), loc=side, fontsize=own[0].title.get_fontsize())


def _wrap_labels(figure: Figure, shown: list[Axes]) -> None:
    """Labels that reach over the edge of the figure, and titles over those beside them, go on in another line."""
    for axes in shown:
        box = axes.xaxis.label.get_window_extent()
        if box.x1 > figure.bbox.x1 or box.x0 < 0:
            text = axes.get_xlabel()
            middle = (box.x0 + box.x1) / 2
            room = 2 * min(figure.bbox.x1 - middle, middle) / box.width
            axes.set_xlabel(fill(text, max(12, int(room * max(map(len, text.split("\n")))))))
        wide = axes.title.get_window_extent().width / axes.bbox.width
        if wide > 1.1 and axes.bbox.width < 0.6 * figure.bbox.width:
            lines = axes.get_title().split("\n")
            most = int(max(map(len, lines)) / wide)
            axes.title.set_text("\n".join(fill(line, max(12, most)) for line in lines))
        if axes.yaxis.label.get_window_extent().height > 1.1 * axes.bbox.height:
            axes.set_ylabel(fill(axes.get_ylabel(), max(12, len(axes.get_ylabel()) // 2 + 2)))


def _show_ticks(axes: Axes, left: bool, bottom: bool) -> None:
    """Labels of ticks: where nothing beside (or below) says the same."""
    beside, below = (
        len(group.get_siblings(axes)) > 1 for group in (axes.get_shared_y_axes(), axes.get_shared_x_axes())
    )
    axes.tick_params(labelleft=left or not beside, labelbottom=bottom or not below)
    if beside and not left:
        axes.set_ylabel("")
