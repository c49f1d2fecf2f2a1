"""Does what is measured of a student go with its accuracy? A point for each run, with r, rho, p and n, also in groups.

Pooled correlations mislead where runs differ in more than what is measured (`kdscope.measures.correlation`).
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from kdscope.analyses.relations import one_by_one
from kdscope.figures.trends import over_teachers
from kdscope.measures.correlation import FEWEST, Correlation, correlate
from kdscope.report.cards import title
from kdscope.report.charts.common import axis, colours, layout, marks, number, spread, text, values
from kdscope.report.found import Asked, Found
from kdscope.report.payload import Chart
from kdscope.report.tables import of_frame

AGAINST = (
    ("fidelity", "agreement"),
    ("fidelity", "kl-teacher-student"),
    ("attention-iou", "attention-iou"),
    ("mutual-information", "adjusted-mutual-information"),
    ("similarity", "cka"),
)


def against_accuracy(found: Found) -> Iterator[Chart]:
    """A chart for each measure of at least three runs; attention overlap for each kind of map, at its last layer."""
    accuracy = {row["name"]: 100 * float(row["test_accuracy"]) for row in found.rows if row.get("test_accuracy")}
    group = {row["name"]: row["group"] for row in found.rows}
    done = set()
    for name, measure in AGAINST:
        asked = next((each for each in found.analyses if each.name == name), None)
        for what, rows in _selections(asked, measure) if asked else ():
            rows = rows.assign(accuracy=rows["b"].map(accuracy), group=rows["b"].map(group)).dropna(
                subset=["accuracy", "value"]
            )
            teachers = rows.groupby("b")["a"].transform(", ".join)
            rows = over_teachers(rows.assign(a=teachers)).drop_duplicates("b")
            if len(rows) >= FEWEST and what not in done:
                done.add(what)
                yield _scatter(rows, what, measure, list(dict.fromkeys(group.values())), len(done))


def _selections(asked: Asked, measure: str) -> Iterator[tuple[str, pd.DataFrame]]:
    rows = one_by_one(asked.table)
    rows = rows[rows["measure"] == measure]
    rows = rows[rows["split"] == asked.table["split"].iloc[-1]]
    if "area" in rows:
        rows = rows[rows["area"].isna()]
    if "layer_a" in rows:
        rows = rows[rows["layer_a"] == rows["layer_b"]]
    if "map" not in rows:
        layer = rows["layer"].dropna().iloc[-1] if rows["layer"].notna().any() else None
        yield title(measure) + (f", {layer}" if layer else ""), rows[rows["layer"] == layer] if layer else rows
        return
    for method, own in rows.groupby("map", sort=False):
        layer = own["layer"].iloc[-1]
        yield f"{title(measure)}, {method} {layer}", own[own["layer"] == layer]


def _scatter(rows: pd.DataFrame, what: str, measure: str, groups: Sequence[str], k: int) -> Chart:
    colour, mark = colours(groups), marks(groups)
    found = correlate(rows["value"], rows["accuracy"], rows["group"])
    data = [
        {
            "type": "scatter", "mode": "markers", "name": text(name), "x": values(own), "y": values(own, "accuracy"),
            "error_x": spread(own) | {"color": colour[name], "thickness": 1},
            "marker": {"color": colour[name], "symbol": mark[name], "size": 9}, "hoverinfo": "text",
            "hovertext": [
                f"<b>{text(r.b)}</b> by {text(r.a)}<br>{number(r.value)} [{number(r.ci_low)}, {number(r.ci_high)}]<br>"
                f"accuracy {number(r.accuracy)} %"
                for r in own.itertuples()
            ],
        }
        for name, own in rows.groupby("group", sort=False)
    ]  # fmt: skip
    name = f"{what} against accuracy"
    shape = layout(440, xaxis=axis(title(measure)), yaxis=axis("Test accuracy (%)"))
    mean = " A student of several teachers is the mean over them." if rows["a"].str.contains(", ").any() else ""
    caption = f"A point for each run, on {rows['split'].iloc[0]}. {found}.{_warning(found)}{mean}"
    alt = f"{name}: {len(rows)} runs of {found.groups} groups. {found}.{_warning(found)}"
    numbers = of_frame(
        rows, ["b", "a", "group", "value", "ci_low", "ci_high", "n", "accuracy"], f"{found}",
        cards={"value": measure, "accuracy": "accuracy"},
    )  # fmt: skip
    return Chart(f"against-accuracy-{k}", name, caption, alt, {"data": data, "layout": shape}, numbers, measure)


def _warning(found: Correlation) -> str:
    if found.groups >= FEWEST:
        return ""
    return f" Only {found.groups} kind{'s' * (found.groups > 1)} of training: this shows no relation."
