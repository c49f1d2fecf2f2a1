"""The figures of Guo et al. (arXiv 2405.00739), from published numbers, from kdscope's, or from both below each other.

Each scatter shows what the paper's do, and what they do not: the line within the students of one augmentation beside
the line over all. What no rows are there for (`kdscope.figures.rethinkkd_rows`) is not drawn.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdscope.figures import FIGURES
from kdscope.figures.points import name_points
from kdscope.figures.rethinkkd_bars import beside, others
from kdscope.figures.rethinkkd_rows import (
    COMPARISONS,
    DATASETS,
    MEASURES,
    RELATIONS,
    STUDENTS,
    Relation,
    correlation,
    pairs,
)
from kdscope.figures.style import ONE_COLUMN, TWO_COLUMNS, colours, legend_below, panels, styled, tell
from kdscope.measures.correlation import Correlation

HOW = (
    "A point for each trial, named by the augmentation (w weak, s strong) of teacher 1 and teacher 2. Lines are least "
    "squares over all trials (dashed) and within the students of one augmentation; centred: r after each of these two "
    "groups' mean was taken off."
)
FLOOR = "Dotted: what two independent maps score by the paper's definition ({:.3f})."


@FIGURES.register("rethinkkd")
def rethinkkd(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """All panels that there are numbers for; of the CSV that lies beside a figure, that figure."""
    known = {"f1": _teaser}
    known |= {relation.stem: partial(scatter, relations=[relation], place=relation.place) for relation in RELATIONS}
    known |= {comparison.stem: partial(beside, comparison=comparison) for comparison in COMPARISONS}
    known["g5"] = others
    asked = set(table["figure"].dropna()) if "figure" in table else set(known)
    with styled():
        for stem in (stem for stem in known if stem in asked and len(table)):
            figure = known[stem](table)
            if figure is not None:
                rows, caption = figure.told
                yield f"rethinkkd-{stem}", tell(figure, rows.assign(figure=stem), caption)


def _teaser(table: pd.DataFrame) -> Figure | None:
    """Two relations on the first dataset by the first definition."""
    first = table.iloc[0]
    of_one = table[(table["dataset"] == first["dataset"]) & (table["definition"] == first["definition"])]
    return scatter(of_one, [r for r in RELATIONS if r.stem in ("f2", "f3")], "Figure 1, middle and right")


def scatter(table: pd.DataFrame, relations: Sequence[Relation], place: str) -> Figure | None:
    """Panels for each dataset (and relation), rows for each definition: points, lines, and what correlates."""
    cells = {
        (definition, relation, dataset): both
        for definition in dict.fromkeys(table["definition"])
        for relation in relations
        for dataset in DATASETS
        if len(both := pairs(table, relation, dataset, definition)) > 1
    }
    if {relation for _, relation, _ in cells} != set(relations):
        return None
    rows = list(dict.fromkeys(definition for definition, _, _ in cells))
    columns = sorted({key[1:] for key in cells}, key=lambda c: ([*DATASETS].index(c[1]), relations.index(c[0])))
    narrow = len(columns) > 3
    width = TWO_COLUMNS if len(columns) > 1 else ONE_COLUMN
    figure, grid = panels(len(rows), len(columns), width, 0.35 + (2.5 if narrow else 2.75) * len(rows))
    colour = colours([*STUDENTS])
    for (definition, relation, dataset), both in cells.items():
        axes = grid[rows.index(definition)][columns.index((relation, dataset))]
        _panel(axes, both, colour)
        axes.locator_params(axis="x", nbins=3 if narrow else 5)
        axes.set_xlabel(fill(MEASURES[relation.x], 24) if narrow else MEASURES[relation.x])
        axes.set_title(
            f"{DATASETS[dataset]}\n{_told(correlation(both), narrow)}".replace("-0.", "−0."), loc="left", fontsize=6
        )
    for line, definition in zip(grid, rows, strict=True):
        line[0].set_ylabel(MEASURES[columns[0][0].y] + (f"\n({definition})" if len(rows) > 1 else ""))
        for axes in (axes for axes in line if not axes.lines):
            axes.set_axis_off()
            text = "no numbers were printed" if definition == "published" else "not measured"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", fontsize=6, color="0.4")
    floors = {float(floor) for both in cells.values() for floor in _floor(both)}
    legend_below(figure, _handles(colour, floors))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is settled, and settling it again for each file would take most of the time
    for (definition, relation, dataset), both in cells.items():
        axes = grid[rows.index(definition)][columns.index((relation, dataset))]
        names = both["trial"].str.replace(r"T\d|S.$", "", regex=True)
        dark = [tuple(0.7 * part for part in colour[student]) for student in both["student"]]  # for small letters
        name_points(axes, both["x"].tolist(), both["y"].tolist(), names.tolist(), dark)
    says = "; ".join(f"{r.says} ({'no claim' if r.claimed is None else 'claimed'})" for r in relations)
    found = [f"{DATASETS[d]} ({n}), {r.x} and {r.y}: {correlation(both)}." for (n, r, d), both in cells.items()]
    measures = {measure for relation in relations for measure in (relation.x, relation.y)}
    shown = table[table["measure"].isin(measures) & (table["setting"] == "vKD") & table["trial"].notna()]
    caption = [f"{place} of Guo et al.: {says}.", HOW, *(FLOOR.format(floor) for floor in sorted(floors)), *found]
    return tell(figure, shown, "\n".join(caption))


def _panel(axes: Axes, both: pd.DataFrame, colour: dict[str, tuple]) -> None:
    _line(axes, both, color="0.4", linestyle="--", linewidth=0.8)
    for k, student in enumerate(STUDENTS):
        own = both[both["student"] == student]
        _line(axes, own, color=colour[student], linewidth=0.8, alpha=0.6)
        axes.plot(own["x"], own["y"], "os"[k], color=colour[student], markersize=4)
    for floor in _floor(both):
        axes.axvline(floor, color="0.4", linestyle=":", linewidth=1.0, zorder=0)
    axes.margins(0.14)
    axes.locator_params(axis="y", nbins=5)


def _line(axes: Axes, both: pd.DataFrame, **style) -> None:
    if both["x"].nunique() > 1:
        slope, intercept = np.polyfit(both["x"], both["y"], 1)
        ends = np.array([both["x"].min(), both["x"].max()])
        axes.plot(ends, slope * ends + intercept, **style)


def _floor(both: pd.DataFrame) -> np.ndarray:
    """The one floor that all points have, or none."""
    floors = both["floor"].dropna().unique()
    return floors if len(floors) == 1 else floors[:0]


def _handles(colour: dict[str, tuple], floors: set[float]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour[student], marker="os"[k], markersize=4, label=text, linewidth=0.8)
        for k, (student, text) in enumerate(STUDENTS.items())
    ]
    handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, label="all"))
    label = f"two independent maps: {min(floors):.3f}" if len(floors) == 1 else "floor"
    return handles + [Line2D([], [], color="0.4", linestyle=":", label=label)] * bool(floors)


def _told(found: Correlation, narrow: bool) -> str:
    within = ", ".join(f"{name} {r:.2f}" for name, r in sorted(found.within.items(), reverse=True))
    pooled = f"r {found.r:.3f}, ρ {found.rho:.3f}, p {found.p:.3f}".replace("p 0.000", "p < 0.001")
    count, centred = f", n {found.n}", f"centred {found.centred:.2f}"
    left = f"within {within}{chr(10) if narrow else '; '}" if within else ""
    return f"{pooled}\n{left}{centred}{count}" if narrow else f"{pooled}{count}\n{left}{centred}"
