"""The figures of `kdscope analyze mutual-information`: functions of its table.

- mutual-information-frame: debiased, soft-label and normalised information of each student, between floor and ceiling.
- mutual-information-accuracy: the same against accuracy over runs.
- mutual-information-estimators: what each estimator says of the same answers, and of those of shuffled images.
- mutual-information-features: what features tell, where the analysis was asked for it.
"""

import math
from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdscope.figures import FIGURES
from kdscope.figures.feature_information import KINDS, features
from kdscope.figures.feature_information import PANELS as OF_FEATURES
from kdscope.figures.fidelity_rows import one_teacher
from kdscope.figures.sheet import drawn, endings
from kdscope.figures.style import (
    BAND,
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
from kdscope.figures.trends import ALONE, CAPTION, against_accuracy, of_runs

TAUGHT = ("teacher-student", "ensemble-student")
SHUFFLED = "floor:shuffled"
CAPTIONS = {
    "frame": "Mutual information of each student and its teacher: of predicted classes (debiased), of soft labels, and "
    "normalised. The grey band reaches from the floor to the ceiling.",
    "estimators": "What each estimator says of the same answers (full), and of those of shuffled images (hollow), "
    "whose true value is 0: what is right of 0 there is bias.",
    "features": "What features tell of labels, of the teacher's soft labels, and of its features.",
}
PANELS = {
    "mutual-information": "MI of classes (nats)",
    "soft-mutual-information": "MI of soft labels (nats)",
    "uncertainty-coefficient": "U = I / H(teacher) (share)",
    "adjusted-mutual-information": "Adjusted MI (share)",
}
ESTIMATORS = {
    "kdscope": "jackknife",
    "plug-in": "plug-in",
    "miller-madow": "Miller-Madow",
    "chao-shen": "Chao-Shen",
    "permutation-null": "plug-in, permuted",
    "guo2024-code": "Guo et al., neighbours",
    "guo2024-code-plugin": "Guo et al., batches",
}


@FIGURES.register("mutual-information")
def mutual_information(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure for each split, by its file's name."""
    labels = table[table["measure"].isin(PANELS)]
    with styled():
        for split, end in endings(labels if len(labels) else table).items():
            rows = labels[labels["split"] == split]
            taught = _headline(rows[rows["pair"].isin(TAUGHT) & (rows["definition"] == "kdscope")])
            yield drawn(table, f"mutual-information-frame{end}", taught, partial(frame, taught), CAPTIONS["frame"])
            sound = rows[(rows["definition"] == "kdscope") & rows["pair"].isin((*TAUGHT, ALONE))]
            runs = of_runs(one_teacher(sound), "measure")
            trend, told = partial(against_accuracy, runs, "measure", PANELS), CAPTION.format("Mutual information")
            yield drawn(table, f"mutual-information-accuracy{end}", runs, trend, told)
            classes = rows[(rows["measure"] == "mutual-information") & rows["pair"].isin((*TAUGHT, SHUFFLED))]
            told = CAPTIONS["estimators"]
            yield drawn(table, f"mutual-information-estimators{end}", classes, partial(estimators, classes), told)
            known = table[(table["split"] == split) & table["measure"].isin(OF_FEATURES) & table["pair"].isin(KINDS)]
            told = CAPTIONS["features"]
            yield drawn(table, f"mutual-information-features{end}", known, partial(features, known), told)


def _headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all seeds together where there are any, else those of the only one; a column `label`."""
    several = rows.groupby(["group", "a_group"])["seed"].transform(lambda seeds: (seeds == "all").any())
    rows = rows[~several.astype(bool) | (rows["seed"] == "all")]
    return rows.assign(label=rows["b"].map(short_names(rows["b"])) + "\nby " + rows["a"].map(short_names(rows["a"])))


def frame(rows: pd.DataFrame) -> Figure:
    """Each student with its interval; the band reaches from the floor to the ceiling."""
    order = list(dict.fromkeys(rows["label"]))[::-1]
    colour = colours(["student", "floor", "ceiling"])
    figure, grid = panels(2, 2, TWO_COLUMNS, 1.9 + 2 * 1.4 * ROW * max(2, len(order)), sharey=True)
    for axes, (measure, label) in zip([axes for line in grid for axes in line], PANELS.items(), strict=True):
        for row in rows[rows["measure"] == measure].itertuples():
            at = order.index(row.label)
            _frame(axes, row, at, colour)
            interval(axes, row, at, color=colour["student"], zorder=4)
        _rows(axes, order, label)
    said = sorted({part for text in rows["control"].dropna() for part in text.split("; ") if part})
    label = f"student, {_sure(rows)} interval"
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label=label)]
    handles += [Line2D([], [], color=colour[part.partition(":")[0]], linewidth=1.5, label=part) for part in said]
    legend_below(figure, handles)
    return figure


def _frame(axes: Axes, row: pd.Series, at: int, colour: dict) -> None:
    if not math.isnan(row.floor + row.ceiling):
        low, high = sorted((row.floor, row.ceiling))
        axes.barh(at, high - low, 0.62, low, color=BAND, linewidth=0, zorder=1)
    for side in ("floor", "ceiling"):
        value = getattr(row, side)
        if not math.isnan(value):
            axes.plot([value] * 2, [at - 0.31, at + 0.31], color=colour[side], linewidth=1.5, zorder=2)


def _rows(axes: Axes, order: list[str], label: str) -> None:
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.use_sticky_edges = False  # else the band ends at the edge of the panel, and hides the floor
    axes.margins(x=0.05)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(label)


def estimators(rows: pd.DataFrame) -> Figure:
    """Lines for each student: what each estimator says (full), and what it says of shuffled images (hollow; true 0)."""
    taught = _headline(rows[rows["pair"].isin(TAUGHT)])
    shuffled = rows[rows["pair"] == SHUFFLED]
    order = list(dict.fromkeys(taught["label"]))[::-1]
    known = [name for name in ESTIMATORS if (taught["definition"] == name).any()]
    colour, mark, step = colours(known), marks(known), 0.8 / len(known)
    figure, grid = panels(1, 1, TWO_COLUMNS, 1.3 + 0.1 * len(known) * max(2, len(order)))
    axes = grid[0][0]
    for k, name in enumerate(known):
        for row in taught[taught["definition"] == name].itertuples():
            at = order.index(row.label) + 0.4 - step * (k + 0.5)
            interval(axes, row, at, color=colour[name], fmt=mark[name], markersize=3.5, zorder=3)
            same = (shuffled["a_group"] == row.a_group) & (shuffled["group"] == f"{row.group} (shuffled images)")
            for value in shuffled.loc[same & (shuffled["definition"] == name), "value"]:
                hollow = {"markerfacecolor": "white", "markeredgewidth": 0.8, "markersize": 4}
                axes.plot(value, at, mark[name], color=colour[name], zorder=2, **hollow)
    axes.axvline(0, color="0.2", linewidth=0.8, zorder=1)
    _rows(axes, order, "Mutual information of predicted classes (nats)")
    few = taught.loc[taught["flag"] == "few images", "per_cell"]
    if len(few):
        axes.set_title(f"only {few.min():.2g} images for each pair of classes", loc="right", color="#b00020")
    kinds = [(colour[name], mark[name], "full", ESTIMATORS[name]) for name in known]
    kinds.append(("0.3", "o", "none", "the same, shuffled images (true value 0)"))
    handles = [
        Line2D([], [], color=shade, marker=shape, markersize=4, fillstyle=style, linestyle="", label=label)
        for shade, shape, style, label in kinds
    ]
    legend_below(figure, handles)
    return figure


def _sure(rows: pd.DataFrame) -> str:
    return f"{rows['confidence'].iloc[0]:.0%}"
