"""The figures of `kdscope analyze fidelity`: functions of its table.

- fidelity-frame: agreement and KL of each student between its floor and its ceiling, on train and on test.
- fidelity-accuracy: fidelity against accuracy over runs (Stanton et al. 2021; Guo et al. 2024, figure 3).
- fidelity-origins: what the teacher changed, as shares of all images.
- fidelity-right-wrong: agreement where the teacher is right, and where it is wrong.
- fidelity-epochs: agreement and KL while a student learned, where its run kept probes.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdscope.figures import FIGURES
from kdscope.figures.fidelity_rows import ALONE, AXES, FEW, TAUGHT, all_seeds, labelled, one_teacher
from kdscope.figures.fidelity_trends import against_accuracy, over_epochs
from kdscope.figures.sheet import drawn
from kdscope.figures.style import (
    ROW,
    TWO_COLUMNS,
    Estimate,
    band,
    colours,
    interval,
    legend_below,
    marks,
    panels,
    styled,
)
from kdscope.measures.decomposition import ORIGINS

FRAMED = ("agreement", "kl-teacher-student")
RIGHT_WRONG = ("agreement-teacher-right", "agreement-teacher-wrong")
CAPTIONS = {
    "frame": "Agreement of each student with its teacher, and KL divergence from it. The grey band reaches from the "
    "floor to the ceiling; ticks are single seeds.",
    "right-wrong": "Agreement with the teacher where the teacher is right, and where it is wrong; the tick is the "
    "floor of each. A student that copies mistakes lies right of its floor in the second.",
    "accuracy": "Agreement with the teacher against accuracy, a point for each run, with intervals over images. "
    "Crosses: students without a teacher, which do not count in the correlations.",
    "origins": "What a student has over one without a teacher, as shares of all images: gains to the right, losses to "
    "the left, by what the teacher says; the diamond is their sum, with its interval.",
    "epochs": "Agreement with the teacher and KL divergence from it on the probe images while the students learned. "
    "Dashed: a student without a teacher.",
}


@FIGURES.register("fidelity")
def fidelity(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """Each figure by its file's name; None where the table has no rows for it."""
    known = table[(table["definition"] == "kdscope") & table["pair"].isin((*TAUGHT, ALONE))]
    final, probes = one_teacher(known[known["epoch"].isna()]), one_teacher(known[known["epoch"].notna()])
    main = all_seeds(final[final["pair"] != ALONE])
    framed = final[final["measure"].isin(FRAMED) & (final["pair"] != ALONE)]
    # All rows are sorted by agreement.
    copied = main[main["measure"].isin(("agreement", *RIGHT_WRONG))]
    runs = final[(final["seed"] != "all") & final["measure"].isin(("agreement", "accuracy"))]
    runs = runs if runs["b"].nunique() > 1 else runs[:0]
    origins = main[main["measure"].isin((*ORIGINS, "accuracy")) & main["measure"].isin(ORIGINS).any()]
    learning = all_seeds(probes[probes["measure"].isin(FRAMED)])
    with styled():
        yield drawn(table, "fidelity-frame", framed, lambda: frame(all_seeds(framed), final), CAPTIONS["frame"])
        yield drawn(table, "fidelity-right-wrong", copied, lambda: right_wrong(copied), CAPTIONS["right-wrong"])
        yield drawn(table, "fidelity-accuracy", runs, lambda: against_accuracy(runs), CAPTIONS["accuracy"])
        yield drawn(table, "fidelity-origins", origins, lambda: decomposition(origins), CAPTIONS["origins"])
        yield drawn(table, "fidelity-epochs", learning, lambda: over_epochs(learning), CAPTIONS["epochs"])


def _sorted(rows: pd.DataFrame, measure: str = "agreement") -> list[str]:
    """Labels from least to greatest value on the last split."""
    own = rows[(rows["measure"] == measure) & (rows["split"] == rows["split"].iloc[-1])]
    return list(dict.fromkeys(own.sort_values("value")["label"]))


def _height(labels: list[str], panels_down: int) -> float:
    """Inches for that many panels with a row for each label, so that 20 rows still fit a page."""
    row = ROW * (1.4 if any("\n" in label for label in labels) else 1.0 if len(labels) <= FEW else 0.65)
    return panels_down * (0.75 + row * max(2, len(labels)))


def frame(main: pd.DataFrame, final: pd.DataFrame) -> Figure:
    """Agreement and KL of each student with their intervals; the band reaches from the floor to the ceiling."""
    main = labelled(main)
    splits, order = list(dict.fromkeys(main["split"])), _sorted(main)
    figure, grid = panels(2, len(splits), TWO_COLUMNS, _height(order, 2) + 0.35, sharey=True, sharex="row")
    colour = colours(["student", "floor", "ceiling"])
    for line, measure in zip(grid, FRAMED, strict=True):
        for axes, split in zip(line, splits, strict=True):
            rows = main[(main["measure"] == measure) & (main["split"] == split)]
            for row in rows.itertuples():
                at = order.index(row.label)
                band(axes, row, at, colour)
                alone = final[
                    (final["measure"] == measure) & (final["split"] == split) & (final["seed"] != "all")
                    & (final["group"] == row.group) & (final["a_group"] == row.a_group)
                ]  # fmt: skip
                if row.seed == "all":
                    axes.plot(alone["value"], [at] * len(alone), "|", color=colour["student"], markersize=5, alpha=0.5)
                interval(axes, row, at, color=colour["student"], zorder=4)
            _rows(axes, order, split, AXES[measure])
    _legend(figure, main, colour)
    return figure


