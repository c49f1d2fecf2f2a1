"""What two networks share against the accuracy of the student, over runs: a panel for each measure or kind of map."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures.fidelity_rows import ALONE
from kdscope.figures.style import TWO_COLUMNS, colours, interval, legend_below, marks, panels, short_names
from kdscope.measures.correlation import FEWEST, correlate

ACROSS = 2  # panels beside each other: above each stand three lines
CAPTION = (
    "{} against the accuracy of the student, a point for each run, with its interval over images; r, Spearman's ρ and "
    "p over runs, after each recipe's mean was taken off (group-centred), and within recipes of three runs or more. A "
    "student with several teachers is the mean over them, without an interval."
)


def over_teachers(rows: pd.DataFrame, *panel: str) -> pd.DataFrame:
    """Rows whose value is the mean over the teachers of a student (b), without an interval where there are several.

    Args:
        panel: columns that tell apart what is no mean of one another.

    >>> rows = pd.DataFrame({"b": ["s", "s", "u"], "value": [1.0, 3.0, 5.0], "ci_low": 0.0, "ci_high": 9.0})
    >>> over_teachers(rows)[["value", "ci_low"]].values.tolist()
    [[2.0, nan], [2.0, nan], [5.0, 0.0]]
    """
    values = rows.groupby([*panel, "b"])["value"]
    several = values.transform("size") > 1
    ends = {end: rows[end].mask(several) for end in ("ci_low", "ci_high")}
    return rows.assign(value=values.transform("mean"), **ends)


def of_runs(rows: pd.DataFrame, panel: str) -> pd.DataFrame:
    """One row for each run and each value of the column `panel`, where its accuracy is known; fewer than two are none.

    Args:
        rows: with `accuracy`; those of pairs that are taught, and of students alone.
    """
    rows = rows[rows["accuracy"].notna() & (rows["seed"].astype(str) != "all")] if "accuracy" in rows else rows[:0]
    rows = over_teachers(rows, panel)
    return rows if rows.loc[rows["pair"] != ALONE, "b"].nunique() > 1 else rows[:0]


def against_accuracy(rows: pd.DataFrame, panel: str, titles: dict[str, str]) -> Figure:
    """A panel for each of `titles` (values of the column `panel`, with the label of the axis).

    Students without a teacher are crosses, and do not count in the correlation.
    """
    shown = [name for name in titles if (rows[panel] == name).any()]
    taught = rows[rows["pair"] != ALONE]
    groups = list(dict.fromkeys(taught["group"]))
    colour, mark, short = colours(groups), marks(groups), short_names(groups, 28)
    across = min(ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    width = TWO_COLUMNS if across > 1 else TWO_COLUMNS / 2
    figure, grid = panels(down, across, width, 2.75 * down + 0.2, sharey=True)
    cells = [axes for line in grid for axes in line]
    for axes, name in zip(cells, shown, strict=False):
        for row in rows[rows[panel] == name].drop_duplicates("b").itertuples():
            alone = row.pair == ALONE
            style = {"color": "0.45" if alone else colour[row.group], "elinewidth": 0.6, "alpha": 0.9}
            if math.isnan(row.ci_low):
                row = row._replace(ci_low=row.value, ci_high=row.value)
            interval(axes, row, row.accuracy, fmt="x" if alone else mark[row.group], **style)
        own = taught[taught[panel] == name].drop_duplicates("b")
        found = correlate(own["value"], own["accuracy"], own["group"])
        text = str(found).replace("; ", "\n")
        if found.groups < FEWEST:
            text += f"\nonly {found.groups} kind{'s' * (found.groups > 1)} of training: this shows no relation"
        axes.set_title(text, loc="left", fontsize=6.5)
        axes.set_xlabel(titles[name])
        axes.margins(0.08)
    for axes in cells[len(shown) :]:
        axes.set_axis_off()
    for line in grid:
        line[0].set_ylabel(f"Accuracy of the student, {rows['split'].iloc[-1]} (share)")
    handles = [
        Line2D([], [], color=colour[g], marker=mark[g], markersize=4, linestyle="", label=short[g]) for g in groups
    ]
    if (rows["pair"] == ALONE).any():
        handles.append(Line2D([], [], color="0.45", marker="x", markersize=4, linestyle="", label="without a teacher"))
    legend_below(figure, handles)
    return figure
