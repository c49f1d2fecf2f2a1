"""Trials side by side, and accuracies beside those of others: two kinds of figure of `kdscope.figures.rethinkkd`."""

import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdscope.figures.rethinkkd_rows import SETTINGS, Comparison, datasets, titled
from kdscope.figures.style import TWO_COLUMNS, colours, legend_below, panels, tell

SHORT = {"accuracy-gap": "Accuracy gap", "attention-iou": "IoU of attention", "agreement": "Fidelity"}
SMALL = {"ha": "center", "va": "center", "fontsize": 6}


def beside(table: pd.DataFrame, comparison: Comparison) -> Figure | None:
    """For each trial a bar as usual and one of the other setting: a row for each measure, a column for each dataset.

    Each definition of a dataset is a column of its own. Bars are means over seeds.
    """
    settings = ("vKD", comparison.setting)
    rows = table[table["measure"].isin(comparison.measures) & table["setting"].isin(settings) & table["trial"].notna()]
    rows = rows[rows.groupby(["dataset", "definition", "measure", "trial"])["setting"].transform("nunique") == 2]
    columns = [
        (dataset, definition)
        for definition in dict.fromkeys(rows["definition"])
        for dataset in datasets(rows[rows["definition"] == definition]["dataset"])
    ]
    measures = [name for name in comparison.measures if name in set(rows["measure"])]
    if not columns:
        return None
    trials = list(dict.fromkeys(rows["trial"]))
    colour = colours(settings)
    named = {definition for _, definition in columns} != {"published"}
    figure, grid = panels(
        len(measures),
        len(columns),
        TWO_COLUMNS,
        0.9 + 1.35 * len(measures),
        sharex=True,
        sharey=False if named else "row",
    )
    for line, measure in zip(grid, measures, strict=True):
        for axes, (dataset, definition) in zip(line, columns, strict=True):
            of = (rows["dataset"] == dataset) & (rows["definition"] == definition)
            values = rows[(rows["measure"] == measure) & of]
            values = values.pivot_table("value", "trial", "setting").reindex(trials, columns=settings)
            for k, setting in enumerate(settings):
                axes.bar(np.arange(len(trials)) + 0.4 * k - 0.2, values[setting], 0.38, color=colour[setting])
            both = values.dropna()
            lower = int((both[comparison.setting] < both["vKD"]).sum())
            head = f"{titled(dataset)}{f', {definition}' if named else ''}\n" if measure == measures[0] else ""
            axes.set_title(f"{head}{comparison.setting} lower in {lower} of {len(both)}", loc="left", fontsize=6.5)
            axes.grid(visible=False, axis="x")
            axes.locator_params(axis="y", nbins=4)
        line[0].set_ylabel(SHORT[measure])
    for axes in grid[-1]:
        texts = trials if len(columns) < 4 else [re.sub(r"T\d", "", t[:-2]) + f"-{t[-2:]}" for t in trials]
        axes.set_xticks(range(len(trials)), texts, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    legend_below(figure, [Patch(color=colour[s], label=f"{s}: KD {SETTINGS[s]}") for s in settings])
    caption = (
        f"{comparison.place} of Guo et al. KD {SETTINGS['vKD']} (vKD), and {SETTINGS[comparison.setting]} "
        f"({comparison.setting}). A trial is named by the augmentation (w weak, s strong) of teachers and student."
    )
    if named and "attention-iou" in measures:
        caption += (
            " The paper does not say what its maps were of; kdscope's are of whole images, on which what two teachers "
            "attend to does not depend on how their student was trained."
        )
    return tell(figure, rows, caption)


def others(table: pd.DataFrame) -> Figure | None:
    """Table G.5: accuracies beside those of other methods, and ours, a panel for each dataset."""
    rows = table[(table["setting"] == "others") & (table["measure"] == "accuracy")]
    shown = datasets(rows["dataset"])
    if not shown:
        return None
    names = list(dict.fromkeys(rows["b"]))
    figure, grid = panels(1, len(shown), TWO_COLUMNS, 0.7 + 0.26 * len(names), sharey=True)
    colour = colours(["paper", "others", "kdscope"])
    for axes, dataset in zip(grid[0], shown, strict=True):
        own = rows[rows["dataset"] == dataset].set_index("b")
        for k, name in enumerate(names):
            if name not in own.index:
                style = {"backgroundcolor": "white", "color": "0.45", **SMALL}
                axes.text(0.5, k, "not given", transform=axes.get_yaxis_transform(), **style)
                continue
            value, definition = own.loc[name, "value"], own.loc[name, "definition"]
            theirs = "kdscope" if definition == "kdscope" else "paper" if "teacher" in name else "others"
            mark = {"paper": "o", "others": "D", "kdscope": "s"}[theirs]
            axes.plot(value, k, mark, color=colour[theirs], markersize=4)
            axes.annotate(f"{value:.4f}", (value, k), (0, 7), textcoords="offset points", **SMALL)
        axes.set_title(titled(dataset), loc="left")
        axes.set_xlabel("Accuracy")
        axes.margins(x=0.3)
        axes.locator_params(axis="x", nbins=4)
    grid[0][0].set_yticks(range(len(names)), names)
    grid[0][0].set_ylim(len(names) - 0.4, -0.8)
    ours = " Squares: kdscope's own runs." if "kdscope" in set(rows["definition"]) else ""
    return tell(
        figure, rows,
        f"Table G.5 of Guo et al.: their accuracies (circles) beside those that they give of others.{ours}",
    )  # fmt: skip
