"""What features tell of labels, of the teacher's soft labels and of its features: a panel for each measure."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdscope.figures.style import ROW, TWO_COLUMNS, colours, interval, legend_below, marks, panels, short_names

PANELS = {
    "usable-labels": "I_V, labels (nats)",
    "usable-soft": "I_V, soft labels (nats)",
    "usable-beyond": "I_V, soft beyond hard labels (nats)",
    "ksg-features": "Neighbours, of few components (nats)",
    "infonce-features": "InfoNCE, at least (nats)",
}
KINDS = {
    "teacher-student": "student",
    "ensemble-student": "student, by the ensemble",
    "floor:independent-student": "independent student",
    "floor:random-init": "untrained network",
}
ACROSS = 3


def features(rows: pd.DataFrame) -> Figure:
    """A line for each training, layer and teacher, on it a dot for each seed; marks of floors and ceilings."""
    rows = rows.assign(label=_labels(rows), kind=rows["pair"].map(KINDS))
    rows = rows.sort_values("pair", key=lambda pairs: pairs.map(list(KINDS).index), kind="stable")
    order = list(dict.fromkeys(rows["label"]))[::-1]
    shown = [name for name in PANELS if (rows["measure"] == name).any()]
    kinds = [kind for kind in KINDS.values() if (rows["kind"] == kind).any()]
    colour, mark = colours([*KINDS.values(), "floor", "ceiling"]), marks(list(KINDS.values()))
    across = 2 if len(shown) == 4 else min(ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    line = ROW * (1 + 0.4 * max(label.count("\n") for label in order))
    figure, grid = panels(down, across, TWO_COLUMNS, 0.6 + down * (0.5 + line * max(3, len(order))), sharey=True)
    places = [axes for part in grid for axes in part]
    for axes, name in zip(places, shown, strict=False):
        for row in rows[rows["measure"] == name].itertuples():
            at = order.index(row.label) + _aside(row.b, rows.loc[rows["label"] == row.label, "b"])
            interval(axes, row, at, color=colour[row.kind], fmt=mark[row.kind], markersize=3.5, zorder=3)
            for side in ("floor", "ceiling"):
                axes.plot([getattr(row, side)] * 2, [at - 0.15, at + 0.15], color=colour[side], linewidth=1.5, zorder=2)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(PANELS[name])
    for axes in places[len(shown) :]:
        axes.remove()
    handles = [Line2D([], [], color=colour[kind], marker=mark[kind], markersize=4, label=kind) for kind in kinds]
    said = {"floor": "shuffled images", "ceiling": "ln of the candidates: no bound is above"}
    known = [side for side in said if rows[side].notna().any()]
    handles += [Line2D([], [], color=colour[side], linewidth=1.5, label=said[side]) for side in known]
    legend_below(figure, handles)
    return figure


def _aside(name: str, names: pd.Series) -> float:
    """Where on its line, 0.6 high, a network stands among those of the same training."""
    names = list(dict.fromkeys(names))
    return 0.6 * ((len(names) - 1) / 2 - names.index(name)) / len(names)


def _labels(rows: pd.DataFrame) -> pd.Series:
    label = rows["group"].map(short_names(rows["group"], 22))
    if rows["a"].nunique() > 1:
        label = label + "\nby " + rows["a"].map(short_names(rows["a"], 22))
    if rows["layer"].nunique() > 1:
        label = label + "\n" + rows["layer"].map(short_names(rows["layer"], 22))
    return label
