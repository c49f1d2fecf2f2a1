"""The figures of `kdscope analyze diversity`: functions of its table.

- diversity-networks: disagreement between networks, what ensembles gain, and the entropy of each network.
- diversity-views: each augmentation: what it does to the accuracy of each network, and to its loss on train.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn, endings
from kdscope.figures.style import ROW, TWO_COLUMNS, colours, interval, legend_below, marks, panels, short_names, styled

GAINS = {"ensemble-gain": "mean member", "ensemble-gain-best": "best member"}
COMPARED = ("teacher-teacher", "ceiling:teacher-seeds", "student-student", "ceiling:student-seeds")
DISAGREEMENT, GAIN, ENTROPY = "Disagreement (% of images)", "Ensemble gain (points)", "Entropy (nats)"
NETWORKS = {DISAGREEMENT: ["disagreement"], GAIN: list(GAINS), ENTROPY: ["predictive-entropy"]}
VIEWS = {
    "affinity": "Affinity (ratio)",
    "accuracy-shift": "Accuracy shift (points)",
    "view-diversity": "Diversity (ratio)",
}


CAPTIONS = {
    "networks": "How often two networks disagree, what ensembles gain over their members, and the entropy of each.",
    "views": "What each augmentation does to networks: accuracy on it relative to none (affinity), the shift in "
    "points, and the training loss relative to none (diversity).",
}


@FIGURES.register("diversity")
def diversity(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """Each figure for each split, by its file's name."""
    keys = table[["measure", "definition", "pair", "role", "group", "split", "shown"]].fillna("").agg("\0".join, axis=1)
    several = set(keys[table["seed"] == "all"])
    rows = table[((table["seed"] == "all") | ~keys.isin(several)) & (table["role"] != "random-init")]
    plain, of_view = rows[rows["pair"] != "view"], rows[rows["pair"] == "view"]
    shown = [name for names in NETWORKS.values() for name in names]
    with styled():
        for split, end in endings(plain if len(plain) else table).items():
            own = plain[(plain["split"] == split) & plain["measure"].isin(shown)]
            yield drawn(table, f"diversity-networks{end}", own, partial(networks, own), CAPTIONS["networks"])
            on = of_view[(of_view["split"] == split) | (of_view["measure"] == "view-diversity")]
            on = on[on["measure"].isin(VIEWS)]
            yield drawn(table, f"diversity-views{end}", on, partial(views, on), CAPTIONS["views"])


def networks(rows: pd.DataFrame) -> Figure:
    """Up to three panels of dots with intervals; grey ticks are floor and ceiling."""
    parts = {title: rows[rows["measure"].isin(names)] for title, names in NETWORKS.items()}
    parts = {title: part for title, part in parts.items() if len(part)}
    for title, part in parts.items():
        if title == DISAGREEMENT:
            part = part.sort_values("pair", key=lambda pair: pair.map(COMPARED.index), kind="stable")
        parts[title] = part.assign(label=[_label(row) for row in part.itertuples()])
    most = max(part["label"].nunique() for part in parts.values())
    shade = colours(list(GAINS.values()))
    figure, [line] = panels(1, len(parts), TWO_COLUMNS, 1.0 + 1.25 * ROW * max(3, most))
    for axes, (title, part) in zip(line, parts.items(), strict=True):
        order = _rows(axes, part["label"], most)
        scale = 1 if title == ENTROPY else 100
        for row in part.itertuples():
            name = GAINS.get(row.measure)
            at = order[row.label] + {"mean member": 0.15, "best member": -0.15}.get(name, 0)
            if title == DISAGREEMENT:
                for bound, dash in ((row.floor, "-"), (row.ceiling, ":")):
                    axes.plot([100 * bound] * 2, [at - 0.25, at + 0.25], dash, color="0.45", linewidth=1.2)
            row = row._replace(value=scale * row.value, ci_low=scale * row.ci_low, ci_high=scale * row.ci_high)
            interval(axes, row, at, color=shade[name] if name else "0.15", zorder=3)
        if title == GAIN:
            axes.axvline(0, color="0.45", linewidth=0.8)
        else:
            axes.margins(x=0.08)  # a dot at the end is whole
            axes.set_xlim(left=0)
        axes.set_xlabel(title)
    sure = f"{rows['confidence'].iloc[0]:.0%}"
    handles = [Line2D([], [], color="0.15", marker="o", markersize=4, label=f"value, {sure} interval")]
    if DISAGREEMENT in parts:
        for dash, text in (
            ("-", "floor: two seeds, else |difference of accuracies|"),
            (":", "independent given the class"),
        ):
            handles.append(Line2D([], [], color="0.45", linewidth=1.2, linestyle=dash, label=text))
    if GAIN in parts:
        for name, colour in shade.items():
            handles.append(Line2D([], [], color=colour, marker="o", markersize=4, label=f"gain over the {name}"))
    legend_below(figure, handles)
    return figure


