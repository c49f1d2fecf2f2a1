"""Trials side by side, and accuracies beside those of others: two kinds of figure of `kdscope.figures.rethinkkd`."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdscope.figures.rethinkkd_rows import DATASETS, SETTINGS, Comparison
from kdscope.figures.style import TWO_COLUMNS, colours, legend_below, panels, tell

SHORT = {"accuracy-gap": "Accuracy gap", "attention-iou": "IoU of attention", "agreement": "Fidelity"}
SMALL = {"ha": "center", "va": "center", "fontsize": 6}


def beside(table: pd.DataFrame, comparison: Comparison) -> Figure | None:
    """For each trial a bar as usual and one of the other setting: a row for each measure, a column for each dataset."""
    settings = ("vKD", comparison.setting)
    rows = table[table["measure"].isin(comparison.measures) & table["setting"].isin(settings) & table["trial"].notna()]
    rows = rows[rows.groupby(["dataset", "measure"])["setting"].transform("nunique") == 2]
    datasets = [name for name in DATASETS if name in set(rows["dataset"])]
    measures = [name for name in comparison.measures if name in set(rows["measure"])]
    if not datasets:
        return None
    trials = list(dict.fromkeys(rows["trial"]))
    colour = colours(settings)
    figure, grid = panels(
        len(measures), len(datasets), TWO_COLUMNS, 0.9 + 1.35 * len(measures), sharex=True, sharey="row"
    )
    for line, measure in zip(grid, measures, strict=True):
        for axes, dataset in zip(line, datasets, strict=True):
            values = rows[(rows["measure"] == measure) & (rows["dataset"] == dataset)]
            values = values.pivot_table("value", "trial", "setting").reindex(trials, columns=settings)
            for k, setting in enumerate(settings):
                axes.bar(np.arange(len(trials)) + 0.4 * k - 0.2, values[setting], 0.38, color=colour[setting])
            lower = int((values[comparison.setting] < values["vKD"]).sum())
            head = f"{DATASETS[dataset]}\n" if measure == measures[0] else ""
            axes.set_title(f"{head}{comparison.setting} lower in {lower} of {len(trials)}", loc="left", fontsize=6.5)
            axes.grid(visible=False, axis="x")
        line[0].set_ylabel(SHORT[measure])
    for axes in grid[-1]:
        axes.set_xticks(range(len(trials)), trials, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    legend_below(figure, [Patch(color=colour[s], label=f"{s}: KD {SETTINGS[s]}") for s in settings])
    caption = (
        f"{comparison.place} of Guo et al. KD {SETTINGS['vKD']} (vKD), and {SETTINGS[comparison.setting]} "
        f"({comparison.setting}). A trial is named by the augmentation (w weak, s strong) of teachers and student."
    )
    return tell(figure, rows, caption)


def others(table: pd.DataFrame) -> Figure | None:
    """Table G.5: accuracies beside those of other methods, a panel for each dataset."""
    rows = table[(table["setting"] == "others") & (table["measure"] == "accuracy")]
    datasets = [name for name in DATASETS if name in set(rows["dataset"])]
    if not datasets:
        return None
    names = list(dict.fromkeys(rows["b"]))
    figure, grid = panels(1, len(datasets), TWO_COLUMNS, 0.7 + 0.26 * len(names), sharey=True)
    colour = colours(["paper", "others"])
    for axes, dataset in zip(grid[0], datasets, strict=True):
        own = rows[rows["dataset"] == dataset].set_index("b")["value"]
        for k, name in enumerate(names):
            if name not in own:
                style = {"backgroundcolor": "white", "color": "0.45", **SMALL}
                axes.text(0.5, k, "not given", transform=axes.get_yaxis_transform(), **style)
                continue
            theirs = "paper" if "teacher" in name else "others"
            axes.plot(own[name], k, "o" if theirs == "paper" else "D", color=colour[theirs], markersize=4)
            axes.annotate(f"{own[name]:.4f}", (own[name], k), (0, 7), textcoords="offset points", **SMALL)
        axes.set_title(DATASETS[dataset], loc="left")
        axes.set_xlabel("Accuracy")
        axes.margins(x=0.3)
        axes.locator_params(axis="x", nbins=4)
    grid[0][0].set_yticks(range(len(names)), names)
    grid[0][0].set_ylim(len(names) - 0.4, -0.8)
    return tell(
        figure, rows, "Table G.5 of Guo et al.: their accuracies (circles) beside those that they give of others."
    )
