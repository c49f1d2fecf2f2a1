"""The figures of Guo et al. (arXiv 2405.00739), from published numbers, from kdscope's, or from both below each other.

Each scatter shows what the paper's do, and what they do not: the line within the students of one augmentation beside
the line over all. What no rows are there for (`kdscope.figures.rethinkkd_rows`) is not drawn.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdscope.figures import FIGURES
from kdscope.figures.points import name_points
from kdscope.figures.rethinkkd_bars import beside, others
from kdscope.figures.rethinkkd_own import diagrams, graded
from kdscope.figures.rethinkkd_rows import (
    COMPARISONS,
    RELATIONS,
    STUDENTS,
    Relation,
    correlation,
    datasets,
    described,
    pairs,
    titled,
)
from kdscope.figures.style import ONE_COLUMN, TWO_COLUMNS, colours, legend_below, panels, styled, tell
from kdscope.measures.correlation import Correlation

HOW = (
    "A point for each trial, named by the augmentation (w weak, s strong) of its teachers, from the first; of several "
    "seeds a faint one each, and their mean. Lines are least squares over all trials (dashed) and within the students "
    "of one augmentation; centred: r after each of these two groups' mean was taken off."
)
FLOOR = "Dotted: what two independent maps score by the paper's definition ({:.3f})."
OURS = (
    "guo2024-code: their code's definitions, on training images augmented as for the student. kdscope: sound "
    "definitions, on clean test images. Both with networks in evaluation mode, at the end of training. Grey: floors, "
    "of other images of the class (attention) or of a student without a teacher."
)


@FIGURES.register("rethinkkd")
def rethinkkd(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """All panels that there are numbers for; of the CSV that lies beside a figure, that figure."""
    known = {"f1": _teaser}
    for relation in RELATIONS:
        stem = relation.figure or relation.stem
        own = [r for r in RELATIONS if (r.figure or r.stem) == stem]
        known[stem] = partial(scatter, relations=own, place=relation.place)
    known |= {comparison.stem: partial(beside, comparison=comparison) for comparison in COMPARISONS}
    known |= {"g5": others, "graded": graded, "h9-reliability": diagrams}
    asked = set(table["figure"].dropna()) if "figure" in table else set(known)
    with styled():
        for stem in (stem for stem in known if stem in asked and len(table)):
            figure = known[stem](table)
            if figure is not None:
                rows, caption = figure.told
                yield f"rethinkkd-{stem}", tell(figure, rows.assign(figure=stem), caption)


def _teaser(table: pd.DataFrame) -> Figure | None:
    """Two relations on the first dataset of each definition."""
    first = table.groupby("definition")["dataset"].transform("first")
    return scatter(
        table[table["dataset"] == first], [r for r in RELATIONS if r.stem in ("f2", "f3")], "Figure 1, middle and right"
    )


def scatter(table: pd.DataFrame, relations: Sequence[Relation], place: str) -> Figure | None:
    """Panels for each definition, dataset and relation (`_places`): points, lines, and what correlates."""
    names = datasets(table["dataset"].dropna())
    cells = {
        (definition, relation, dataset): both
        for definition in dict.fromkeys(table["definition"])
        for relation in relations
        for dataset in names
        if len(both := pairs(table, relation, dataset, definition)) > 1
    }
    relations = [relation for relation in relations if any(key[1] == relation for key in cells)]
    if not relations:
        return None
    place_of = _places(list(cells), relations, names)
    down, across = (1 + max(at[axis] for at in place_of.values()) for axis in (0, 1))
    narrow = across > 3
    width = TWO_COLUMNS if across > 1 else ONE_COLUMN
    figure, grid = panels(down, across, width, 0.35 + (2.5 if narrow else 2.75) * down)
    colour = colours([*STUDENTS])
    several = {definition for definition, _, _ in cells} != {"published"}
    aligned = all(len({key[0] for key in cells if place_of[key][0] == row}) == 1 for row in range(down))
    for key, both in cells.items():
        definition, relation, dataset = key
        axes = grid[place_of[key][0]][place_of[key][1]]
        _panel(axes, both, colour)
        axes.locator_params(axis="x", nbins=3 if narrow else 5)
        axes.ticklabel_format(useOffset=False)
        axes.set_xlabel(fill(described(relation.x, definition), 24 if narrow else 38))
        if not place_of[key][1] or relation.y != relations[0].y:
            by = f"\n({definition})" if several and aligned and not place_of[key][1] else ""
            axes.set_ylabel(fill(described(relation.y, definition), 24 if place_of[key][1] else 60) + by)
        told = _told(correlation(both), narrow)
        told = re.sub(r"-(?=\d)", "\N{MINUS SIGN}", told)
        head = titled(dataset) if aligned else f"{titled(dataset)}, {definition}"
        axes.set_title(f"{head}\n{told}", loc="left", fontsize=6)
    used = {at: key[0] for key, at in place_of.items()}
    for row, line in enumerate(grid):
        for column, axes in enumerate(line):
            if (row, column) in used:
                continue
            axes.set_axis_off()
            if aligned and _shared(cells):
                definition = next(used[at] for at in used if at[0] == row)
                text = "no numbers were printed" if definition == "published" else "not measured"
                axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", fontsize=6, color="0.4")
    legend_below(figure, _handles(colour, [_floors(both) for both in cells.values()], several))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is settled, and settling it again for each file would take most of the time
    for key, both in cells.items():
        axes = grid[place_of[key][0]][place_of[key][1]]
        means = _means(both)
        short = means["trial"].str.replace(r"T\d|S.$", "", regex=True)
        dark = [tuple(0.7 * part for part in colour[student]) for student in means["student"]]  # for small letters
        name_points(axes, means["x"].tolist(), means["y"].tolist(), short.tolist(), dark)
    says = "; ".join(f"{r.says} ({'no claim' if r.claimed is None else 'claimed'})" for r in relations)
    found = [f"{titled(d)} ({n}), {r.x} and {r.y}: {correlation(both)}." for (n, r, d), both in cells.items()]
    measures = {measure for relation in relations for measure in (relation.x, relation.y)}
    setting = relations[0].setting
    shown = table[table["measure"].isin(measures) & (table["setting"] == setting) & table["trial"].notna()]
    printed = [_floors(both) for key, both in cells.items() if key[0] == "published"]
    chance = sorted({float(floor[0]) for floor in printed if len(floor) == 1})
    caption = [f"{place} of Guo et al.: {says}.", HOW, *(FLOOR.format(floor) for floor in chance)]
    return tell(figure, shown, "\n".join([*caption, *([OURS] if several else []), *found]))


def _places(keys: list[tuple], relations: Sequence[Relation], names: Sequence[str]) -> dict[tuple, tuple[int, int]]:
    """Row and column of each panel: a row for each definition, a column for each dataset and relation.

    Where published and own panels share no dataset, or there is but one, own definitions stand beside each other.
    """
    rows = list(dict.fromkeys(key[0] for key in keys))
    order = {key: (names.index(key[2]), relations.index(key[1])) for key in keys}
    theirs, ours = ([key for key in keys if (key[0] == "published") == printed] for printed in (True, False))
    if len(relations) == 1 and ours and (not _shared(keys) or (not theirs and len({key[2] for key in ours}) == 1)):
        ours.sort(key=lambda key: (order[key], rows.index(key[0])))
        across = max(len(theirs), len({key[0] for key in ours}))
        places = {key: (0, k) for k, key in enumerate(sorted(theirs, key=order.get))}
        return places | {key: (bool(theirs) + k // across, k % across) for k, key in enumerate(ours)}
    every = sorted(set(order.values()))
    if _shared(keys):
        return {key: (rows.index(key[0]), every.index(order[key])) for key in keys}
    places = {}
    for row, definition in enumerate(rows):
        own = sorted((key for key in keys if key[0] == definition), key=order.get)
        places |= {key: (row, column) for column, key in enumerate(own)}
    return places


def _shared(keys: Iterable[tuple]) -> bool:
    """Whether the published and our own panels have a dataset in common, or there are panels of one kind alone."""
    theirs = {dataset for definition, _, dataset in keys if definition == "published"}
    ours = {dataset for definition, _, dataset in keys if definition != "published"}
    return not theirs or not ours or bool(theirs & ours)


def _panel(axes: Axes, both: pd.DataFrame, colour: dict[str, tuple]) -> None:
    means = _means(both)
    _line(axes, both, color="0.4", linestyle="--", linewidth=0.8)
    for k, student in enumerate(STUDENTS):
        own, mean = (rows[rows["student"] == student] for rows in (both, means))
        _line(axes, own, color=colour[student], linewidth=0.8, alpha=0.6)
        if len(own) > len(mean):
            axes.scatter(own["x"], own["y"], 5, color=colour[student], marker="os"[k], alpha=0.35, linewidths=0)
        axes.plot(mean["x"], mean["y"], "os"[k], color=colour[student], markersize=4)
    floors = _floors(both)
    if len(floors) == 1:
        axes.axvline(floors[0], color="0.4", linestyle=":", linewidth=1.0, zorder=0)
    elif len(floors):
        axes.axvspan(floors.min(), floors.max(), color="0.9", linewidth=0, zorder=0)
    axes.margins(0.14)
    axes.locator_params(axis="y", nbins=5)


def _means(both: pd.DataFrame) -> pd.DataFrame:
    """A row for each trial, over its seeds."""
    return both.groupby(["trial", "student"], sort=False)[["x", "y"]].mean().reset_index()


def _line(axes: Axes, both: pd.DataFrame, **style) -> None:
    if both["x"].nunique() > 1:
        slope, intercept = np.polyfit(both["x"], both["y"], 1)
        ends = np.array([both["x"].min(), both["x"].max()])
        axes.plot(ends, slope * ends + intercept, **style)


def _floors(both: pd.DataFrame) -> np.ndarray:
    """The floors of the points, each once."""
    return both["floor"].dropna().unique()


def _handles(colour: dict[str, tuple], floors: Sequence[np.ndarray], several: bool) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], color=colour[student], marker="os"[k], markersize=4, label=text, linewidth=0.8)
        for k, (student, text) in enumerate(STUDENTS.items())
    ]
    handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, label="all"))
    lone = {float(floor[0]) for floor in floors if len(floor) == 1}
    if lone:
        label = "floor" if len(lone) > 1 else f"two independent maps: {min(lone):.3f}"
        handles.append(Line2D([], [], color="0.4", linestyle=":", label=label))
    if any(len(floor) > 1 for floor in floors):
        handles.append(Patch(color="0.9", label="floors"))
    return handles


def _told(found: Correlation, narrow: bool) -> str:
    within = ", ".join(f"{name} {r:.2f}" for name, r in sorted(found.within.items(), reverse=True))
    pooled = f"r {found.r:.3f}, ρ {found.rho:.3f}, p {found.p:.3f}".replace("p 0.000", "p < 0.001")
    pooled = pooled if not np.isnan(found.r) else "no correlation: too few, or one is constant"
    centred = "nothing varies within groups" if np.isnan(found.centred) else f"centred {found.centred:.2f}"
    count, left = f", n {found.n}", f"within {within}{chr(10) if narrow else '; '}" if within else ""
    return f"{pooled}\n{left}{centred}{count}" if narrow else f"{pooled}{count}\n{left}{centred}"
