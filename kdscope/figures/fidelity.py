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

from kdscope.figures import FIGURES
from kdscope.figures.style import (
    BAND,
    DASHES,
    ROW,
    TWO_COLUMNS,
    brief,
    colours,
    interval,
    marks,
    panels,
    styled,
)
from kdscope.measures.correlation import FEWEST, correlate
from kdscope.measures.decomposition import ORIGINS

TAUGHT = ("teacher-student", "ensemble-student")
AXES = {
    "agreement": "Top-1 agreement with the teacher (share)",
    "kl-teacher-student": "KL(teacher || student) (nats)",
    "agreement-teacher-right": "Agreement where the teacher is right (share)",
    "agreement-teacher-wrong": "Agreement where the teacher is wrong (share)",
}


@FIGURES.register("fidelity")
def fidelity(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure that the table has the rows for, by its file's name."""
    table = table[table["definition"] == "kdscope"]
    final = table[table["epoch"].isna() & table["pair"].isin(TAUGHT)]
    main = _spokesmen(final)
    with styled():
        yield "fidelity-frame", frame(main, final)
        yield "fidelity-right-wrong", right_wrong(main)
        yield "fidelity-accuracy", against_accuracy(final)
        if main["measure"].isin(ORIGINS).any():
            yield "fidelity-origins", decomposition(main)
        probes = table[table["epoch"].notna() & table["pair"].isin((*TAUGHT, "floor:independent-student"))]
        if len(probes):
            yield "fidelity-epochs", over_epochs(_spokesmen(probes))


def _spokesmen(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each student and split the ensemble's rows, where it had several teachers; of all seeds together, where it has some."""
    several = rows.groupby(["group", "split"])["pair"].transform(lambda pairs: (pairs == "ensemble-student").any())
    rows = rows[~several | (rows["pair"] != "teacher-student") ]
    if "floor:independent-student" in set(rows["pair"]):
        ensembles = set(rows.loc[rows["pair"] == "ensemble-student", "a"])
        floors = rows["pair"] == "floor:independent-student"
        rows = rows[~floors | (rows["a"].isin(ensembles) if ensembles else True)]
    together = rows.groupby(["group", "a_group", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    return rows[~together | (rows["seed"] == "all")]


def _labels(rows: pd.DataFrame) -> pd.Series:
    """What to call each row: the student, and its teacher where the students do not all have the same."""
    if rows["a"].nunique() == 1:
        return rows["b"].map(lambda name: brief(name, 30))
    return rows["b"].map(lambda name: brief(name, 24)) + "\n" + rows["a"].map(lambda name: f"by {brief(name, 28)}")


def _sorted(rows: pd.DataFrame, measure: str = "agreement") -> list[str]:
    """Labels from least to greatest value on the last split."""
    own = rows[(rows["measure"] == measure) & (rows["split"] == rows["split"].iloc[-1])]
    return list(dict.fromkeys(own.sort_values("value")["label"]))


def _height(labels: list[str], panels_down: int) -> float:
    lines = 2 if any("\n" in label for label in labels) else 1
    return panels_down * (0.75 + (0.05 + ROW * (1 if lines == 1 else 1.5)) * max(2, len(labels)))


def frame(main: pd.DataFrame, final: pd.DataFrame) -> Figure:
    """Agreement and KL of each student with their intervals; the band reaches from the floor to the ceiling."""
    main = main.assign(label=_labels(main))
    splits, order = list(dict.fromkeys(main["split"])), _sorted(main)
    figure, grid = panels(
        2, len(splits), TWO_COLUMNS, _height(order, 2) + 0.35, sharey=True, sharex="row"
    )
    colour = colours(["student", "floor", "ceiling"])
    for line, measure in zip(grid, ("agreement", "kl-teacher-student"), strict=True):
        for axes, split in zip(line, splits, strict=True):
            rows = main[(main["measure"] == measure) & (main["split"] == split)]
            for row in rows.itertuples():
                at = order.index(row.label)
                _band(axes, row, at, colour)
                alone = final[
                    (final["measure"] == measure) & (final["split"] == split) & (final["seed"] != "all")
                    & (final["group"] == row.group) & (final["a_group"] == row.a_group)
                ]  # fmt: skip
                if row.seed == "all":
                    axes.plot(alone["value"], [at] * len(alone), "|", color=colour["student"], markersize=5, alpha=0.5)
                interval(axes, row, at, color=colour["student"], zorder=4)
            axes.set_yticks(range(len(order)), order)
            axes.set_ylim(-0.6, len(order) - 0.4)
            axes.grid(axis="y", visible=False)
            axes.set_title(split)
            axes.set_xlabel(AXES[measure])
    _legend(figure, main, colour)
    return figure


def _band(axes: Axes, row: pd.Series, at: int, colour: dict) -> None:
    known = [value for value in (row.floor, row.ceiling) if not math.isnan(value)]
    if len(known) == 2:
        axes.barh(at, abs(row.ceiling - row.floor), left=min(known), height=0.62, color=BAND, linewidth=0, zorder=1)
    for side, value in (("floor", row.floor), ("ceiling", row.ceiling)):
        if not math.isnan(value):
            axes.plot([value] * 2, [at - 0.31, at + 0.31], color=colour[side], linewidth=1.5, zorder=2)


def _legend(figure: Figure, main: pd.DataFrame, colour: dict) -> None:
    controls = {
        side: sorted({part.partition(": ")[2] for text in main["control"].dropna() for part in text.split("; ") if part.startswith(side)})
        for side in ("floor", "ceiling")
    }
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label="student, 95 % interval")]
    if (main["seed"] == "all").any():
        handles.append(
            Line2D([], [], color=colour["student"], marker="|", linestyle="", alpha=0.5, label="one seed")
        )
    handles += [
        Line2D([], [], color=colour[side], linewidth=1.5, label=f"{side}: {' or '.join(kinds)}")
        for side, kinds in controls.items()
        if kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))


def right_wrong(main: pd.DataFrame) -> Figure:
    """Agreement where the teacher is right beside agreement where it is wrong: does the student copy its mistakes?"""
    main = main.assign(label=_labels(main))
    splits, order = list(dict.fromkeys(main["split"])), _sorted(main)
    measures = ("agreement-teacher-right", "agreement-teacher-wrong")
    colour, mark = colours(measures), marks(measures)
    figure, grid = panels(1, len(splits), TWO_COLUMNS, _height(order, 1) + 0.35, sharey=True, sharex=True)
    for axes, split in zip(grid[0], splits, strict=True):
        for shift, measure in zip((0.15, -0.15), measures, strict=True):
            for row in main[(main["measure"] == measure) & (main["split"] == split)].itertuples():
                at = order.index(row.label) + shift
                if math.isnan(row.value):
                    continue
                if not math.isnan(row.floor):
                    axes.plot([row.floor, row.value], [at, at], color=colour[measure], linewidth=0.5, zorder=1)
                    axes.plot(row.floor, at, marker="|", color=colour[measure], markersize=6, zorder=2)
                interval(axes, row, at, color=colour[measure], fmt=mark[measure], zorder=3)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_title(split)
        axes.set_xlabel("Top-1 agreement with the teacher (share)")
    handles = [
        Line2D([], [], color=colour[m], marker=mark[m], markersize=4, label=f"where the teacher is {m.rsplit('-', 1)[1]}")
        for m in measures
    ]
    handles.append(Line2D([], [], color="0.3", marker="|", linestyle="", label="its floor"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def against_accuracy(final: pd.DataFrame) -> Figure:
    """Agreement on each split against accuracy on the last one, a point for each run, with r, rho, p and n."""
    runs = final[(final["seed"] != "all") & final["measure"].isin(("agreement", "accuracy"))]
    several = runs.groupby("b")["pair"].transform(lambda pairs: (pairs == "ensemble-student").any())
    runs = runs[~several | (runs["pair"] == "ensemble-student")]
    splits = list(dict.fromkeys(runs["split"]))
    accuracy = runs[(runs["measure"] == "accuracy") & (runs["split"] == splits[-1])].drop_duplicates(["a", "b"])
    accuracy = accuracy.set_index(["a", "b"])
    groups = list(dict.fromkeys(runs["group"]))
    colour, mark = colours(groups), marks(groups)
    figure, grid = panels(1, len(splits), TWO_COLUMNS, 2.9 + 0.16 * math.ceil(len(groups) / 4), sharey=True)
    for axes, split in zip(grid[0], splits, strict=True):
        agreement = runs[(runs["measure"] == "agreement") & (runs["split"] == split)].set_index(["a", "b"])
        for key, x in agreement.iterrows():
            y = accuracy.loc[key]
            style = {"color": colour[x.group], "elinewidth": 0.6, "alpha": 0.9}
            interval(axes, x, y.value, fmt="none", **style)
            interval(axes, y, x.value, upright=True, fmt=mark[x.group], **style)
        found = correlate(agreement["value"], accuracy.loc[agreement.index, "value"], agreement["group"])
        text = str(found)
        if found.groups < FEWEST:
            text += f"\nonly {found.groups} kind{'s' * (found.groups > 1)} of training: this shows no relation"
        axes.set_title(f"{split}: {text}" if "\n" not in text else f"{split}: {text}", loc="left", fontsize=6.5)
        axes.set_xlabel(f"{AXES['agreement'].removesuffix(' (share)')}, {split} (share)")
        axes.margins(0.08)
    grid[0][0].set_ylabel(f"Accuracy of the student, {splits[-1]} (share)")
    handles = [
        Line2D([], [], color=colour[g], marker=mark[g], markersize=4, linestyle="", label=brief(g, 28)) for g in groups
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4 if len(groups) > 3 else max(1, len(groups)))
    return figure


def decomposition(main: pd.DataFrame) -> Figure:
    """Bars of what the student has over one without a teacher: gains to the right, losses to the left; the dot is their sum."""
    rows = main[main["measure"].isin(ORIGINS)]
    rows = rows.assign(label=_labels(rows))
    splits, order = list(dict.fromkeys(rows["split"])), None
    signs = {"inherited-truths": 1, "own-discoveries": 1, "inherited-errors": -1, "forgotten": -1}
    colour = colours(list(signs))
    net = rows.assign(part=rows["value"] * rows["measure"].map(signs)).groupby(["split", "label"])["part"].sum()
    order = list(net[splits[-1]].sort_values().index)
    figure, grid = panels(1, len(splits), TWO_COLUMNS, _height(order, 1) + 0.5, sharey=True, sharex=True)
    for axes, split in zip(grid[0], splits, strict=True):
        own = rows[rows["split"] == split].set_index(["label", "measure"])
        ends = {1: np.zeros(len(order)), -1: np.zeros(len(order))}
        for measure, sign in signs.items():
            values = np.array([own.loc[(label, measure), "value"] if (label, measure) in own.index else 0 for label in order])
            values = 100 * values
            left = ends[sign] if sign > 0 else -(ends[sign] + values)
            axes.barh(range(len(order)), values, left=left, height=0.6, color=colour[measure], linewidth=0, zorder=2)
            ends[sign] += values
        dots = [100 * net.get((split, label), math.nan) for label in order]
        axes.plot(dots, range(len(order)), "D", color="black", markersize=3.5, zorder=4)
        axes.axvline(0, color="0.2", linewidth=0.8, zorder=3)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_title(split)
        axes.set_xlabel("Images that changed (%)")
    handles = [Patch(color=colour[m], label=f"{m.replace('-', ' ')} ({'+' if s > 0 else '−'})") for m, s in signs.items()]
    handles.append(Line2D([], [], color="black", marker="D", markersize=3.5, linestyle="", label="change in accuracy"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


def over_epochs(probes: pd.DataFrame) -> Figure:
    """Agreement and KL of the probe set over epochs, with intervals; dashed: a student without a teacher."""
    probes = probes.assign(label=_labels(probes))
    splits = list(dict.fromkeys(probes["split"]))
    names = list(dict.fromkeys(probes["label"]))
    colour, dash = colours(names), marks(names, DASHES)
    figure, grid = panels(2, len(splits), TWO_COLUMNS, 4.2 + 0.16 * math.ceil(len(names) / 3), sharex=True, sharey="row")
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
    handles = [Line2D([], [], color=colour[n], linestyle=dash[n], label=n.replace("\n", " ")) for n in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return figure
