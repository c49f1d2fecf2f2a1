"""Calibration: reliability diagrams, and errors beside those of calibrated models of the same confidences."""

from collections.abc import Iterator

import pandas as pd

from kdscope.report.cards import title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import all_seeds, axis, colours, finals, framed, layout, number, spread, text, values
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import NUMBERS, of_frame

ERRORS = ("ece", "ece-debiased", "smooth-ece")
TEMPERATURES = {"1": "T = 1", "best": "at its best T"}
MOST = 16  # networks of one diagram


@CHARTS.register("calibration")
def calibration(asked: Asked) -> Iterator[Chart]:
    """A reliability diagram at either temperature (a click on a name hides it), and the errors."""
    rows = finals(asked)
    rows = rows.assign(temperature=rows["temperature"].astype(str))
    bins = rows[(rows["measure"] == "reliability") & (rows["role"] != "random-init")]
    for temperature, words in TEMPERATURES.items():
        own = bins[bins["temperature"] == temperature]
        if len(own):
            yield _diagram(own, temperature, words)
    errors = all_seeds(rows[rows["measure"].isin(ERRORS) & (rows["role"] != "random-init")])
    if len(errors):
        label = errors["b"] + ", " + errors["temperature"].map(TEMPERATURES).fillna(errors["temperature"])
        errors = errors.assign(label=label)
        panels = [(f"{title(m)} (share)", errors[errors["measure"] == m]) for m in ERRORS]
        caption = "The floor is what a calibrated model of the same confidences gets in the mean."
        yield framed("calibration-errors", "Calibration errors", errors, panels, "ece", caption)


def _diagram(rows: pd.DataFrame, temperature: str, words: str) -> Chart:
    networks = list(dict.fromkeys(rows["b"]))
    first = list(dict.fromkeys(rows.drop_duplicates("group")["b"]))  # one seed of each is shown; the others by a click
    networks = sorted(networks, key=lambda name: name not in first)[:MOST]
    colour = colours(networks)
    line = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "calibrated", "hoverinfo": "skip"}
    data = [line | {"line": {"color": "#808080", "dash": "dash", "width": 1}}]
    for name in networks:
        own = rows[rows["b"] == name].sort_values("bin_confidence")
        said = [
            f"<b>{text(name)}</b><br>confidence {number(r.bin_confidence)}<br>accuracy {number(r.value)} "
            f"[{number(r.ci_low)}, {number(r.ci_high)}]<br>n = {number(r.n)}"
            for r in own.itertuples()
        ]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": text(name), "x": values(own, "bin_confidence"),
            "y": values(own), "error_y": spread(own) | {"thickness": 1, "color": colour[name]}, "hovertext": said,
            "hoverinfo": "text", "line": {"color": colour[name], "width": 1.5}, "marker": {"size": 7},
            "visible": True if name in first else "legendonly",
        })  # fmt: skip
    shape = layout(
        520, xaxis=axis("Confidence", range=[0, 1.02]), yaxis=axis("Accuracy (share of the bin)", range=[0, 1.04])
    )
    gap = (rows["value"] - rows["bin_confidence"]).groupby(rows["b"]).mean()
    name = f"Reliability, {words}"
    alt = (
        f"{name}: accuracy against confidence in bins, of {len(networks)} networks. In the mean over bins, accuracy is "
        f"{number(gap.min())} ({gap.idxmin()}) to {number(gap.max())} ({gap.idxmax()}) above confidence."
    )
    numbers = of_frame(rows, ["b", "role", "seed", "bin_low", "bin_high", "bin_confidence", *NUMBERS])
    caption = "One seed of each network is shown; the others stand in the legend, and a click shows them."
    return Chart(
        f"reliability-{temperature}", name, caption, alt, {"data": data, "layout": shape}, numbers, "reliability"
    )
