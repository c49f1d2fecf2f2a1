"""Causal maps: what deleting and inserting pixels by a map does to the probability of the label, beside controls."""

from collections.abc import Iterator

import pandas as pd

from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import (
    all_seeds,
    axis,
    colours,
    finals,
    frame,
    labelled,
    layout,
    number,
    text,
    values,
)
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import NUMBERS, of_frame

TITLES = {
    "own": "own map",
    "teacher": "teacher's map",
    "other-image": "map of another image",
    "smooth-random": "random mask as smooth as the map",
    "randomised-weights": "map with random weights",
    "random": "random mask",
}
KINDS = ("own", "teacher-student")
MOST = 12  # charts of curves


@CHARTS.register("causal")
def causal(asked: Asked) -> Iterator[Chart]:
    """Curves of each network and map, and the areas under the deletion curves."""
    rows = finals(asked)
    rows = all_seeds(rows[rows["pair"].isin(KINDS)])
    curves = rows[rows["measure"].isin(("deletion-curve", "insertion-curve"))]
    for k, ((layer, network), own) in enumerate(curves.groupby(["layer", "b"], sort=False)):
        if k < MOST:
            yield _curves(own, layer, network, k)
    areas = labelled(rows[(rows["measure"] == "deletion-auc") & rows["by"].notna()])
    areas = areas.assign(mask=areas["by"].map(TITLES).fillna(areas["by"]), label=areas["b"])
    caption = "Left of its controls, a map finds the evidence: deleting by it takes more of the probability."
    for layer, own in areas.groupby("layer", sort=False):
        name = f"Areas under the deletion curves: {layer}"
        own = own.assign(floor=float("nan"), ceiling=float("nan"))  # they stand on the line themselves
        yield frame(f"causal-areas-{layer}", name, own, "deletion-auc", caption, "mask", order=[*TITLES.values()])
    overlap = labelled(rows[rows["measure"] == "map-overlap"])
    for layer, own in overlap.groupby("layer", sort=False):
        yield frame(f"causal-overlap-{layer}", f"Causal maps of teacher and student: {layer}", own, "map-overlap")


def _curves(rows: pd.DataFrame, layer: str, network: str, k: int) -> Chart:
    colour = colours(TITLES)
    data = []
    for (by, measure, _), own in rows.groupby(["by", "measure", "a"], sort=False):
        own = own.sort_values("share")
        mode = measure.removesuffix("-curve")
        said = [
            f"{TITLES.get(by, text(by))}<br>{mode}, {number(r.share)} of the pixels<br>{number(r.value)} "
            f"[{number(r.ci_low)}, {number(r.ci_high)}]<br>n = {number(r.n)}"
            for r in own.itertuples()
        ]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": TITLES.get(by, text(by)),
            "legendgroup": text(by), "showlegend": mode == "deletion",
            "x": values(own, "share"), "y": values(own), "hovertext": said, "hoverinfo": "text", "marker": {"size": 4},
            "line": {"color": colour.get(by, "#808080"), "dash": "solid" if mode == "deletion" else "dash", "width": 2},
        })  # fmt: skip
    shape = layout(
        480,
        xaxis=axis("Share of pixels changed", range=[0, 1]),
        yaxis=axis("Probability of the label", range=[0, 1.02]),
    )
    name = f"Deletion and insertion: {network}, {layer}"
    own = rows[(rows["by"] == "own") & (rows["measure"] == "deletion-curve")].sort_values("share")
    alt = f"{name}. " + (
        f"Deleting by its own map takes the probability from {number(own['value'].iloc[0])} to "
        f"{number(own['value'].iloc[len(own) // 2])} at half of the points."
        if len(own)
        else "Curves by the teacher's map."
    )
    numbers = of_frame(rows, ["measure", "by", "a", "b", "layer", "share", *NUMBERS])
    caption = "Deletion as full lines, insertion dashed; the intervals are on hover and in the table."
    return Chart(f"causal-curves-{k}", name, caption, alt, {"data": data, "layout": shape}, numbers, "deletion-curve")
