"""Calibration: reliability diagrams, and errors beside those of calibrated models of the same confidences."""

from collections.abc import Iterator

import pandas as pd

from kdscope.report.cards import title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import (
    all_seeds,
    axis,
    colours,
    finals,
    frame,
    labelled,
    layout,
    marks,
    number,
    spread,
    text,
    values,
)
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import NUMBERS, of_frame

ERRORS = ("ece", "ece-debiased", "smooth-ece")
TEMPERATURES = {"1": "T = 1", "best": "at its best T"}
MOST = 16  # networks of one diagram
SHOWN = 4  # of them at first, so that one can be followed


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
    errors = labelled(all_seeds(rows[rows["measure"].isin(ERRORS) & (rows["role"] != "random-init")]))
    errors = errors.assign(at=errors["temperature"].map(TEMPERATURES).fillna(errors["temperature"]))
    caption = "The floor is what a calibrated model of the same confidences gets in the mean."
    for measure in ERRORS:
        own = errors[errors["measure"] == measure].drop_duplicates(["label", "at"])
        if len(own):
            yield frame(f"calibration-{measure}", title(measure), own, measure, caption, series="at")


def _diagram(rows: pd.DataFrame, temperature: str, words: str) -> Chart:
    rows = rows[rows["b"].isin(rows.drop_duplicates("group")["b"])]  # one seed of each
    networks = list(dict.fromkeys(rows["b"]))[:MOST]
    colour, mark = colours(networks), marks(networks)
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
            "hoverinfo": "text", "line": {"color": colour[name], "width": 1.5},
            "marker": {"size": 7, "symbol": mark[name]},
            "visible": True if name in networks[:SHOWN] else "legendonly",
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
    caption = "One seed of each network. A name in the legend shows or hides its line; the intervals are Wilson's."
    return Chart(
        f"reliability-{temperature}", name, caption, alt, {"data": data, "layout": shape}, numbers, "reliability"
    )