def _label(row: tuple) -> str:
    """Who it is about, short: two seeds are one name, two networks have a line each."""
    if row.measure != "disagreement":
        return row.b
    return f"{row.group}: seeds" if row.pair.startswith("ceiling:") else f"{row.a}\n| {row.b}"


def _rows(axes: Axes, labels: pd.Series, most: int) -> dict[str, int]:
    """A line for each label, the first on top, and as far apart as in the panel that has most of them."""
    listed = list(dict.fromkeys(labels))
    texts = short_names([part for label in listed for part in label.split("\n")], 24)
    order = {label: most - 1 - k for k, label in enumerate(listed)}
    texts_of = ["\n".join(texts[part] for part in label.split("\n")) for label in listed]
    axes.set_yticks(list(order.values()), texts_of, fontsize=6)
    axes.set_ylim(-0.6, most - 0.4)
    axes.grid(axis="y", visible=False)
    return order


def views(rows: pd.DataFrame) -> Figure:
    """A panel for each measure: networks down the side, a colour for each augmentation; the line changes nothing."""
    sound = rows["definition"] == "kdscope"
    rows = rows[sound | ~rows["measure"].isin(rows.loc[sound, "measure"])]
    shown = [name for name in VIEWS if (rows["measure"] == name).any()]
    listed = list(dict.fromkeys(rows["shown"]))
    shade, mark, step = colours(listed), marks(listed), 0.6 / max(1, len(listed))
    most = rows["b"].nunique()
    figure, [line] = panels(1, len(shown), TWO_COLUMNS, 0.9 + 1.3 * ROW * max(3, most), sharey=True)
    for axes, measure in zip(line, shown, strict=True):
        order = _rows(axes, rows["b"], most)
        scale = 100 if measure == "accuracy-shift" else 1
        part = rows[rows["measure"] == measure]
        axes.axvline(part["floor"].iloc[0], color="0.45", linewidth=0.8)
        for row in part.itertuples():
            at = order[row.b] + step * ((len(listed) - 1) / 2 - listed.index(row.shown))
            row = row._replace(value=scale * row.value, ci_low=scale * row.ci_low, ci_high=scale * row.ci_high)
            interval(axes, row, at, color=shade[row.shown], fmt=mark[row.shown])
        if measure == "view-diversity":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            if np.ptp(np.log10(axes.get_xlim())) < 0.4:  # no two of 1, 2, 5 lie in it
                axes.xaxis.set_major_locator(MaxNLocator(4))
        code = (part["definition"] != "kdscope").all()
        axes.set_xlabel(VIEWS[measure].replace("(ratio)", "by guo2024-code (ratio)") if code else VIEWS[measure])
    sure = f"{rows['confidence'].iloc[0]:.0%}"
    handles = [
        Line2D([], [], color=shade[n], marker=mark[n], markersize=4, label=f"{n}, {sure} interval") for n in listed
    ]
    handles.append(Line2D([], [], color="0.45", linewidth=0.8, label="a view that changes nothing"))
    legend_below(figure, handles)
    return figure
