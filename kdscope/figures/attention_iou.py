"""The figures of `kdscope analyze attention-iou`: functions of its table.

- attention-iou-sweep: IoU of the most attended cells against their area, with controls and chance.
- attention-iou-frame: overlap above chance of each student and teacher, between floor and ceiling, by kind of map.
- attention-iou-truth: each network against the true masks, where the data have them.
- attention-iou-accuracy: overlap with the teacher against accuracy over runs.
- attention-iou-epochs: overlap, and energy inside the mask, while a student learned, where its probes kept maps.

`attention-iou-gallery` (`kdscope.figures.gallery`) shows some images with their maps.
"""

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn
from kdscope.figures.style import (
    BAND,
    DASHES,
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

TAUGHT = "teacher-student"
LINES = {
    TAUGHT: "teacher and student",
    "teacher-teacher": "two teachers",
    "ceiling:student-seeds": "two seeds of the student",
    "floor:independent-student": "teacher, student trained alone",
    "floor:shuffled": "other image of the same class",
    "floor:random-init": "teacher, untrained network",
}
TRUTH = {"pointing-game": "Points at the object (share)", "energy-inside": "Energy inside the object (share)"}
EPOCHS = {"attention-iou": "Overlap above chance", "energy-inside": "Energy inside the object"}
MOST = 4  # panels beside each other
CAPTIONS = {
    "sweep": "Intersection over union of the cells that two networks attend to most, against the share of the cells "
    "that is taken, for each kind of map at its last layer: mean over pairs, with its interval over images. Dotted: "
    "two independent maps.",
    "frame": "Overlap above chance (kappa, mean over areas) of the attention of each student with its teacher's, by "
    "kind of map. The grey band reaches from the floor to the ceiling.",
    "truth": "How often a network's map points at the object (left), and which share of its energy lies inside "
    "(right). Dotted: the object's share of the image, which is chance.",
    "epochs": "Overlap of attention with the teacher's above chance, and energy inside the object where that is known, "
    "while the students learned. Dashed: a student without a teacher.",
}


@FIGURES.register("attention-iou")
def attention_iou(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure that the table has the rows for, by its file's name."""
    known = table[table["definition"] == "kdscope"]
    known = known[known["split"] == known["split"].iloc[-1]]
    probes, final = _all_seeds(known[known["epoch"].notna()]), known[known["epoch"].isna()]
    whole = final[final["area"].isna() & (final["measure"] == "attention-iou")]
    sweep = final[final["area"].notna() & (final["seed"] != "all")]
    taught = _all_seeds(whole[whole["pair"] == TAUGHT])
    runs = whole[whole["pair"].isin((TAUGHT, ALONE))]
    kinds = dict(_last_layers(runs))
    runs = of_runs(runs[runs["layer"] == runs["map"].map(kinds)], "map")  # a mean over teachers, not over layers
    titles = {kind: f"Overlap above chance (kappa), {_named(kind, layer)}" for kind, layer in kinds.items()}
    truth = _all_seeds(final[final["measure"].isin(TRUTH)])
    probes = probes[probes["measure"].isin(EPOCHS)]
    with styled():
        yield drawn(table, "attention-iou-sweep", sweep, lambda: sweep_figure(sweep), CAPTIONS["sweep"])
        yield drawn(table, "attention-iou-frame", taught, lambda: frame(taught), CAPTIONS["frame"])
        trend = partial(against_accuracy, runs, "map", titles)
        yield drawn(table, "attention-iou-accuracy", runs, trend, CAPTION.format("Overlap of attention above chance"))
        yield drawn(table, "attention-iou-truth", truth, lambda: against_truth(truth), CAPTIONS["truth"])
        yield drawn(table, "attention-iou-epochs", probes, lambda: over_epochs(probes), CAPTIONS["epochs"])


def sweep_figure(sweep: pd.DataFrame) -> Figure:
    """IoU against area at the last layers of each kind of map: mean over pairs, with chance dotted.

    Each line is the mean of the pairs of its kind; its band is their mean interval over images.
    """
    kinds = _last_layers(sweep)
    columns = min(MOST, len(kinds))
    down = -(-len(kinds) // columns)
    figure, grid = panels(down, columns, TWO_COLUMNS, 0.6 + 2.0 * down, sharey=True)
    shown = [pair for pair in LINES if (sweep["pair"] == pair).any()]
    colour, dash = colours(list(LINES)), marks(list(LINES), DASHES[:3])
    cells = [axes for line in grid for axes in line]
    for axes, (method, layer) in zip(cells, kinds, strict=False):
        rows = sweep[(sweep["map"] == method) & (sweep["layer"] == layer) & (sweep["seed"] != "all")]
        rows = rows.assign(**{name: _iou(rows, name) for name in ("value", "ci_low", "ci_high")})
        for pair in shown:
            line = rows[rows["pair"] == pair].groupby("area")[["value", "ci_low", "ci_high"]].mean()
            axes.plot(line.index, line["value"], dash[pair], color=colour[pair], marker=".", markersize=3)
            axes.fill_between(line.index, line["ci_low"], line["ci_high"], color=colour[pair], alpha=0.2, linewidth=0)
        chance = rows.groupby("area")["chance"].first()
        axes.plot(chance.index, chance, ":", color="0.2")
        axes.set_title(f"{method}, {layer}" if layer != "all" else method)
        axes.set_xlabel("Share of the cells")
        axes.set_ylim(0, 1)
    for axes in cells[len(kinds) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel("IoU of the top cells")
    handles = [Line2D([], [], color=colour[p], linestyle=dash[p], marker=".", label=LINES[p]) for p in shown]
    handles.append(Line2D([], [], color="0.2", linestyle=":", label="chance"))
    legend_below(figure, handles)
    return figure


def frame(rows: pd.DataFrame) -> Figure:
    """Overlap above chance of each student with its teacher: the band reaches from the floor to the ceiling."""
    label = rows["b"].map(short_names(rows["b"], 30))
    if rows["a"].nunique() > 1:
        label += "\nby " + rows["a"].map(short_names(rows["a"], 30))
    rows = rows.assign(label=label)
    kinds = _last_layers(rows)
    order = list(dict.fromkeys(rows.sort_values("value")["label"]))
    columns = min(MOST, len(kinds))
    down = -(-len(kinds) // columns)
    height = down * (0.7 + ROW * (1.4 if "\n" in order[0] else 1.0) * max(2, len(order))) + 0.35
    figure, grid = panels(down, columns, TWO_COLUMNS, height, sharey=True, sharex=True)
    colour = colours(["student", "floor", "ceiling"])
    cells = [axes for line in grid for axes in line]
    for axes, (method, layer) in zip(cells, kinds, strict=False):
        for row in rows[(rows["map"] == method) & (rows["layer"] == layer)].itertuples():
            at = order.index(row.label)
            ends = [end for end in (row.floor, row.ceiling) if not pd.isna(end)]
            if len(ends) == 2:
                axes.barh(at, ends[1] - ends[0], left=ends[0], height=0.5, color=BAND, linewidth=0, zorder=1)
            for end, name in ((row.floor, "floor"), (row.ceiling, "ceiling")):
                if not pd.isna(end):
                    axes.plot([end] * 2, [at - 0.25, at + 0.25], color=colour[name], linewidth=1.6, zorder=2)
            interval(axes, row, at, color=colour["student"], zorder=4)
        axes.set_title(f"{method}, {layer}" if layer != "all" else method)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("Overlap above chance\n(kappa, mean over areas)")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes in cells[len(kinds) :]:
        axes.set_visible(False)
    floor = "; ".join(dict.fromkeys(_side(text, "floor") for text in rows["control"].dropna() if "floor" in text))
    ceiling = "; ".join(dict.fromkeys(_side(text, "ceiling") for text in rows["control"].dropna() if "ceiling" in text))
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label="teacher and student")]
    handles += [Patch(color=colour["floor"], label=f"floor: {floor}")] if floor else []
    handles += [Patch(color=colour["ceiling"], label=f"ceiling: {ceiling}")] if ceiling else []
    legend_below(figure, handles)
    return figure


def against_truth(truth: pd.DataFrame) -> Figure:
    """Pointing game and energy inside the mask of each network; the line is the mask's share, what chance gives."""
    names = short_names(truth["b"], 30)
    order = list(dict.fromkeys(truth["b"]))[::-1]
    methods = list(dict.fromkeys(truth["map"]))
    colour, mark = colours(methods), marks(methods)
    figure, grid = panels(1, len(TRUTH), TWO_COLUMNS, 0.9 + ROW * 1.2 * max(2, len(order)), sharey=True)
    for axes, (measure, label) in zip(grid[0], TRUTH.items(), strict=True):
        rows = truth[truth["measure"] == measure]
        for row in rows.itertuples():
            shift = 0.2 * (methods.index(row.map) - (len(methods) - 1) / 2)
            interval(axes, row, order.index(row.b) + shift, color=colour[row.map], fmt=mark[row.map], zorder=3)
        axes.axvline(rows["floor"].mean(), color="0.2", linestyle=":", linewidth=1.0)
        axes.set_yticks(range(len(order)), [names[name] for name in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
    handles = [Line2D([], [], color=colour[m], marker=mark[m], markersize=4, label=m) for m in methods]
    legend_below(figure, [*handles, Line2D([], [], color="0.2", linestyle=":", label="the mask's share of the image")])
    return figure


def over_epochs(probes: pd.DataFrame) -> Figure:
    """A column for each kind of map at its last layer: above the overlap with the teacher, below the truth if known.

    Dashed: a student without a teacher, against the same teacher.
    """
    kinds = _last_layers(probes)[:MOST]
    shown = {m: label for m, label in EPOCHS.items() if (probes["measure"] == m).any()}
    probes = probes[probes["measure"].isin(shown)]
    # Against the mask a network is shown once, whoever its teacher is.
    names = short_names(probes["b"], 24)
    alone = set(probes.loc[probes["pair"] == "floor:independent-student", "b"])
    colour = colours(list(names))
    figure, grid = panels(len(shown), len(kinds), TWO_COLUMNS, 0.6 + 1.7 * len(shown), sharex=True, sharey="row")
    for line, (measure, label) in zip(grid, shown.items(), strict=True):
        for axes, (method, layer) in zip(line, kinds, strict=True):
            rows = probes[(probes["map"] == method) & (probes["layer"] == layer) & (probes["measure"] == measure)]
            for (name, _), own in rows.groupby(["b", "a"], sort=False):
                own = own.sort_values("epoch")
                epochs, dash = own["epoch"].astype(float), DASHES[1 if name in alone else 0]
                axes.plot(epochs, own["value"], dash, color=colour[name], marker=".", markersize=4)
                axes.fill_between(epochs, own["ci_low"], own["ci_high"], color=colour[name], alpha=0.15, linewidth=0)
            if measure in TRUTH and len(rows):
                axes.axhline(rows["floor"].mean(), color="0.2", linestyle=":", linewidth=1.0)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        line[0].set_ylabel(label)
    for axes, (method, layer) in zip(grid[0], kinds, strict=True):
        axes.set_title(f"{method}, {layer}" if layer != "all" else method)
    for axes in grid[-1]:
        axes.set_xlabel("Epoch")
    handles = [
        Line2D([], [], color=colour[name], linestyle=DASHES[1 if name in alone else 0], marker=".", label=text)
        for name, text in names.items()
    ]
    if "energy-inside" in shown:
        handles.append(Line2D([], [], color="0.2", linestyle=":", label="the mask's share of the image"))
    legend_below(figure, handles)
    return figure


def _all_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """All seeds of a group as one where there are several, else its one."""
    keys = ["pair", "group", "a_group", "epoch"]
    together = rows.groupby(keys, dropna=False)["seed"].transform(lambda seeds: (seeds == "all").any())
    return rows[~together.astype(bool) | (rows["seed"] == "all")]


def _last_layers(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The kinds of map, each at its last layer."""
    return [(method, own["layer"].iloc[-1]) for method, own in rows.groupby("map", sort=False)]


def _named(kind: str, layer: str) -> str:
    return f"{kind}, {layer}" if layer != "all" else kind


def _iou(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows["chance"] + rows[column] * (1 - rows["chance"])


def _side(text: str, side: str) -> str:
    return next(part.partition(": ")[2] for part in text.split("; ") if part.startswith(side))
