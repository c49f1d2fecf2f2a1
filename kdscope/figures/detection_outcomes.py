"""The figures of `kdscope analyze detection-outcomes`: functions of its table.

- detection-outcomes-objects: transfer, what was found beyond the teacher, and harm, by object size, beside those of a
  second seed.
- detection-outcomes-errors: what each kind of mistake costs each network.
- detection-outcomes-inherited: the share of false positives that are the teacher's too.
"""

import math
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
from kdscope.figures.detection_rows import SIZES, height, labels_of, last_split, lines, one_each
from kdscope.figures.sheet import drawn
from kdscope.figures.style import TWO_COLUMNS, Estimate, colours, interval, legend_below, marks, panels, styled

OUTCOMES = {
    "transfer": "Transfer: found by the teacher,\nnot alone",
    "beyond-teacher": "Beyond the teacher:\nfound by neither",
    "harm": "Harm: found alone, now missed",
}
LEAST = 10  # objects, of fewer of which a share says nothing
KINDS = ("localisation", "classification", "duplicate", "background", "both", "missed")
ROLES = ("teacher", "independent-student", "student", "network")
CAPTIONS = {
    "outcomes": "What became of the objects, at IoU 0.5 (filled) and 0.75 (open), by their size. Ticks: the same of a "
    "second seed of the student alone in the place of the student, which is what chance finds and loses. On the right: "
    f"of how many objects they are shares, at the first IoU; those of fewer than {LEAST} are grey, with no interval.",
    "errors": "AP50 that would be gained if an oracle mended the mistakes of one kind (Bolya et al., ECCV 2020).",
    "inherited": "The share of the false positives of each student that are its teacher's too. Ticks: the same of the "
    "student alone, which has never met the teacher.",
}


@FIGURES.register("detection-outcomes")
def detection_outcomes(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """Each figure by its file's name; None where the table has no rows for it."""
    last = last_split(table.assign(iou=table["iou"].astype(str)))
    taught = last[last["pair"] == "teacher-student"]
    main = one_each(taught[taught["measure"].isin(OUTCOMES) & (taught["class"] == "all")])
    costs = one_each(last[last["measure"] == "error-cost"])
    kept = last[last["measure"] == "inherited-false-positives"]
    with styled():
        yield drawn(table, "detection-outcomes-objects", main, lambda: outcomes(main), CAPTIONS["outcomes"])
        yield drawn(table, "detection-outcomes-errors", costs, lambda: errors(costs), CAPTIONS["errors"])
        yield drawn(table, "detection-outcomes-inherited", kept, lambda: inherited(kept), CAPTIONS["inherited"])


def outcomes(rows: pd.DataFrame) -> Figure:
    """A panel for each outcome, a line for each student and size."""
    students = list(dict.fromkeys(rows["b"]))
    sizes = [size for size in SIZES if (rows["area"] == size).any()]
    texts = labels_of(students)
    order = [(b, size) for b in students for size in sizes]
    figure, grid = panels(1, len(OUTCOMES), TWO_COLUMNS, height(len(order)) + 0.45, sharey=True)
    ious = sorted(rows["iou"].unique())
    colour = colours(["student", "floor"])
    for axes, (measure, title) in zip(grid[0], OUTCOMES.items(), strict=True):
        for row in rows[rows["measure"] == measure].itertuples():
            first = row.iou == ious[0]
            if first and not math.isnan(row.objects):
                place = (1, order.index((row.b, row.area)))
                axes.annotate(f"{row.objects:.0f}", place, (2, 0), ("axes fraction", "data"), "offset points",
                              va="center", fontsize=6.5, color="0.35")  # fmt: skip
            if math.isnan(row.value):
                continue
            few = row.objects < LEAST
            at = order.index((row.b, row.area)) + (-0.16 if first else 0.16) * (len(ious) > 1)
            if not math.isnan(row.floor):
                axes.plot([100 * row.floor] * 2, [at - 0.15, at + 0.15], color=colour["floor"], linewidth=1.5, zorder=2)
            options = {} if first else {"markerfacecolor": "white"}
            ends = (math.nan,) * 2 if few else (100 * row.ci_low, 100 * row.ci_high)
            estimate = Estimate(100 * row.value, *ends)
            interval(axes, estimate, at, color="0.7" if few else colour["student"], zorder=4, **options)
        names = [size if len(students) == 1 else f"{texts[b]} · {size}" for b, size in order]
        lines(axes, names, title, "Objects (% of n)", 4)
        axes.set_xlim(left=0)
    handles = [
        Line2D([], [], color=colour["student"], marker="o", markersize=4, label=f"IoU {iou}",
               **({} if iou == ious[0] else {"markerfacecolor": "white"}))
        for iou in ious
    ]  # fmt: skip
    if rows["floor"].notna().any():
        handles.append(Line2D([], [], color=colour["floor"], linewidth=1.5, label="second seed of the student alone"))
    legend_below(figure, handles)
    return figure


def errors(rows: pd.DataFrame) -> Figure:
    """A line for each kind, a mark for each network."""
    names = list(dict.fromkeys(rows.sort_values("role", key=lambda role: role.map(ROLES.index), kind="stable")["b"]))
    texts, colour, mark = labels_of(names), colours(names), marks(names)
    kinds = [kind for kind in KINDS if (rows["kind"] == kind).any()]
    step = 0.7 / max(1, len(names))
    figure, grid = panels(1, 1, TWO_COLUMNS * 0.75, height(round(len(kinds) * max(1.0, 0.5 * len(names)))) + 0.3)
    for row in rows.itertuples():
        at = kinds.index(row.kind) + (names.index(row.b) - (len(names) - 1) / 2) * step
        estimate = Estimate(100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
        interval(grid[0][0], estimate, at, color=colour[row.b], fmt=mark[row.b], zorder=4)
    grid[0][0].axvline(0, color="0.2", linewidth=0.8, zorder=3)
    lines(grid[0][0], kinds, "", "Cost (points of AP50)", 8)
    legend_below(
        figure,
        [
            Line2D([], [], color=colour[name], marker=mark[name], markersize=4, linestyle="", label=texts[name])
            for name in names
        ],
    )
    return figure


def inherited(rows: pd.DataFrame) -> Figure:
    """A line for each student; the tick is the student alone."""
    main = one_each(rows)
    order = list(dict.fromkeys(main.sort_values("value", ascending=False)["group"]))
    texts, colour = labels_of(order), colours(["student", "floor"])
    figure, grid = panels(1, 1, TWO_COLUMNS * 0.7, height(len(order)) + 0.3)
    for row in main.itertuples():
        at = order.index(row.group)
        if not math.isnan(row.floor):
            ends = [at - 0.3, at + 0.3]
            grid[0][0].plot([100 * row.floor] * 2, ends, color=colour["floor"], linewidth=1.5, zorder=2)
        estimate = Estimate(100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
        interval(grid[0][0], estimate, at, color=colour["student"], zorder=4)
    lines(grid[0][0], [texts[name] for name in order], "", "False positives that are the teacher's too (%)", 8)
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label="student")]
    if main["floor"].notna().any():
        handles.append(Line2D([], [], color=colour["floor"], linewidth=1.5, label="student alone"))
    legend_below(figure, handles)
    return figure
