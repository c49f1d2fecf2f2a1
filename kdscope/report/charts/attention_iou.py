"""Where both look: IoU of the most attended cells over areas, and overlap above chance between floor and ceiling."""

from collections.abc import Iterator

import pandas as pd

from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import (
    DASHES,
    TAUGHT,
    all_seeds,
    axis,
    colours,
    finals,
    frame,
    labelled,
    layout,
    number,
    text,
)
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import of_frame

LINES = {
    "teacher-student": "teacher and student",
    "teacher-teacher": "two teachers",
    "ceiling:student-seeds": "two seeds of the student",
    "floor:independent-student": "teacher, student trained alone",
    "floor:shuffled": "other image of the same class",
    "floor:random-init": "teacher, untrained network",
}


@CHARTS.register("attention-iou")
def attention_iou(asked: Asked) -> Iterator[Chart]:
    """A sweep for each kind of map at its last layer, and the frame of each student."""
    rows = finals(asked)
    rows = rows[rows["measure"] == "attention-iou"]
    last = {method: own["layer"].iloc[-1] for method, own in rows.groupby("map", sort=False)}
    rows = rows[rows["layer"] == rows["map"].map(last)]
    for method, layer in last.items():
        sweep = rows[(rows["map"] == method) & rows["area"].notna() & rows["pair"].isin(LINES)]
        if len(sweep):
            yield _sweep(sweep, method, layer)
    whole = rows[rows["area"].isna() & rows["pair"].isin(TAUGHT)]
    if len(whole):
        whole = labelled(whole)
        caption = "Mean over areas of (IoU - chance) / (1 - chance): 0 for unrelated maps, 1 for equal ones."
        for method, own in all_seeds(whole).groupby("map", sort=False):
            single = whole[(whole["map"] == method) & (whole["seed"].astype(str) != "all")]
            name = f"Attention overlap above chance: {method}, {last[method]}"
            yield frame(f"attention-overlap-{method}", name, own, "attention-iou", caption, seeds=single)


def _sweep(rows: pd.DataFrame, method: str, layer: str) -> Chart:
    """IoU = chance + kappa (1 - chance), the mean of each kind of pair over its pairs of single trainings."""
    rows = rows[rows["seed"].astype(str) != "all"]
    iou = rows.assign(**{k: rows["chance"] + rows[k] * (1 - rows["chance"]) for k in ("value", "ci_low", "ci_high")})
    kinds = [pair for pair in LINES if (iou["pair"] == pair).any()]
    means = iou.groupby(["pair", "area"])[["value", "ci_low", "ci_high", "chance"]].mean()
    means["pairs"] = iou.groupby(["pair", "area"]).size()
    colour = colours(LINES)
    data = []
    for k, pair in enumerate(kinds):
        line = means.loc[pair]
        band = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        band["legendgroup"] = pair
        x = line.index.tolist()
        data += [
            band | {"x": x, "y": line["ci_low"].tolist()},
            band | {"x": x, "y": line["ci_high"].tolist(), "fill": "tonexty", "fillcolor": _faint(colour[pair])},
            {
                "type": "scatter", "mode": "lines+markers", "name": LINES[pair], "legendgroup": pair, "x": x,
                "y": line["value"].tolist(), "line": {"color": colour[pair], "width": 2, "dash": DASHES[k % 4]},
                "hovertemplate": f"{LINES[pair]}<br>area %{{x:.2f}}: IoU %{{y:.3f}}<extra></extra>",
            },
        ]  # fmt: skip
    chance = rows.groupby("area")["chance"].first()
    data.append({
        "type": "scatter", "mode": "lines", "name": "chance", "x": chance.index.tolist(), "y": chance.tolist(),
        "line": {"color": "#808080", "dash": "dot", "width": 1.5}, "hovertemplate": "chance %{y:.3f}<extra></extra>",
    })  # fmt: skip
    shape = layout(
        460, xaxis=axis("Share of the cells in each set"), yaxis=axis("IoU of the top cells", range=[0, 1.02])
    )
    name = f"Attention IoU over thresholds: {method}, {layer}"
    first, final = means.loc[kinds[0]].iloc[0], means.loc[kinds[0]].iloc[-1]
    alt = (
        f"{text(name)}. Of {LINES[kinds[0]]}, the IoU is {number(first['value'])} at the smallest area and "
        f"{number(final['value'])} at the largest, where chance is {number(final['chance'])}."
    )
    numbers = of_frame(means.reset_index(), ["pair", "area", "value", "ci_low", "ci_high", "chance", "pairs"])
    caption = "The most attended cells of both maps, as many in each; the band is the mean interval over images."
    return Chart(
        f"attention-iou-{method}", name, caption, alt, {"data": data, "layout": shape}, numbers, "attention-iou"
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"
