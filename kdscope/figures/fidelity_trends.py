"""Fidelity against accuracy over runs, and over the epochs of a run: two figures of `kdscope.figures.fidelity`."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdscope.figures.fidelity_rows import ALONE, AXES, TAUGHT, labelled
from kdscope.figures.style import (
    DASHES,
    TWO_COLUMNS,
    colours,
    interval,
    legend_below,
    marks,
    panels,
    short_names,
)
from kdscope.measures.correlation import FEWEST, correlate


def against_accuracy(runs: pd.DataFrame) -> Figure:
    """Agreement on each split against accuracy on the last one, a point for each run, with r, rho, p and n.

    Students without this teacher are crosses, and do not count in the correlation.
    """
    splits = list(dict.fromkeys(runs["split"]))
    accuracy = runs[(runs["measure"] == "accuracy") & (runs["split"] == splits[-1])].drop_duplicates(["a", "b"])
    accuracy = accuracy.set_index(["a", "b"])
    groups = list(dict.fromkeys(runs.loc[runs["pair"].isin(TAUGHT), "group"]))
    colour, mark = colours(groups), marks(groups)
    figure, grid = panels(1, len(splits), TWO_COLUMNS, 2.9 + 0.16 * math.ceil(len(groups) / 4), sharey=True)
    for axes, split in zip(grid[0], splits, strict=True):
        agreement = runs[(runs["measure"] == "agreement") & (runs["split"] == split)].set_index(["a", "b"])
        for key, x in agreement.iterrows():
            y, alone = accuracy.loc[key], x.pair not in TAUGHT
            style = {"color": "0.45" if alone else colour[x.group], "elinewidth": 0.6, "alpha": 0.9}
            interval(axes, x, y.value, fmt="none", **style)
            interval(axes, y, x.value, upright=True, fmt="x" if alone else mark[x.group], **style)
        taught = agreement[agreement["pair"].isin(TAUGHT)]
        found = correlate(taught["value"], accuracy.loc[taught.index, "value"], taught["group"])
        text = str(found).replace("; ", "\n")
        if found.groups < FEWEST:
            text += f"\nonly {found.groups} kind{'s' * (found.groups > 1)} of training: this shows no relation"
        axes.set_title(f"{split}: {text}", loc="left", fontsize=6.5)
        axes.set_xlabel(f"{AXES['agreement'].removesuffix(' (share)')}, {split} (share)")
        axes.margins(0.08)
    grid[0][0].set_ylabel(f"Accuracy of the student, {splits[-1]} (share)")
    short = short_names(groups, 28)
    handles = [
        Line2D([], [], color=colour[g], marker=mark[g], markersize=4, linestyle="", label=short[g]) for g in groups
    ]
    if not runs["pair"].isin(TAUGHT).all():
        handles.append(
            Line2D([], [], color="0.45", marker="x", markersize=4, linestyle="", label="without this teacher")
        )
    legend_below(figure, handles)
    return figure


def over_epochs(probes: pd.DataFrame) -> Figure:
    """Agreement and KL of the probe set over epochs, with intervals; dashed: a student without a teacher."""
    probes = labelled(probes)
    probes["label"] = probes["label"].where(probes["pair"] != ALONE, probes["label"] + " (no teacher)")
    splits = list(dict.fromkeys(probes["split"]))
    names = list(dict.fromkeys(probes["label"]))
    colour, dash = colours(names), marks(names, DASHES)
    figure, grid = panels(
        2, len(splits), TWO_COLUMNS, 4.2 + 0.16 * math.ceil(len(names) / 3), sharex=True, sharey="row"
    )
    for line, measure in zip(grid, ("agreement", "kl-teacher-student"), strict=True):
        for axes, split in zip(line, splits, strict=True):
            rows = probes[(probes["measure"] == measure) & (probes["split"] == split)]
            for name, own in rows.groupby("label", sort=False):
                own = own.sort_values("epoch")
                epochs = own["epoch"].astype(float)
                axes.plot(epochs, own["value"], dash[name], color=colour[name], marker=".", markersize=4)
                axes.fill_between(epochs, own["ci_low"], own["ci_high"], color=colour[name], alpha=0.15, linewidth=0)
            if measure == "agreement":
                axes.set_title(f"{split}, probe of {rows['n'].max():.0f} images" if len(rows) else split)
        line[0].set_ylabel(AXES[measure].replace(" with the teacher", "\nwith the teacher"))
    for axes in grid[-1]:
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=colour[n], linestyle=dash[n], label=n.replace("\n", " ")) for n in names]
    legend_below(figure, handles)
    return figure
