"""Charts of the runs themselves: accuracy of each group with its seeds, and learning curves."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from kdscope.report.charts.common import HEAD, PALETTE, ROW, STUDENT, axis, colours, layout, number, text
from kdscope.report.found import Found
from kdscope.report.payload import Chart
from kdscope.report.tables import score_of, table

LEVEL = 0.95
MOST_POINTS = 20_000  # of all learning curves together; beyond, the means of groups alone


def seed_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float, float]:
    """Mean of values [N] over seeds, its t-interval, and their standard deviation; NaN where N < 2.

    >>> [round(v, 3) for v in seed_interval([0.0, 1.0, 2.0])]
    [1.0, -1.484, 3.484, 1.0]
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, float("nan"), float("nan"), float("nan")
    sd = float(np.std(values, ddof=1))
    half = float(t.ppf((1 + level) / 2, n - 1)) * sd / n**0.5
    return mean, mean - half, mean + half, sd


def accuracy_by_group(found: Found) -> Iterator[Chart]:
    """Test accuracy (or AP) in %: each run as a dot, and each group's mean with its interval over seeds."""
    key, called = score_of(next(iter(found.rows), {}))
    runs = [(row["group"], row["name"], 100 * float(row[key])) for row in found.rows if row.get(key)]
    if not runs:
        return
    frame = pd.DataFrame(runs, columns=["group", "name", "accuracy"])
    order = list(dict.fromkeys(frame["group"]))
    rows: list[dict[str, Any]] = []
    for group in order:
        own = frame.loc[frame["group"] == group, "accuracy"]
        mean, low, high, sd = seed_interval(own.tolist())
        rows.append({"group": group, "seeds": len(own), "accuracy": mean, "ci_low": low, "ci_high": high, "sd": sd})
    means = pd.DataFrame(rows)
    half = [None if np.isnan(v) else v for v in means["ci_high"] - means["accuracy"]]
    said = [
        f"<b>{text(r.group)}</b><br>{number(r.accuracy)} % [{number(r.ci_low)}, {number(r.ci_high)}]<br>{r.seeds} seeds"
        for r in means.itertuples()
    ]
    dot = {"type": "scatter", "mode": "markers", "hoverinfo": "text"}
    data = [
        dot | {
            "name": "one seed", "x": frame["accuracy"].tolist(), "y": [text(g) for g in frame["group"]],
            "hovertext": [f"{text(r.name)}<br>{number(r.accuracy)} %" for r in frame.itertuples(index=False)],
            "marker": {"symbol": "circle-open", "size": 8, "color": STUDENT},
        },
        dot | {
            "name": f"mean, {LEVEL:.0%} interval over seeds", "x": means["accuracy"].tolist(), "hovertext": said,
            "y": [text(g) for g in means["group"]], "marker": {"size": 10, "color": PALETTE[1], "symbol": "diamond"},
            "error_x": {"type": "data", "array": half, "thickness": 2, "width": 0, "color": PALETTE[1]},
        },
    ]  # fmt: skip
    side = {"type": "category", "categoryorder": "array", "categoryarray": [text(g) for g in order[::-1]]}
    shape = layout(
        ROW * max(3, len(order)) + HEAD + 50, xaxis=axis(f"Test {called} (%)"), yaxis=side | {"automargin": True}
    )
    best, worst = means.loc[means["accuracy"].idxmax()], means.loc[means["accuracy"].idxmin()]
    alt = (
        f"Test {called} of {len(frame)} runs in {len(order)} groups, from {number(worst['accuracy'])} % "
        f"({worst['group']}) to {number(best['accuracy'])} % ({best['group']}) in the mean over seeds."
    )
    caption = "A dot for each run; the interval is Student's t over seeds, and none where a group has one."
    card = key.removeprefix("test_")
    numbers = table(
        [{card if k == "accuracy" else k: v for k, v in row.items()} for row in rows],
        "Means over seeds, in %", {card: card, "sd": "accuracy-sd"},
    )  # fmt: skip
    title = f"{called[0].upper()}{called[1:]} by group"
    yield Chart("accuracy-groups", title, caption, alt, {"data": data, "layout": shape}, numbers, card)


