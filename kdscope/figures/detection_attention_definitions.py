"""The same attention by several definitions: `detection-attention-definitions`, between its floors.

Columns are definitions, the upper row is the overlap with the teacher and the lower one that with the boxes; a line for
each network and each floor, a mark for each level of the pyramid.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures.detection_rows import height, labels_of, lines
from kdscope.figures.fidelity_rows import ALONE
from kdscope.figures.style import TWO_COLUMNS, colours, interval, legend_below, marks, panels

UNTRAINED, SHUFFLED = "floor:random-init", "floor:shuffled"
OTHERS = " (shuffled images)"
FLOORS = (UNTRAINED, SHUFFLED)
TEACHER, BOXES = "with the teacher", "with the boxes"
MEASURES = {TEACHER: "attention-overlap", BOXES: "area-matched-iou"}
GUO = "threshold-iou"
TITLES = {"kdscope": "kdscope: cells", "image-size": "image-size: pixels", "guo2024-code": "guo2024-code: cut, pooled"}
CAPTION = (
    "Overlap of attention with the teacher's, and with the boxes, by level. kdscope: of as many cells as objects have. "
    "image-size: maps interpolated to the image, and as many pixels as objects have. guo2024-code: pixels above 0.4 of "
    "a map's range, pooled over batches; its areas differ from map to map, so that it has no one chance level. "
    "Hollow: floors (a student alone, the student's architecture before training). Upright strokes: the same network's "
    "maps of other images."
)


def several(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the figure: of each level, of all objects; none where there is one definition.

    Args:
        rows: of one split, all seeds of a way of training together, with texts in place of missing ones.
    """
    overlaps = rows["measure"].isin((*MEASURES.values(), GUO)) & (rows["area"] == "all") & (rows["layer"] != "")
    # Overlaps at equal areas are of ranks, which no unit changes: "normalised" would be the same.
    kept = rows[
        overlaps & rows["definition"].isin(TITLES) & rows["pair"].isin(("truth", "teacher-student", ALONE, *FLOORS))
    ]
    return kept if kept["definition"].nunique() > 1 else kept[:0]


def stroke() -> Line2D:
    """What stands for a network's maps of other images in a legend."""
    return Line2D([], [], color="0.4", marker="|", markersize=7, linestyle="", label="its maps of other images")


def definitions(rows: pd.DataFrame) -> Figure:
    """A panel for each definition and what is looked at, by network and level."""
    names = [name for name in TITLES if (rows["definition"] == name).any()]
    layers = sorted(rows["layer"].unique(), key=lambda layer: int(layer.rpartition(" ")[2]))
    boxes = rows["a"] == "true boxes"
    parts = {what: own for what, own in ((TEACHER, rows[~boxes]), (BOXES, rows[boxes])) if len(own)}
    texts = {what: _texts(own[own["pair"] != SHUFFLED]) for what, own in parts.items()}
    colour, mark, step = colours(layers), marks(layers), 0.7 / len(layers)
    counts = [len(own) for own in texts.values()]
    options = {"sharey": "row", "sharex": True, "gridspec_kw": {"height_ratios": counts}}
    high = height(round(1.3 * sum(counts))) + 0.5 * len(parts)
    figure, grid = panels(len(parts), len(names), TWO_COLUMNS, high, **options)
    for line, (what, own) in zip(grid, parts.items(), strict=True):
        places = [b for _, b in texts[what]]
        for axes, name in zip(line, names, strict=True):
            seen = own[(own["definition"] == name) & own["measure"].isin((MEASURES[what], GUO))]
            for row in seen[seen["b"].str.removesuffix(OTHERS).isin(places)].itertuples():
                at = places.index(row.b.removesuffix(OTHERS)) + step * (layers.index(row.layer) - (len(layers) - 1) / 2)
                if row.pair == SHUFFLED:
                    axes.plot(row.value, at, "|", color=colour[row.layer], markersize=6, zorder=3)
                    continue
                face = {"markerfacecolor": "white"} if row.pair.startswith("floor:") else {}
                interval(axes, row, at, color=colour[row.layer], fmt=mark[row.layer], zorder=4, **face)
            lines(axes, list(texts[what].values()), TITLES[name] if line is grid[0] else "", f"IoU {what}", 4)
    legend_below(
        figure,
        [
            Line2D([], [], color=colour[layer], marker=mark[layer], markersize=4, linestyle="", label=layer)
            for layer in layers
        ]
        + [stroke()],
    )
    return figure


def _texts(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """A text for each network and floor, networks first."""
    keys = list(dict.fromkeys(zip(rows["pair"], rows["b"], strict=True)))
    keys.sort(key=lambda key: key[0].startswith("floor:"))
    short = labels_of([b for pair, b in keys if pair != UNTRAINED])
    named = {UNTRAINED: "untrained", ALONE: "{} (floor)"}
    return {(pair, b): named.get(pair, "{}").format(short.get(b)) for pair, b in keys}