def _rows(axes: Axes, order: list[str], title: str, label: str) -> None:
    """A panel with a line of text for each row."""
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.use_sticky_edges = False  # else what ends at the widest bar is cut in half
    axes.margins(x=0.05)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.set_title(title)
    axes.set_xlabel(label)


def _legend(figure: Figure, main: pd.DataFrame, colour: dict) -> None:
    said = {part for text in main["control"].dropna() for part in text.split("; ")}
    kinds = {
        side: [text.partition(": ")[2] for text in sorted(said) if text.startswith(side)]
        for side in ("floor", "ceiling")
    }
    sure = main["confidence"].iloc[0]
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label=f"student, {sure:.0%} interval")]
    if (main["seed"] == "all").any():
        handles.append(Line2D([], [], color=colour["student"], marker="|", linestyle="", alpha=0.5, label="one seed"))
    handles += [
        Line2D([], [], color=colour[side], linewidth=1.5, label=f"{side}: {' or '.join(controls)}")
        for side, controls in kinds.items()
        if controls
    ]
    legend_below(figure, handles)


def right_wrong(main: pd.DataFrame) -> Figure:
    """Agreement where the teacher is right beside agreement where it is wrong: does the student copy its mistakes?"""
    main = labelled(main)
    splits, order = list(dict.fromkeys(main["split"])), _sorted(main)
    colour, mark = colours(RIGHT_WRONG), marks(RIGHT_WRONG)
    figure, grid = panels(1, len(splits), TWO_COLUMNS, _height(order, 1) + 0.35, sharey=True, sharex=True)
    for axes, split in zip(grid[0], splits, strict=True):
        for shift, measure in zip((0.15, -0.15), RIGHT_WRONG, strict=True):
            for row in main[(main["measure"] == measure) & (main["split"] == split)].itertuples():
                at = order.index(row.label) + shift
                if math.isnan(row.value):
                    continue
                if not math.isnan(row.floor):
                    axes.plot(
                        [row.floor, row.value], [at, at], color=colour[measure], linewidth=0.5, linestyle=":", zorder=1
                    )
                    axes.plot(row.floor, at, marker="|", color=colour[measure], markersize=6, zorder=2)
                interval(axes, row, at, color=colour[measure], fmt=mark[measure], zorder=3)
        _rows(axes, order, split, AXES["agreement"])
    handles = [
        Line2D(
            [], [], color=colour[m], marker=mark[m], markersize=4, label=f"where the teacher is {m.rsplit('-', 1)[1]}"
        )
        for m in RIGHT_WRONG
    ]
    handles.append(Line2D([], [], color="0.3", marker="|", linestyle="", label="its floor"))
    legend_below(figure, handles)
    return figure


def decomposition(main: pd.DataFrame) -> Figure:
    """What the student has over one without a teacher: gains to the right, losses to the left, the dot their sum."""
    main = main[main["group"].isin(main.loc[main["measure"].isin(ORIGINS), "group"])]
    main = labelled(main)
    rows, gains = main[main["measure"].isin(ORIGINS)], main[main["measure"] == "accuracy"]
    splits = list(dict.fromkeys(rows["split"]))
    signs = {"inherited-truths": 1, "own-discoveries": 1, "inherited-errors": -1, "forgotten": -1}
    colour = colours(list(signs))
    order = list(dict.fromkeys(gains[gains["split"] == splits[-1]].sort_values("gain")["label"]))
    figure, grid = panels(1, len(splits), TWO_COLUMNS, _height(order, 1) + 0.5, sharey=True, sharex=True)
    for axes, split in zip(grid[0], splits, strict=True):
        own = rows[rows["split"] == split].set_index(["label", "measure"])
        ends = {1: np.zeros(len(order)), -1: np.zeros(len(order))}
        for measure, sign in signs.items():
            values = np.array(
                [own.loc[(label, measure), "value"] if (label, measure) in own.index else 0 for label in order]
            )
            values = 100 * values
            left = ends[sign] if sign > 0 else -(ends[sign] + values)
            axes.barh(range(len(order)), values, left=left, height=0.6, color=colour[measure], linewidth=0, zorder=2)
            ends[sign] += values
        for gain in gains[gains["split"] == split].itertuples():
            change = Estimate(100 * gain.gain, 100 * gain.gain_low, 100 * gain.gain_high)
            interval(axes, change, order.index(gain.label), fmt="D", color="black", markersize=3.5, zorder=4)
        axes.axvline(0, color="0.2", linewidth=0.8, zorder=3)
        _rows(axes, order, split, "Images that changed (%)")
    handles = [
        Patch(color=colour[m], label=f"{m.replace('-', ' ')} ({'+' if s > 0 else '−'})") for m, s in signs.items()
    ]
    handles.append(Line2D([], [], color="black", marker="D", markersize=3.5, label="change in accuracy"))
    legend_below(figure, handles)
    return figure
