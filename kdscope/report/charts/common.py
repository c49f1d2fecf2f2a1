"""What all charts share: colours, escaped names, axes, intervals between floor and ceiling, and alternative texts.

Plotly reads tags in every text that it is given, so names of users are escaped on their way into a figure; in the table
of the chart they stay as they are. Colours of paper, letters and grid are the page's, which knows dark from light.
"""

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from kdscope.report.cards import card as about
from kdscope.report.cards import card_id, title
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import NUMBERS, of_frame, plain

# Okabe & Ito 2008, told apart by the colour-blind, legible on white and on near-black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#808080")
MARKS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
STUDENT, FLOOR, CEILING = PALETTE[0], PALETTE[1], PALETTE[2]
TAUGHT = ("teacher-student", "ensemble-student")
ROW, HEAD = 30, 84  # pixels of a row, and of the axis under it
MOST_CHARTS = 6  # of an analysis that nobody draws
MOST_LINES = 40  # of one chart; the table has all
WIDE = 20  # letters of a label
NAMES = (("b", "group"), ("a", "a_group"))
TOGETHER = r"^ensemble \(.*\)$"


def text(value: Any) -> str:
    """A name as plotly shows it: its letters, whatever they are.

    >>> text("<b>a & b</b>")
    '&lt;b&gt;a &amp; b&lt;/b&gt;'
    """
    return html.escape(str(value), quote=False)


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, in their order; beyond eight they come again."""
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(dict.fromkeys(names))}


def marks(names: Iterable[str]) -> dict[str, str]:
    """A marker for each name; it differs where the colour comes again."""
    return {name: MARKS[(k + k // len(PALETTE)) % len(MARKS)] for k, name in enumerate(dict.fromkeys(names))}


def layout(height: int, **parts: Any) -> dict[str, Any]:
    """The layout of a figure: no paper of its own, a legend below, room for long names."""
    return {
        "height": height,
        "margin": {"l": 10, "r": 16, "t": 16, "b": 10},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    } | parts


def axis(name: str, **more: Any) -> dict[str, Any]:
    """An axis with its name (escaped), which makes room for its own labels."""
    return {"title": {"text": text(name)}, "automargin": True, "zeroline": False} | more


def spread(rows: pd.DataFrame) -> dict[str, Any]:
    """Error bars from the interval of each row."""
    ends = [(rows["ci_high"] - rows["value"]).clip(lower=0), (rows["value"] - rows["ci_low"]).clip(lower=0)]
    high, low = ([plain(each) for each in end] for end in ends)
    return {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "thickness": 1.5, "width": 0}


def values(rows: pd.DataFrame, key: str = "value") -> list[Any]:
    """A column as JSON has it."""
    return [plain(each) for each in rows[key]]


def hover(row: Any, name: str) -> str:
    """What a point says of itself: the number, its interval, its frame and its n."""
    said = [f"<b>{lines(name)}</b>", f"{number(row.value)} [{number(row.ci_low)}, {number(row.ci_high)}]"]
    sides = [f"{side} {number(getattr(row, side))}" for side in ("floor", "ceiling") if pd.notna(getattr(row, side))]
    said += [", ".join(sides)] if sides else []
    return "<br>".join([*said, f"n = {number(row.n)}" if pd.notna(row.n) else "n not known"])


def number(value: Any) -> str:
    """Four digits, or a dash.

    >>> number(0.123456), number(float("nan"))
    ('0.1235', '–')
    """
    return "–" if value is None or pd.isna(value) else f"{value:.4g}"


def all_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all seeds of a group together where there are any, else those of the only one."""
    keys = [key for key in ("pair", "group", "a_group", "role", "split") if key in rows]
    if "seed" not in rows or not keys or not len(rows):
        return rows
    seed = rows["seed"].fillna("").astype(str)
    together = (seed == "all").groupby([rows[key].fillna("") for key in keys]).transform("any")
    return rows[~together | (seed == "all")]


def finals(asked: Asked) -> pd.DataFrame:
    """The rows at the end of training, by the sound definitions, of the last split."""
    rows = asked.table
    if "definition" in rows:
        rows = rows[rows["definition"].isna() | (rows["definition"] == "kdscope")]
    if "epoch" in rows:
        rows = rows[rows["epoch"].isna()]
    return rows[rows["split"] == rows["split"].iloc[-1]] if len(rows) and rows["split"].notna().all() else rows


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """With a column `label`: the student's group, and whose it is where the teachers differ, on a line of its own."""
    from kdscope.figures.style import short_names

    b, a = (rows[group if group in rows else name].fillna("").astype(str) for name, group in NAMES)
    label = b.map(short_names(b, WIDE))
    if a.nunique() > 1:
        a = a.str.replace(TOGETHER, "all of them", regex=True)
        label = label.where((a == b) | (a == ""), label + "\nby " + a.map(short_names(a, WIDE)))
    return rows.assign(label=label)


def lines(label: str) -> str:
    """A label of several lines as plotly shows it."""
    return "<br>".join(text(line) for line in label.split("\n"))


