"""The figures of `kdscope analyze similarity`: functions of its table.

- similarity-cka, -cka-biased, -procrustes, -knn-jaccard, -rsa: heat maps of teacher's layers by student's, beside those
  of the controls: an independent student, a random one, shuffled images, two seeds of the student.
- similarity-frame: CKA of layers of the same depth, between floor and ceiling.
- similarity-epochs: the same while a student learned, where its run kept probes.
"""

import math
from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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

TAUGHT = "teacher-student"
MEASURES = {
    ("cka", "kdscope"): ("cka", "Debiased linear CKA", (0.0, 1.0)),
    ("cka", "kornblith2019"): ("cka-biased", "Biased linear CKA, for comparison", (0.0, 1.0)),
    ("procrustes", "kdscope"): ("procrustes", "Angular Procrustes distance (rad)", (0.0, math.pi / 2)),
    ("knn-jaccard", "kdscope"): ("knn-jaccard", "Overlap of 10 nearest neighbours (share)", (0.0, 1.0)),
    ("rsa", "kdscope"): ("rsa", "RSA: Spearman of distances", (0.0, 1.0)),
}
CONTROLS = {
    "floor:independent-student": "independent student",
    "floor:random-init": "random init",
    "floor:shuffled": "shuffled images",
    "ceiling:student-seeds": "two seeds of the student",
}
FEW = 5  # layers whose cells have room for the interval
CAPTIONS = {
    "heat": "{}: layers of the teacher (down) by layers of the student (across), of each student and then of controls; "
    "below a value half its interval.",
    "frame": "Debiased linear CKA of each student with its teacher at layers of the same depth. The grey band reaches "
    "from the floor to the ceiling.",
    "epochs": "Debiased linear CKA with the teacher at layers of the same depth while the students learned.",
}


