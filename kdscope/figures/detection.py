"""The figures of `kdscope analyze detection`: functions of its table.

- detection-ap: average precision of each way of training, by object size.
- detection-difference: by how many points each student is better than those it is compared with.
- detection-agreement: agreement of detections with the teacher, between floor and ceiling.
- detection-iou: the same over the overlap that a pair must have.
- detection-rows: what the heads say of the same rows, objects and background apart.
- detection-epochs: precision, agreement and rows while the students learned, where their runs kept probes.
"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.detection.measures.cards import label_of
from kdscope.figures import FIGURES
from kdscope.figures.detection_curves import in_panels
from kdscope.figures.detection_epochs import CAPTION, of_epochs, over_epochs
from kdscope.figures.detection_rows import (
    SIZES,
    curves,
    framed_right,
    height,
    labels_of,
    last_split,
    lines,
    one_each,
    titled,
)
from kdscope.figures.sheet import drawn
from kdscope.figures.style import TWO_COLUMNS, Estimate, band, colours, interval, legend_below, marks, panels, styled

MEAN = "0.5:0.95"
FRAMED = {name: label_of(name) for name in ("agree-f1", "label-agreement", "box-iou", "score-gap", "fidelity-ap")}
ROWS = {name: label_of(name) for name in ("row-agreement", "row-kl", "row-kl-tilted")}
CAPTIONS = {
    "ap": "Average precision (IoU 0.5 to 0.95) of each way of training, over all objects and by their size; ticks are "
    "single seeds.",
    "difference": "Differences in average precision, paired over images and, where both have the same seeds, over "
    "these. Grey: two seeds of one training, which differ by chance alone.",
    "agreement": "Detections of student and teacher, each cut where its own F1 is largest, paired one to one at an IoU "
    "of 0.5. The grey band reaches from the floor to the ceiling, where that is more alike; ticks are single seeds. "
    "Fidelity-AP takes the teacher's detections for the truth.",
    "iou": "Agree-F1 over the least overlap of a pair, a panel for each student. Dashed: the floor, a student that "
    "never met the teacher. Dotted: the ceiling.",
    "rows": "What the heads of student and teacher say of the same anchors, places or proposals, rows with an object "
    "and background apart. The grey band reaches from the floor to the ceiling, where that is more alike. Tilted KL "
    "is from the teacher with the background weighed as in the student's soft loss.",
}


@FIGURES.register("detection")
def detection(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """Each figure by its file's name; None where the table has no rows for it."""
    table = table.assign(iou=table["iou"].astype(object).where(table["iou"].notna(), "").astype(str))
    table = table if "epoch" in table else table.assign(epoch=float("nan"))
    last = last_split(table)
    probes, last = of_epochs(last[last["epoch"].notna()]), last[last["epoch"].isna()]
    ap = last[(last["measure"] == "ap") & (last["class"] == "all")]
    gaps = last[(last["measure"] == "ap-difference") & last["area"].isin(("all",))]
    taught = last[last["pair"] == "teacher-student"]
    framed = taught[taught["measure"].isin(FRAMED) & taught["iou"].isin(("0.5", MEAN))]
    framed = framed[(framed["iou"] == "0.5") | (framed["measure"] == "fidelity-ap")]
    curve = last[(last["measure"] == "agree-f1") & (last["iou"] != MEAN)]
    curve = one_each(curve[curve["pair"] == "teacher-student"])
    rows = taught[taught["measure"].isin(ROWS)]
    with styled():
        yield drawn(table, "detection-ap", ap, lambda: precision(ap), CAPTIONS["ap"])
        yield drawn(table, "detection-difference", gaps, lambda: differences(gaps), CAPTIONS["difference"])
        yield drawn(table, "detection-agreement", framed, lambda: agreement(framed), CAPTIONS["agreement"])
        yield drawn(table, "detection-iou", curve, lambda: over_iou(curve), CAPTIONS["iou"])
        yield drawn(table, "detection-rows", rows, lambda: of_rows(rows), CAPTIONS["rows"])
        yield drawn(table, "detection-epochs", probes, lambda: over_epochs(probes), CAPTION)


def precision(rows: pd.DataFrame) -> Figure:
    """A panel for each size of objects, a line for each way of training, the best at the top."""
    main = one_each(rows)
    whole = main[main["area"] == "all"].sort_values("value", ascending=False)
    order = list(whole["group"])
    texts = labels_of(list(whole["b"]))
    sizes = [size for size in SIZES if (main["area"] == size).any()]
    roles = list(dict.fromkeys(whole["role"]))
    colour, mark = colours(roles), marks(roles)
    figure, grid = panels(1, len(sizes), TWO_COLUMNS, height(len(order)) + 0.3, sharey=True)
    for axes, size in zip(grid[0], sizes, strict=True):
        for row in main[main["area"] == size].itertuples():
            at = order.index(row.group)
            if row.seed == "all":
                own = rows[(rows["area"] == size) & (rows["group"] == row.group) & (rows["seed"] != "all")]
                axes.plot(100 * own["value"], [at] * len(own), "|", color=colour[row.role], markersize=5, alpha=0.5)
            _percent(axes, row, at, color=colour[row.role], fmt=mark[row.role])
        title = "all objects" if size == "all" else size
        lines(axes, [texts[b] for b in whole["b"]], title, "AP (%)", 4)
    names = {"independent-student": "student alone"}
    _legend(figure, {role: names.get(role, role) for role in roles}, colour, mark)
    return figure


