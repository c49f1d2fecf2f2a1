"""Figures of our own runs alone, for which no numbers were published: reliability diagrams, augmentation in steps."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures.rethinkkd_rows import MEASURES, STUDENTS, datasets, described, titled
from kdscope.figures.style import TWO_COLUMNS, colours, legend_below, panels, tell
from kdscope.measures.correlation import correlate

STEPS = ("accuracy", "agreement", "affinity", "attention-iou", "entropy", "accuracy-gap")


def diagrams(table: pd.DataFrame) -> Figure | None:
    """Figure H.9, bottom: reliability of the students of each number of teachers; a line for each trial."""
    rows = table[(table["measure"] == "reliability") & table["student"].isin([*STUDENTS])]
    rows = rows[rows["setting"].isin(["1T", "vKD", "3T"])]
    if rows.empty:
        return None
    counts = {"1T": "1 teacher", "vKD": "2 teachers", "3T": "3 teachers"}
    lines = [
        (dataset, setting)
        for dataset in datasets(rows["dataset"])
        for setting in counts
        if len(rows[(rows["dataset"] == dataset) & (rows["setting"] == setting)])
    ]
    columns = [(definition, student) for definition in dict.fromkeys(rows["definition"]) for student in STUDENTS]
    figure, grid = panels(len(lines), len(columns), TWO_COLUMNS, 0.7 + 1.7 * len(lines), sharex=True, sharey=True)
    rows = rows.assign(strong=rows["trial"].str.count(r"T\d?s"))
    colour = colours(range(int(rows["strong"].max()) + 1))
    for (dataset, setting), line in zip(lines, grid, strict=True):
        for (definition, student), axes in zip(columns, line, strict=True):
            of = (rows["dataset"] == dataset) & (rows["setting"] == setting) & (rows["student"] == student)
            own = rows[of & (rows["definition"] == definition)]
            axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=0.8)
            for (_, strong), part in own.groupby(["trial", "strong"], sort=False):
                weighed = part.assign(weight=part["n"], said=part["n"] * part["bin_confidence"])
                weighed = weighed.assign(right=part["n"] * part["value"]).groupby("bin_low")
                sums = weighed[["weight", "said", "right"]].sum()
                style = {"color": colour[strong], "markersize": 2, "linewidth": 0.8, "marker": "o"}
                axes.plot(sums["said"] / sums["weight"], sums["right"] / sums["weight"], **style)
            if line is grid[0]:
                axes.set_title(f"{definition}\n{student}", loc="left", fontsize=6.5)
        line[0].set_ylabel(f"{titled(dataset)}\n{counts[setting]}\naccuracy")
    for axes in grid[-1]:
        axes.set_xlabel("Confidence")
    handles = [
        Line2D(
            [], [], color=shade, marker="o", markersize=2, label=f"{strong} strong teacher{'s' if strong != 1 else ''}"
        )
        for strong, shade in colour.items()
    ]
    legend_below(figure, [*handles, Line2D([], [], color="0.5", linestyle="--", label="calibrated")])
    caption = (
        "Figure H.9, bottom, of Guo et al.: reliability diagrams, 10 bins, all seeds together; a line for each trial, "
        "by how many of its teachers were trained with strong augmentation. guo2024-code: training images augmented "
        "as for the student; kdscope: clean test images."
    )
    return tell(figure, rows.drop(columns="strong"), caption)


def graded(table: pd.DataFrame) -> Figure | None:
    """What is measured of students whose augmentation grows in steps: no two groups, and so no difference of groups."""
    rows = table[(table["setting"] == "graded") & table["measure"].isin(STEPS)]
    if rows.empty:
        return None
    rows = rows.assign(step=rows["trial"].str[1:].astype(int))
    measures = [name for name in STEPS if name in set(rows["measure"])]
    names, definitions = datasets(rows["dataset"]), list(dict.fromkeys(rows["definition"]))
    colour = colours(definitions)
    figure, grid = panels(len(names), len(measures), TWO_COLUMNS, 0.6 + 1.7 * len(names), sharex=True)
    for line, dataset in zip(grid, names, strict=True):
        for axes, measure in zip(line, measures, strict=True):
            told = []
            for definition in definitions:
                own = rows[(rows["dataset"] == dataset) & (rows["measure"] == measure)]
                own = own[own["definition"] == definition]
                if own.empty:
                    continue
                means = own.groupby("step")["value"].mean()
                axes.plot(means.index, means, "o-", color=colour[definition], markersize=3, linewidth=0.9)
                axes.plot(own["step"], own["value"], "o", color=colour[definition], markersize=1.5, alpha=0.4)
                found = correlate(own["step"], own["value"])
                told.append("ρ -" if np.isnan(found.rho) else f"ρ {found.rho:.2f}".replace("-", "\N{MINUS SIGN}"))
            label = MEASURES[measure].split(" (")[0].split(" of the")[0]
            axes.set_title(f"{label}\n{', '.join(told)}", loc="left", fontsize=6)
            axes.locator_params(nbins=4)
        line[0].set_ylabel(titled(dataset))
    for axes in grid[-1]:
        axes.set_xlabel("RandAugment, M")
    legend_below(figure, [Line2D([], [], color=colour[d], marker="o", markersize=3, label=d) for d in definitions])
    sound = described("attention-iou", "kdscope")
    caption = (
        "Augmentation of the student in steps, from two teachers of weak augmentation (not in the paper). Small dots: "
        f"seeds. ρ: Spearman's, of the step and the number, in the order of the legend. kdscope's IoU: {sound.lower()}."
    )
    return tell(figure, rows.drop(columns="step"), caption)