@FIGURES.register("similarity")
def similarity(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure that the table has the rows for, by its file's name."""
    final, probes = _all_seeds(table[table["epoch"].isna()]), _all_seeds(table[table["epoch"].notna()])
    with styled():
        for key, (stem, title, limits) in MEASURES.items():
            rows = final[(final["measure"] == key[0]) & (final["definition"] == key[1])]
            rows = rows[rows["split"] == rows["split"].iloc[-1]] if len(rows) else rows
            told = CAPTIONS["heat"].format(title)
            yield drawn(table, f"similarity-{stem}", rows, partial(heat_maps, rows, title, limits), told)
        cka = (final["measure"] == "cka") & (final["definition"] == "kdscope")
        depths = _same_depth(final[cka & (final["pair"] == TAUGHT)])
        yield drawn(table, "similarity-frame", depths, lambda: frame(depths), CAPTIONS["frame"])
        probes = probes[(probes["measure"] == "cka") & (probes["definition"] == "kdscope")]
        learning = _same_depth(probes)
        yield drawn(table, "similarity-epochs", learning, lambda: over_epochs(learning), CAPTIONS["epochs"])


def _all_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all seeds together where there are any, else the first of the others."""
    together = rows.groupby(["pair", "group", "a_group", "split"])["seed"].transform(lambda s: (s == "all").any())
    rows = rows[~together.astype(bool) | (rows["seed"] == "all")]
    keys = ["pair", "group", "a_group", "split", "measure", "definition", "layer_a", "layer_b", "epoch"]
    return rows.drop_duplicates(keys)


def _same_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of layers of one name; where no name is shared, of one place in the order."""
    same = rows["layer_a"] == rows["layer_b"]
    if not same.any():
        a, b = ({name: k for k, name in enumerate(dict.fromkeys(rows[side]))} for side in ("layer_a", "layer_b"))
        same = rows["layer_a"].map(a) == rows["layer_b"].map(b)
    return rows[same]


def heat_maps(rows: pd.DataFrame, title: str, limits: tuple[float, float]) -> Figure:
    """A matrix of layers for each student and its teacher, then those of the controls, all in one scale of colours."""
    chosen = list(_matrices(rows))
    layers = max(len(matrix["layer_b"].unique()) for _, matrix in chosen)
    across = min(len(chosen), 4 if layers <= FEW else 3 if layers <= 8 else 2)
    down = math.ceil(len(chosen) / across)
    width = TWO_COLUMNS if across > 1 else TWO_COLUMNS / 2
    side = (width - 0.7) / across
    figure, grid = panels(down, across, width, down * (side + 0.25) + 0.45)
    cells = [axes for line in grid for axes in line]
    image = None
    for axes, (name, matrix) in zip(cells, chosen, strict=False):
        image = _heat_map(axes, matrix, limits, side)
        axes.set_title(name, fontsize=7)
    for axes in cells[len(chosen) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=cells, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label(title)
    bar.outline.set_visible(False)
    return figure


def _matrices(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each student with its teacher, then each control once, on the last split."""
    rows = rows[rows["split"] == rows["split"].iloc[-1]]
    taught = rows[rows["pair"] == TAUGHT]
    short = short_names([*taught["b"], *taught["a"]], 24)
    for (b, a), matrix in taught.groupby(["b", "a"], sort=False):
        yield f"{short[b]}\nby {short[a]}", matrix
    for kind, words in CONTROLS.items():
        control = rows[rows["pair"] == kind]
        if len(control):
            first = control.iloc[0]
            matrix = control[(control["a"] == first["a"]) & (control["b"] == first["b"])]
            again = kind.startswith("ceiling")
            named = short_names([first["a"], first["b"]], 14 if again else 24)
            beside = f"{named[first['a']]} and {named[first['b']]}" if again else f"against {named[first['a']]}"
            yield f"{words}\n{beside}", matrix


def _heat_map(axes: Axes, matrix: pd.DataFrame, limits: tuple[float, float], side: float):
    down, across = (list(dict.fromkeys(matrix[name])) for name in ("layer_a", "layer_b"))
    places = pd.MultiIndex.from_product([down, across])
    cells = matrix.set_index(["layer_a", "layer_b"])[["value", "ci_low", "ci_high"]].reindex(places)
    values = cells["value"].to_numpy().reshape(len(down), len(across))
    palette = colormaps["viridis"].with_extremes(bad="0.85")
    image = axes.imshow(values, cmap=palette, vmin=limits[0], vmax=limits[1], aspect="auto")
    size = min(7.0, 0.4 * 72 * (side - 0.35) / max(len(across), len(down)))
    for i, a in enumerate(down):
        for j, b in enumerate(across):
            row = cells.loc[(a, b)]
            text = _number(row.value)
            if len(across) <= FEW and not math.isnan(row.ci_high - row.ci_low):
                text += f"\n±{_number((row.ci_high - row.ci_low) / 2)}"
            bright = (values[i, j] - limits[0]) / (limits[1] - limits[0]) > 0.6
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color="black" if bright else "white")
    short = short_names([*down, *across], 11)
    axes.set_xticks(
        range(len(across)),
        [short[name] for name in across],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        fontsize=6,
    )
    axes.set_yticks(range(len(down)), [short[name] for name in down], fontsize=6)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=1)
    return image


def _number(value: float) -> str:
    """As .74, -.02, 1.00; an undefined one is a dash."""
    if math.isnan(value):
        return "–"
    text = f"{value:.2f}".replace("0.", ".", 1)
    return ".00" if text == "-.00" else text.replace("-", "−")


def frame(rows: pd.DataFrame) -> Figure:
    """CKA of each student with its teacher at each depth, with its interval; the band is from floor to ceiling."""
    rows = rows[rows["split"] == rows["split"].iloc[-1]]
    short = short_names([*rows["b"], *rows["a"]], 24)
    rows = rows.assign(label=rows["b"].map(short) + "\nby " + rows["a"].map(short))
    depths, order = list(dict.fromkeys(rows["layer"])), list(dict.fromkeys(rows["label"]))
    across = min(len(depths), 4)
    down = math.ceil(len(depths) / across)
    figure, grid = panels(
        down, across, TWO_COLUMNS, down * (0.85 + 1.3 * ROW * max(2, len(order))) + 0.3, sharey=True, sharex=True
    )
    colour = colours(["student", "floor", "ceiling"])
    panel = [axes for line in grid for axes in line]
    for axes, depth in zip(panel, depths, strict=False):
        for row in rows[rows["layer"] == depth].itertuples():
            at = order.index(row.label)
            if not math.isnan(row.floor + row.ceiling):
                ends = sorted((row.floor, row.ceiling))
                axes.barh(at, ends[1] - ends[0], left=ends[0], height=0.62, color=BAND, linewidth=0, zorder=1)
            for name, value in (("floor", row.floor), ("ceiling", row.ceiling)):
                if not math.isnan(value):
                    axes.plot([value] * 2, [at - 0.31, at + 0.31], color=colour[name], linewidth=1.5, zorder=2)
            if not math.isnan(row.value):
                interval(axes, row, at, color=colour["student"], zorder=4)
        axes.set_title(depth)
        axes.set_xlabel("Debiased linear CKA")
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes in panel[len(depths) :]:
        axes.set_axis_off()
    sure = rows["confidence"].iloc[0]
    said = dict.fromkeys(part for text in rows["control"].dropna() for part in text.split("; ") if part)
    handles = [Line2D([], [], color=colour["student"], marker="o", markersize=4, label=f"student, {sure:.0%} interval")]
    handles += [Line2D([], [], color=colour[part.split(":")[0]], linewidth=1.5, label=part) for part in said]
    legend_below(figure, handles)
    return figure


def over_epochs(rows: pd.DataFrame) -> Figure:
    """CKA at each depth over epochs, a panel for each student."""
    rows = rows[rows["split"] == rows["split"].iloc[-1]]
    names, depths = list(dict.fromkeys(rows["b"])), list(dict.fromkeys(rows["layer"]))
    short = short_names(names, 28)
    across = min(len(names), 3)
    down = math.ceil(len(names) / across)
    figure, grid = panels(down, across, TWO_COLUMNS if across > 1 else TWO_COLUMNS / 2, 2.1 * down + 0.4, sharey=True)
    colour, dash = colours(depths), marks(depths, DASHES)
    panel = [axes for line in grid for axes in line]
    for axes, name in zip(panel, names, strict=False):
        for depth in depths:
            own = rows[(rows["b"] == name) & (rows["layer"] == depth)].sort_values("epoch")
            own = own.drop_duplicates("epoch")
            epochs = own["epoch"].astype(float)
            axes.plot(epochs, own["value"], dash[depth], color=colour[depth], marker=".", markersize=4)
            axes.fill_between(epochs, own["ci_low"], own["ci_high"], color=colour[depth], alpha=0.15, linewidth=0)
        alone = (rows.loc[rows["b"] == name, "pair"] != TAUGHT).all()
        axes.set_title(f"{short[name]} (no teacher)" if alone else short[name])
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for line in grid:
        line[0].set_ylabel("Debiased linear CKA")
    for axes in panel[len(names) :]:
        axes.set_axis_off()
    legend_below(figure, [Line2D([], [], color=colour[d], linestyle=dash[d], label=d) for d in depths])
    return figure
