"""The figures of `kdscope analyze detection-attention`: functions of its table.

- detection-attention-boxes: attention of each network against the boxes, by object size.
- detection-attention-levels: how much the attention of student and teacher overlaps, level by level.
- detection-attention-error: the squared error of features by region and level, as a map, and its shares.
- detection-attention-definitions: overlaps by several definitions, where they were asked for.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdscope.detection.measures.cards import CARDS
from kdscope.figures import FIGURES
from kdscope.figures.detection_attention_definitions import (
    CAPTION,
    OTHERS,
    SHUFFLED,
    UNTRAINED,
    several,
    stroke,
)
from kdscope.figures.detection_attention_definitions import definitions as by_definition
from kdscope.figures.detection_curves import in_panels
from kdscope.figures.detection_rows import SIZES, curves, height, labels_of, last_split, lines, one_each, titled
from kdscope.figures.fidelity_rows import ALONE
from kdscope.figures.sheet import drawn
from kdscope.figures.style import TWO_COLUMNS, colours, interval, legend_below, marks, panels, styled

SCORES = {name: (CARDS[name].title, CARDS[name].null) for name in ("auroc", "area-matched-iou", "lift")}
REGIONS = ("small", "medium", "large", "ring", "far")
ROLES = ("teacher", "student", "independent-student", "network", "random-init")
NAMES = {UNTRAINED: "floor: untrained", SHUFFLED: "floor: maps of other images"}
CAPTIONS = {
    "attention": "The attention of each network against the boxes, by object size, mean over the levels of the "
    "pyramid. Dashed: a map that is the same everywhere (AUROC 0.5, lift 1). Upright strokes: each network's maps of "
    "other images, which is what looking at the middle earns. Random init: the student's architecture before training.",
    "levels": "Overlap of the attention of student and teacher at the area of the objects, level by level, a panel for "
    "each student. Dashed: the student alone; dotted: two seeds of one training; grey: an untrained network, and "
    "maps of other images.",
    "error": "Left: squared error of the features over that of the average cell, by region and level (1: as "
    "everywhere). Right: the share of the error that lies in each region, mean over the levels; shares add up to one.",
}
UNITS = {
    "kdscope": " Lift depends on the unit of the features, AUROC and IoU on ranks alone.",
    "normalised": " Attention is of mean |F| over its mean at the level, so that no unit of the features is in it.",
}
ADAPTERS = {
    "kdscope": " Features of the student are as they are, or through the adapter that its run trained.",
    "fitted": " Features of each student go through a linear map that least squares finds on training images.",
}


@FIGURES.register("detection-attention")
def detection_attention(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """Each figure by its file's name; None where the table has no rows for it."""
    words = table[["layer", "region", "area"]].astype(object).fillna("").astype(str)
    known = last_split(table.assign(**words))
    last = known[known["definition"] == "kdscope"]
    unitless = "normalised" if "normalised" in set(known["definition"]) else "kdscope"
    truth = known[known["measure"].isin(SCORES) & (known["layer"] == "") & (known["a"] == "true boxes")]
    truth = one_each(truth[truth["definition"] == unitless])
    overlap = last[(last["measure"] == "attention-overlap") & (last["area"] == "all") & (last["layer"] != "")]
    overlap = one_each(overlap[overlap["pair"].isin(("teacher-student", *NAMES))])
    overlap = overlap if (overlap["pair"] == "teacher-student").any() else overlap[:0]
    adapted = "fitted" if "fitted" in set(known["definition"]) else "kdscope"
    error = known[known["measure"].isin(("error-density", "error-share")) & (known["definition"] == adapted)]
    error = error[error["pair"].isin(("teacher-student", ALONE))]
    error, more = one_each(error), several(one_each(known))
    with styled():
        yield drawn(
            table, "detection-attention-boxes", truth, lambda: attention(truth), CAPTIONS["attention"] + UNITS[unitless]
        )
        yield drawn(table, "detection-attention-levels", overlap, lambda: levels(overlap), CAPTIONS["levels"])
        yield drawn(
            table, "detection-attention-error", error, lambda: errors(error), CAPTIONS["error"] + ADAPTERS[adapted]
        )
        yield drawn(table, "detection-attention-definitions", more, lambda: by_definition(more), CAPTION)