def _percent(axes, row, at: float, **options) -> None:
    interval(axes, Estimate(100 * row.value, 100 * row.ci_low, 100 * row.ci_high), at, zorder=4, **options)


def _legend(figure: Figure, names: dict[str, str], colour: dict, mark: dict) -> None:
    style = {"linestyle": "", "markersize": 4}
    legend_below(
        figure,
        [Line2D([], [], color=colour[key], marker=mark[key], label=name, **style) for key, name in names.items()],
    )


def differences(rows: pd.DataFrame) -> Figure:
    """A line for each comparison; those of two seeds in grey."""
    chance = rows["pair"].str.startswith("ceiling:")
    rows = pd.concat([rows[~chance], rows[chance]])
    texts = labels_of([*rows["a"], *rows["b"]])
    figure, grid = panels(1, 1, TWO_COLUMNS, height(len(rows)))
    colour = colours(["student"])["student"]
    for at, row in enumerate(rows.itertuples()):
        _percent(grid[0][0], row, at, color="0.55" if row.pair.startswith("ceiling:") else colour)
    grid[0][0].axvline(0, color="0.2", linewidth=0.8, zorder=3)
    lines(grid[0][0], [f"{texts[row.b]} − {texts[row.a]}" for row in rows.itertuples()], "", "Points of AP", 8)
    return figure


def agreement(rows: pd.DataFrame) -> Figure:
    """A panel for each measure, a line for each student, in its frame."""
    return _framed(rows, FRAMED, "measure")


def of_rows(rows: pd.DataFrame) -> Figure:
    """A panel for each measure and part of the rows, a line for each student and head."""
    rows = rows.assign(panel=rows["measure"] + "/" + rows["part"])
    names = {
        f"{measure}/{part}": f"{title}\n{'rows with an object' if part == 'foreground' else 'background'}"
        for measure, title in ROWS.items()
        for part in ("foreground", "background")
    }
    return _framed(rows, names, "panel")


def _framed(rows: pd.DataFrame, titles: dict[str, str], column: str) -> Figure:
    several = rows["head"].dropna().nunique() > 1
    rows = rows.assign(line=rows["group"] + (" · " + rows["head"].fillna("") if several else ""))
    main = one_each(rows)
    shown = [name for name in titles if (main[column] == name).any()]
    order = list(dict.fromkeys(main[main[column] == shown[0]].sort_values("value", ascending=False)["line"]))
    texts = labels_of(order)
    colour = colours(["student", "floor", "ceiling"])
    down = 1 if len(shown) < 4 else 2
    across = -(-len(shown) // down)
    figure, grid = panels(down, across, TWO_COLUMNS, height(len(order), down) + 0.35, sharey=True)
    every = [axes for line in grid for axes in line]
    for axes, name in zip(every, shown, strict=False):
        for row in main[main[column] == name].itertuples():
            at = order.index(row.line)
            band(axes, row, at, colour, filled=framed_right(row))
            if row.seed == "all":
                own = rows[(rows[column] == name) & (rows["line"] == row.line) & (rows["seed"] != "all")]
                axes.plot(own["value"], [at] * len(own), "|", color=colour["student"], markersize=5, alpha=0.5)
            interval(axes, row, at, color=colour["student"], zorder=4)
        lines(axes, [texts[name] for name in order], "", titles[name], 4)
    for axes in every[len(shown) :]:
        axes.set_axis_off()
    said = sorted({part for text in main["control"].dropna() for part in text.split("; ") if part})
    kinds = {side: [text.partition(": ")[2] for text in said if text.startswith(side)] for side in ("floor", "ceiling")}
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label="student")]
    handles += [
        Line2D([], [], color=colour[side], linewidth=1.5, label=f"{side}: {' or '.join(words)}")
        for side, words in kinds.items()
        if words
    ]
    legend_below(figure, handles)
    return figure


def over_iou(rows: pd.DataFrame) -> Figure:
    """Agreement over the overlap; a panel for each student, with its floor and ceiling."""
    found = list(curves(rows.assign(at=rows["iou"].astype(float)), "at"))
    figure, shown = in_panels(titled(found), "Agree-F1")
    for axes in shown[-4:]:
        axes.set_xlabel("Least IoU of a pair")
    return figure