def learning_curves(found: Found) -> Iterator[Chart]:
    """Test accuracy over epochs, a line for each run, in the colour of its group; of a lone run its losses as well."""
    group = {row["name"]: row["group"] for row in found.rows}
    curves = {name: run.metrics for name, run in found.runs.items()}
    curves = {name: rows for name, rows in curves.items() if rows and "test_accuracy" in rows[0]}
    if curves:
        yield _accuracy_curves(curves, {name: group.get(name, name) for name in curves})
    if found.run is not None and curves:
        yield _losses(found.run.name, next(iter(curves.values())))


def _accuracy_curves(curves: dict[str, list[dict[str, float]]], group: dict[str, str]) -> Chart:
    colour = colours(group[name] for name in curves)
    points = pd.DataFrame(
        [(group[n], n, r["epoch"], 100 * r["test_accuracy"]) for n, rows in curves.items() for r in rows],
        columns=["group", "name", "epoch", "accuracy"],
    )
    by_epoch = points.groupby(["group", "epoch"], sort=False)["accuracy"]
    means = by_epoch.agg(accuracy="mean", least="min", greatest="max", runs="count").reset_index()
    few = len(points) <= MOST_POINTS
    lines = points.groupby(["group", "name"], sort=False) if few else means.groupby(["group"], sort=False)
    data, named = [], set()
    for key, own in lines:
        own_group, name = key[0], key[-1]
        data.append({
            "type": "scatter", "mode": "lines+markers" if len(own) == 1 else "lines", "name": text(own_group),
            "legendgroup": text(own_group), "showlegend": own_group not in named, "x": own["epoch"].tolist(),
            "y": own["accuracy"].tolist(), "line": {"color": colour[own_group], "width": 1.5},
            "hovertemplate": f"{text(name)}<br>epoch %{{x}}: %{{y:.2f}} %<extra></extra>",
        })  # fmt: skip
        named.add(own_group)
    last = points.groupby("name")["accuracy"].last()
    ends = f"from {number(last.min())} to {number(last.max())} %"
    alt = f"Test accuracy over epochs of {len(curves)} runs; at the end {ends}."
    caption = f"{'A line for each run' if few else 'The mean over seeds of each group'}, from metrics.csv."
    shape = layout(420, xaxis=axis("Epoch"), yaxis=axis("Test accuracy (%)"))
    return Chart(
        "learning-curves", "Learning curves", caption, alt, {"data": data, "layout": shape},
        table(means.to_dict("records"), "Over the runs of each group, in %", {"accuracy": "accuracy"}), "accuracy",
    )  # fmt: skip


def _losses(name: str, rows: list[dict[str, float]]) -> Chart:
    aside = ("epoch", "step", "lr", "train_accuracy", "test_accuracy", "seconds")
    keys = [key for key in rows[0] if key not in aside]
    colour = colours(keys)
    data = [
        {
            "type": "scatter", "mode": "lines", "name": text(key), "x": [r["epoch"] for r in rows],
            "y": [r.get(key) for r in rows], "line": {"color": colour[key], "width": 2},
            "hovertemplate": f"{text(key)}<br>epoch %{{x}}: %{{y:.4g}}<extra></extra>",
        }
        for key in keys
    ]  # fmt: skip
    alt = (
        f"Losses of {name} over {len(rows)} epochs: {', '.join(keys)}; the loss ends at {number(rows[-1].get('loss'))}."
    )
    shape = layout(380, xaxis=axis("Epoch"), yaxis=axis("Loss"))
    numbers = table([{key: row.get(key) for key in rows[0]} for row in rows], "metrics.csv")
    return Chart(
        "losses", "Losses", "The loss and its terms, from metrics.csv.", alt, {"data": data, "layout": shape}, numbers
    )
