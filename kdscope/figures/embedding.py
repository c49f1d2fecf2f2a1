"""The figures of `kdscope analyze embedding`: functions of its table.

- embedding-tsne, embedding-pca: the same images in the same colours, a panel for each network.
- embedding-class-relations: teacher's minus student's correlations of classes (Tian et al. 2020, figure 4).
"""

import math
from collections.abc import Iterator
from functools import partial

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn
from kdscope.figures.style import TWO_COLUMNS, legend_below, panels, short_names, styled

NAMED = 20  # classes that a legend or an axis has room for
AXES = {"tsne": "t-SNE", "pca": "PCA"}
CAPTIONS = {
    "maps": "The same images as each network sees them ({}), a colour for each class. Above: the share of nearest "
    "neighbours that are of the same class.",
    "relations": "Correlations of the logits of classes: the teacher's less the student's, after Tian et al. 2020.",
}


@FIGURES.register("embedding")
def embedding(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure that the table has the rows for, by its file's name."""
    with styled():
        for measure in AXES:
            rows = _as_text(table[table["measure"] == measure], "class")
            told = CAPTIONS["maps"].format(AXES[measure])
            yield drawn(table, f"embedding-{measure}", rows, partial(maps, rows, AXES[measure]), told)
        cells = _as_text(table[table["measure"] == "class-correlation-difference"], "class_a", "class_b")
        yield drawn(table, "embedding-class-relations", cells, lambda: relations(cells), CAPTIONS["relations"])


def _as_text(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """With names of classes as text: in a CSV, a class "7" becomes the number 7.0 beside empty cells."""
    return rows.assign(**{name: [f"{c:g}" if isinstance(c, float) else str(c) for c in rows[name]] for name in columns})


def maps(rows: pd.DataFrame, title: str) -> Figure:
    """A panel for each network; each class has one colour in all of them."""
    names, classes = list(dict.fromkeys(rows["a"])), list(dict.fromkeys(rows["class"]))
    classes.sort(key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    palette = sns.color_palette("colorblind" if len(classes) <= 10 else "husl", len(classes))
    colour = dict(zip(classes, palette, strict=True))
    short = short_names(names, 26)
    figure, panel = _grid(len(names), 2.45, 0.2 + 0.16 * (math.ceil(len(classes) / 8) if len(classes) <= NAMED else 0))
    for axes, name in zip(panel, names, strict=False):
        own = rows[rows["a"] == name]
        axes.scatter(
            own["x"], own["y"], s=max(1.5, 12 - len(own) / 200), c=[colour[c] for c in own["class"]],
            linewidths=0, alpha=0.8, rasterized=True,
        )  # fmt: skip
        axes.set_title(f"{short[name]}\n{own['value'].mean():.0%} of near images share the class", fontsize=7)
        axes.set_xlabel(f"{title} 1", fontsize=7)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(f"{title} 2", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_box_aspect(1)
    if len(classes) <= NAMED:
        legend_below(
            figure,
            [Line2D([], [], color=colour[c], marker="o", linestyle="", markersize=4, label=c) for c in classes],
        )
    return figure


def relations(cells: pd.DataFrame) -> Figure:
    """A matrix of classes for each student, with its teacher, all in one scale around 0."""
    keys = list(dict.fromkeys(zip(cells["b"], cells["a"], cells["pair"], strict=True)))
    names = short_names([*cells["a"], *cells["b"]], 24)
    limit = max(0.05, float(cells["value"].abs().max()))
    figure, panel = _grid(len(keys), 2.4, 0.45)
    image = None
    for axes, (b, a, pair) in zip(panel, keys, strict=False):
        own = cells[(cells["a"] == a) & (cells["b"] == b) & (cells["pair"] == pair)]
        order = list(dict.fromkeys(own["class_a"]))
        matrix = own.pivot(index="class_a", columns="class_b", values="value").loc[order, order]
        image = axes.imshow(matrix.to_numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        alone = "" if not pair.startswith("floor") else " (no teacher)"
        mean = own.loc[own["class_a"] != own["class_b"], "value"].abs().mean()
        axes.set_title(f"{names[a]} − {names[b]}{alone}\nmean |difference| {mean:.3f}", fontsize=7)
        shown = range(len(order)) if len(order) <= NAMED else []
        short = short_names(order, 10)
        turned = 90 if len(max(order, key=len)) > 2 else 0
        axes.set_xticks(shown, [short[order[k]] for k in shown], fontsize=6, rotation=turned)
        axes.set_yticks(shown, [short[order[k]] for k in shown], fontsize=6)
        axes.set_xlabel("Class")
        axes.set_ylabel("Class")
        axes.grid(visible=False)
    bar = figure.colorbar(image, ax=panel, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("Difference of the correlations of logits")
    bar.outline.set_visible(False)
    return figure


def _grid(count: int, side: float, more: float) -> tuple[Figure, list]:
    """Up to three panels abreast, and `more` inches below."""
    across = min(3, count)
    down = math.ceil(count / across)
    figure, grid = panels(down, across, TWO_COLUMNS if across > 1 else TWO_COLUMNS / 2, down * (side + 0.35) + more)
    panel = [axes for line in grid for axes in line]
    for axes in panel[count:]:
        axes.set_axis_off()
    return figure, panel
