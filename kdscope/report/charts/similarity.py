"""Representation similarity: heat maps of teacher's layers by student's, with interval and n of each cell on hover."""

import math
from collections.abc import Iterator

import pandas as pd

from kdscope.report.cards import card_id, title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import TAUGHT, all_seeds, hover, layout, number, text, words
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import NUMBERS, of_frame, plain

MEASURES = {
    ("cka", "kdscope"): (0.0, 1.0),
    ("cka", "kornblith2019"): (0.0, 1.0),
    ("procrustes", "kdscope"): (0.0, math.pi / 2),
    ("knn-jaccard", "kdscope"): (0.0, 1.0),
    ("rsa", "kdscope"): (0.0, 1.0),
}
CONTROLS = {
    "floor:independent-student": "floor: independent student",
    "floor:random-init": "floor: random init",
    "floor:shuffled": "floor: shuffled images",
    "ceiling:student-seeds": "ceiling: two seeds of the student",
}
MOST = 12  # maps of one measure
WIDE = 34  # letters of the menu, so that it fits a phone
FEW = 6  # layers whose cells have room for their number


@CHARTS.register("similarity")
def similarity(asked: Asked) -> Iterator[Chart]:
    """A chart for each measure: a map for each student and its teacher, then one for each control."""
    rows = asked.table[asked.table["epoch"].isna()] if "epoch" in asked.table else asked.table
    rows = all_seeds(rows[rows["split"] == rows["split"].iloc[-1]])
    for (measure, definition), limits in MEASURES.items():
        own = rows[(rows["measure"] == measure) & (rows["definition"] == definition)]
        own = own.drop_duplicates(["pair", "a", "b", "layer_a", "layer_b"])
        maps = [*_maps(own)][:MOST]
        if maps:
            yield _heat_maps(maps, card_id(measure, definition), measure, definition, limits)


def _maps(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (a, b), own in rows[rows["pair"].isin(TAUGHT)].groupby(["a", "b"], sort=False):
        yield f"{b} by {a}", own
    for pair, words_ in CONTROLS.items():
        control = rows[rows["pair"] == pair]
        if len(control):
            first = control.iloc[0]
            yield f"{words_}, of {first['a']}", control[(control["a"] == first["a"]) & (control["b"] == first["b"])]


def _heat_maps(
    maps: list[tuple[str, pd.DataFrame]], id: str, measure: str, definition: str, limits: tuple[float, float]
) -> Chart:
    """All maps as one trace each behind a menu that chooses; the first is shown."""
    from kdscope.figures.style import short_names

    data = []
    for k, (name, own) in enumerate(maps):
        down, across = (list(dict.fromkeys(own[side])) for side in ("layer_a", "layer_b"))
        cells = {(row.layer_a, row.layer_b): row for row in own.itertuples()}
        grid = [[cells.get((a, b)) for b in across] for a in down]
        trace = {
            "type": "heatmap", "name": text(name), "visible": k == 0, "zmin": limits[0], "zmax": limits[1],
            "x": [text(b) for b in across], "y": [text(a) for a in down], "colorscale": "Viridis", "xgap": 2, "ygap": 2,
            "z": [[None if cell is None else plain(cell.value) for cell in line] for line in grid],
            "hovertext": [[_told(cell) for cell in line] for line in grid], "hoverinfo": "text",
            "colorbar": {"title": {"text": text(title(id)), "side": "right"}, "thickness": 14},
            "reversescale": measure == "procrustes",
        }  # fmt: skip
        if max(len(down), len(across)) <= FEW:
            trace |= {
                "text": [[number(c and round(c.value, 2)) for c in line] for line in grid],
                "texttemplate": "%{text}",
            }
        data.append(trace)
    layers = max(own["layer_a"].nunique() for _, own in maps)
    side = {"automargin": True, "type": "category"}
    shape = layout(
        max(360, 44 * layers + 170), xaxis=side | {"title": {"text": "Layer of b (student)"}},
        yaxis=side | {"title": {"text": "Layer of a (teacher)"}, "autorange": "reversed"},
    )  # fmt: skip
    if len(maps) > 1:
        short = short_names([name for name, _ in maps], WIDE)
        shape["updatemenus"] = [_menu([*short.values()])]
        shape["margin"] = {"l": 10, "r": 10, "t": 60, "b": 10}
    rows = pd.concat([own for _, own in maps])
    rows = rows.assign(label=rows["layer"] + ", " + rows["b"] + " and " + rows["a"])
    name = title(id)
    stem = measure if definition == "kdscope" else f"{measure}-{definition}"
    numbers = of_frame(rows, ["pair", "a", "b", "layer_a", "layer_b", *NUMBERS], cards={"value": id})
    caption = f"On {rows['split'].iloc[0]}. The menu chooses the pair of networks; a cell shows its interval and n."
    return Chart(f"similarity-{stem}", name, caption, words(name, rows), {"data": data, "layout": shape}, numbers, id)


def _told(row) -> str:
    return "no value" if row is None else hover(row, f"{row.layer_a} and {row.layer_b}")


def _menu(names: list[str]) -> dict:
    buttons = [
        {"label": text(name), "method": "restyle", "args": [{"visible": [k == j for j in range(len(names))]}]}
        for k, name in enumerate(names)
    ]
    return {
        "type": "dropdown", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
        "showactive": True, "pad": {"b": 6},
    }  # fmt: skip