def frame(
    id: str,
    name: str,
    rows: pd.DataFrame,
    card: str,
    caption: str = "",
    series: str | None = None,
    seeds: pd.DataFrame | None = None,
    order: Sequence[str] = (),
) -> Chart:
    """A line for each label: dot and interval, floor and ceiling as ticks.

    Args:
        rows: with columns `label`, value, ci_low, ci_high, floor, ceiling and n.
        card: of the number.
        series: a column whose values are told apart by colour, beside each other on a line.
        seeds: rows of single trainings with the same labels: small open dots.
        order: values of `series` in the order of their colours, of which not all need be there.
    """
    names = list(dict.fromkeys(rows["label"]))[:MOST_LINES]
    drawn = rows[rows["label"].isin(names)]
    kinds = [*drawn.groupby(series, sort=False)] if series else [("value, with interval", drawn)]
    colour = colours([*order, *(str(kind) for kind, _ in kinds)]) if series else {kinds[0][0]: STUDENT}
    tick = {"symbol": "line-ns-open", "size": 14 if len(kinds) == 1 else 8}
    data = []
    for side, shade in (("floor", FLOOR), ("ceiling", CEILING)):
        for kind, own in kinds:
            known = own[own[side].notna()]
            marker = tick | {"color": shade, "line": {"width": 3}}
            data += [_dots(side, known, side, kind, series, marker, kind == kinds[0][0])] if len(known) else []
    if seeds is not None and len(seeds):
        marker = {"symbol": "circle-open", "size": 7, "color": STUDENT}
        data.append(_dots("one seed", seeds[seeds["label"].isin(names)], "value", "seeds", None, marker))
    for kind, own in kinds:
        shade = colour[str(kind)]
        dot = _dots(str(kind), own, "value", kind, series, {"size": 9, "color": shade})
        data.append(dot | {"error_x": spread(own) | {"color": shade}})
    deep = max(1 + label.count("\n") for label in names)
    row = ROW * max(0.8 + 0.5 * (deep - 1), 0.55 * len(kinds))
    shape = layout(
        round(row * max(2, len(names))) + HEAD + 36 + 14 * len(kinds),
        xaxis=axis(_unit(card)),
        yaxis=categories(names),
        **({"scattermode": "group", "scattergap": 0.25} if series else {}),
    )
    if len(drawn) < len(rows):
        caption += f" The first {len(names)} of {rows['label'].nunique()} lines are drawn."
    columns = ["measure", "definition", "map", "layer", "by", "b", "a", "split", "seed", "temperature", *NUMBERS]
    numbers = of_frame(rows, columns, cards={"value": card})
    return Chart(id, name, caption.strip(), words(name, rows), {"data": data, "layout": shape}, numbers, card)


def categories(order: Sequence[str]) -> dict[str, Any]:
    """An upright axis of labels, the first on top."""
    return {
        "type": "category", "categoryorder": "array", "categoryarray": [lines(name) for name in order[::-1]],
        "range": [-0.6, len(order) - 0.4], "automargin": True,
    }  # fmt: skip


def _unit(card: str) -> str:
    found = about(card)
    return f"{found.name} ({found.unit})" if found.unit and len(found.name) < 20 else found.unit or found.name


def _dots(
    name: str,
    rows: pd.DataFrame,
    key: str,
    kind: str,
    series: str | None,
    marker: dict[str, Any],
    first: bool = True,
) -> dict[str, Any]:
    beside = {"offsetgroup": str(kind), "orientation": "h"} if series else {}
    return beside | {
        "type": "scatter", "mode": "markers", "name": text(name), "legendgroup": text(name), "showlegend": first,
        "x": values(rows, key), "y": [lines(label) for label in rows["label"]], "marker": marker,
        "hovertext": [hover(row, row.label) for row in rows.itertuples()], "hoverinfo": "text",
    }  # fmt: skip


def words(name: str, rows: pd.DataFrame, by: str = "label") -> str:
    """A chart in words: how many values, and which of them are at either end."""
    known = rows[rows["value"].notna()]
    if not len(known):
        return f"{name}: no value is known."
    low, high = known.loc[known["value"].idxmin()], known.loc[known["value"].idxmax()]
    ends = (f"{number(end['value'])} ({' '.join(str(end[by]).split())})" for end in (low, high))
    return f"{name}: {len(known)} values from {' to '.join(ends)}. The numbers are in the table below the chart."


def intervals(asked: Asked) -> Iterator[Chart]:
    """Charts of any analysis: its first measures, of students where there are any, else of whatever it has rows of."""
    rows = finals(asked)
    rows = rows[rows["value"].notna()]
    if "pair" in rows and rows["pair"].isin(TAUGHT).any():
        rows = rows[rows["pair"].isin(TAUGHT)]
    for sweep in ("area", "share", "bin_low"):
        rows = rows[rows[sweep].isna()] if sweep in rows else rows
    if not len(rows):
        return
    rows = labelled(all_seeds(rows))
    for measure in list(dict.fromkeys(rows["measure"]))[:MOST_CHARTS]:
        own = rows[rows["measure"] == measure].drop_duplicates("label")
        yield frame(f"{asked.name}-{measure}", title(measure), own, card_id(measure))
