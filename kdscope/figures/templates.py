"""The figures of `kdscope analyze templates`: functions of its table.

- templates-use: the templates that are used most, and how pure in classes each is, beside shuffled labels.
- templates-ablation: accuracy as the layers count less, add the same everywhere, or lose what matched.

`templates-gallery` (`kdscope.figures.gallery`) shows where the templates match.
"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn
from kdscope.figures.style import (
    BAND,
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

CAPTIONS = {
    "use": "The templates that are used most (left; dotted: all used alike), and the share of the commonest class "
    "among what each matches (right; crosses: with shuffled labels).",
    "ablation": "Accuracy as the layers count less (left), and where all places get the mean or lose their largest "
    "assignments (right). The grey band is the network as it is.",
}


@FIGURES.register("templates")
def templates(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure, by its file's name."""
    with styled():
        used = table[table["template"].notna() & ((table["measure"] == "use") | (table["change"] == "by use"))]
        yield drawn(table, "templates-use", used, lambda: use(used), CAPTIONS["use"])
        changed = table[table["measure"] == "accuracy"]
        yield drawn(table, "templates-ablation", changed, lambda: ablation(changed), CAPTIONS["ablation"])


def use(rows: pd.DataFrame) -> Figure:
    """A row of panels for each network and layer: use on the left, purity on the right, crosses for shuffled labels."""
    groups = list(rows.groupby(["b", "layer"], sort=False))
    most = max(len(own[own["measure"] == "use"]) for _, own in groups)
    figure, grid = panels(
        len(groups), 2, TWO_COLUMNS, 0.7 + len(groups) * (0.5 + 0.6 * ROW * max(most, 9)), sharey="row"
    )
    names = short_names(dict.fromkeys(name for (name, _), _ in groups), 24)
    colour = colours(["use", "purity"])
    for line, ((name, layer), own) in zip(grid, groups, strict=True):
        for axes, measure in zip(line, ("use", "purity"), strict=True):
            part = own[own["measure"] == measure].sort_values("rank")
            for row in part.itertuples():
                interval(axes, row, -row.rank, color=colour[measure], fmt="o")
            if measure == "purity":
                axes.plot(part["floor"], -part["rank"], "x", color="0.3", markersize=4)
                axes.set_xlim(0, 1.02)
            else:
                axes.axvline(part["floor"].iloc[0], color="0.3", linestyle=":")
                axes.set_xlim(left=0)
            labels = [f"{int(k)}: {_name(c)}" for k, c in zip(part["template"], part["class"], strict=True)]
            axes.set_yticks(-part["rank"].astype(int), labels, fontsize=6)
            axes.grid(axis="y", visible=False)
        line[0].set_title(f"{names[name]}: {layer}", fontsize=7)
        line[0].set_ylabel("Template: its commonest class")
    grid[-1][0].set_xlabel("Share of all places (dotted: all used alike)")
    grid[-1][1].set_xlabel("Share of the commonest class")
    handles = [Line2D([], [], color=colour[m], marker="o", linestyle="", label=m) for m in ("use", "purity")]
    handles.append(Line2D([], [], color="0.3", marker="x", linestyle="", label="purity with shuffled labels"))
    legend_below(figure, handles)
    return figure


def _name(text: object) -> str:
    """The name of a class; those that are numbers come from a CSV as 8.0."""
    return f"{text:g}" if isinstance(text, float) else str(text)


def ablation(rows: pd.DataFrame) -> Figure:
    """Left: accuracy over alpha. Right: where all places get the mean, and without the largest assignments of each.

    The grey band is the network as it is.
    """
    networks = list(dict.fromkeys(rows["b"]))
    layers = list(dict.fromkeys(rows.loc[rows["change"] != "none", "layer"]))
    colour, mark, names = colours(layers), marks(layers), short_names(networks, 24)
    figure, grid = panels(len(networks), 2, TWO_COLUMNS, 0.7 + 1.9 * len(networks), sharey="row")
    for line, network in zip(grid, networks, strict=True):
        own = rows[rows["b"] == network]
        whole = own[own["change"] == "none"].iloc[0]
        for axes in line:
            axes.axhspan(whole["ci_low"], whole["ci_high"], color=BAND, linewidth=0)
        for k, layer in enumerate(layers):
            here, aside = own[own["layer"] == layer], k - (len(layers) - 1) / 2  # beside each other
            style = {"color": colour[layer], "fmt": mark[layer], "upright": True}
            alphas = here[here["change"] == "alpha"].sort_values("amount")
            for row in alphas.itertuples():
                interval(line[0], row, row.amount + 0.02 * aside, **style)
            ends = [*(alphas["amount"] + 0.02 * aside), 1.0], [*alphas["value"], whole["value"]]
            line[0].plot(*ends, color=colour[layer], linewidth=0.8)
            tops = here[here["change"] == "without-top"].sort_values("amount")
            for place, row in enumerate(tops.itertuples(), 1):
                interval(line[1], row, place + 0.1 * aside, **style)
            places = [place + 0.1 * aside for place in range(1, len(tops) + 1)]
            line[1].plot(places, tops["value"], color=colour[layer], linewidth=0.8)
            for row in here[here["change"] == "mean"].itertuples():
                interval(line[1], row, 0.1 * aside, **style)
        line[1].set_xticks(range(len(tops) + 1), ["mean", *(f"{amount:g}" for amount in tops["amount"])])
        line[0].set_ylabel("Accuracy (share)")
        line[0].set_title(names[network])
    grid[-1][0].set_xlabel("alpha at test time over that of training")
    grid[-1][1].set_xlabel("Mean: the same everywhere; k: without the k largest")
    legend_below(figure, [Line2D([], [], color=colour[k], marker=mark[k], label=f"changed: {k}") for k in layers])
    return figure