def attention(rows: pd.DataFrame) -> Figure:
    """A panel for each score, a line for each size, a mark for each network."""
    others = rows[rows["pair"] == SHUFFLED]
    rows = rows[rows["pair"] != SHUFFLED]
    names = list(dict.fromkeys(rows.sort_values("role", key=lambda role: role.map(ROLES.index), kind="stable")["b"]))
    texts, colour, mark = labels_of(names), colours(names), marks(names)
    sizes = [size for size in SIZES if rows.loc[rows["area"] == size, "value"].notna().any()]
    step = 0.7 / max(1, len(names))
    high = height(round(len(sizes) * max(1.0, 0.6 * len(names)))) + 0.3
    figure, grid = panels(1, len(SCORES), TWO_COLUMNS, high, sharey=True)
    for axes, (measure, (title, chance)) in zip(grid[0], SCORES.items(), strict=True):
        for row in rows[(rows["measure"] == measure) & rows["area"].isin(sizes)].itertuples():
            at = sizes.index(row.area) + (names.index(row.b) - (len(names) - 1) / 2) * step
            interval(axes, row, at, color=colour[row.b], fmt=mark[row.b], zorder=4)
        for row in others[(others["measure"] == measure) & others["area"].isin(sizes)].itertuples():
            name = row.b.removesuffix(OTHERS)
            at = sizes.index(row.area) + (names.index(name) - (len(names) - 1) / 2) * step
            axes.plot(row.value, at, "|", color=colour[name], markersize=7, zorder=3)
        if chance is not None:
            axes.axvline(chance, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
        lines(axes, ["all objects" if size == "all" else size for size in sizes], "", title, 5)
    legend_below(
        figure,
        [
            Line2D([], [], color=colour[name], marker=mark[name], markersize=4, linestyle="", label=texts[name])
            for name in names
        ]
        + [stroke()] * bool(len(others)),
    )
    return figure


def levels(rows: pd.DataFrame) -> Figure:
    """Overlap over the levels, a panel for each student, beside maps of other images and of an untrained network."""
    layers = sorted(rows["layer"].unique(), key=_stride)
    found = list(curves(rows.assign(at=rows["layer"].map(layers.index)), "at", ("pair", "a_group", "group")))
    students = [(key, own) for key, own in found if key[0] == "teacher-student"]
    beside = {UNTRAINED: [], SHUFFLED: []}
    for (_, a, b), own in students:
        kinds = {UNTRAINED: own["architecture"].iloc[0], SHUFFLED: b + OTHERS}
        for kind, wanted in kinds.items():
            column = "architecture" if kind == UNTRAINED else "group"
            fits = [each for (pair, of, _), each in found if (pair, of, each[column].iloc[0]) == (kind, a, wanted)]
            beside[kind].append(fits[0] if fits else None)
    named = {NAMES[kind]: each for kind, each in beside.items()}
    figure, shown = in_panels(titled(students), "Overlap with the teacher", named)
    for axes in shown:
        axes.set_xticks(range(len(layers)), [f"{_stride(layer)}" for layer in layers])
    for axes in shown[-4:]:
        axes.set_xlabel("Stride")
    return figure


def _stride(layer: str) -> int:
    return int(layer.rpartition(" ")[2])


def _beside(across: int, down: int, high: float) -> tuple[Figure, list[list[Axes]], Axes]:
    """Panels, and one more on the right that is as high as all of them."""
    figure = Figure(figsize=(TWO_COLUMNS, high), layout="constrained")
    grid = figure.add_gridspec(down, across + 1, width_ratios=[1.0] * across + [1.1])
    return (
        figure,
        [[figure.add_subplot(grid[row, column]) for column in range(across)] for row in range(down)],
        figure.add_subplot(grid[:, -1]),
    )


def errors(rows: pd.DataFrame) -> Figure:
    """For each pair a map of densities, at most four in a row, and after them the shares as bars."""
    keys = list(dict.fromkeys(zip(rows["pair"], rows["b"], strict=True)))
    layers = sorted((layer for layer in rows["layer"].unique() if layer), key=_stride)
    density = rows[rows["measure"] == "error-density"]
    most = density.loc[density["layer"] != "", "value"].max()
    texts = labels_of([b for _, b in keys])
    across = min(4, len(keys))
    down = -(-len(keys) // across)
    high = max(2.0 * down, down * (0.35 + 0.3 * len(layers) + 0.8), 0.35 + 0.25 * len(keys)) + 0.4
    figure, grid, bars = _beside(across, down, high)
    every = [axes for line in grid for axes in line]
    for axes in every[len(keys) :]:
        axes.set_axis_off()
    for k, (axes, (pair, b)) in enumerate(zip(every, keys, strict=False)):
        own = density[(density["pair"] == pair) & (density["b"] == b)]
        values = own.pivot_table(index="layer", columns="region", values="value").reindex(layers).reindex(
            columns=list(REGIONS)
        )  # fmt: skip
        axes.imshow(values, cmap="Reds", vmin=0, vmax=most, aspect="auto")
        for (y, x), value in np.ndenumerate(values.to_numpy(dtype=float)):
            if not math.isnan(value):
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=6.5,
                          color="white" if value > 0.6 * most else "black")  # fmt: skip
        axes.set_xticks(range(len(REGIONS)), REGIONS, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(layers)), layers if k % across == 0 else [""] * len(layers))
        axes.grid(visible=False)
        axes.set_title(texts[b] + (" (floor)" if pair == ALONE else ""))
    colour = colours(list(REGIONS))
    axes, ends = bars, np.zeros(len(keys))
    share = rows[(rows["measure"] == "error-share") & (rows["layer"] == "")]
    for region in REGIONS:
        own = share[share["region"] == region].set_index(["pair", "b"])["value"]
        values = np.array([100 * own.get(key, 0.0) for key in keys])
        axes.barh(range(len(keys)), values, left=ends, height=0.6, color=colour[region], linewidth=0)
        ends += values
    names = [texts[b] + (" (floor)" if pair == ALONE else "") for pair, b in keys]
    lines(axes, names, "", "Share of the error (%)", 4)
    axes.yaxis.tick_right()
    axes.set_xlim(0, 100)
    legend_below(figure, [Patch(color=colour[region], label=region) for region in REGIONS])
    return figure
