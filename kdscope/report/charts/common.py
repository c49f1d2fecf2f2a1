"""What all charts share: colours, escaped names, axes, intervals between floor and ceiling, and words for the eyeless.

Plotly reads tags in every text that it is given, so names of users are escaped on their way into a figure; in the table
of the chart they stay as they are. Colours of paper, letters and grid are the page's, which knows dark from light.
"""

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

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
ROW, HEAD = 30, 76  # pixels of a row, and of the axis under a panel
MOST_PANELS = 6
MOST_LINES = 40  # rows of one panel; the table has all


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
    lines = [f"<b>{text(name)}</b>", f"{number(row.value)} [{number(row.ci_low)}, {number(row.ci_high)}]"]
    frame = [f"{side} {number(getattr(row, side))}" for side in ("floor", "ceiling") if pd.notna(getattr(row, side))]
    lines += [", ".join(frame)] if frame else []
    return "<br>".join([*lines, f"n = {number(row.n)}" if pd.notna(row.n) else "n not known"])


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
    """With a column `label`: b, and by whom it was taught where that is not always the same."""
    from kdscope.figures.style import short_names

    b = rows["b"].fillna("").astype(str)
    label = b.map(short_names(b, 30))
    if rows["a"].nunique() > 1:
        a = rows["a"].fillna("").astype(str)
        label = label.where(a.isin(("", *b[a == b])) & (a == b) | (a == ""), label + " by " + a.map(short_names(a, 30)))
    return rows.assign(label=label)


def framed(
    id: str, name: str, rows: pd.DataFrame, panels: Sequence[tuple[str, pd.DataFrame]], card: str | None = None,
    caption: str = "", seeds: pd.DataFrame | None = None,
) -> Chart:  # fmt: skip
    """Panels under each other, in each a line for each label: dot and interval, floor and ceiling as ticks.

    Args:
        rows: all rows drawn, for the table; with columns `label`, value, ci_low, ci_high, floor, ceiling and n.
        panels: the name of the axis, and the rows, of each panel.
        seeds: rows of single trainings with the same labels, and the panel's name in `panel`: small open dots.
    """
    order = list(dict.fromkeys(rows["label"]))[:MOST_LINES][::-1]
    each = ROW * max(2, len(order)) + HEAD
    height = each * len(panels) + 60
    data: list[dict[str, Any]] = []
    parts: dict[str, Any] = {}
    for k, (label, part) in enumerate(panels):
        end = "" if k == 0 else str(k + 1)
        top = 1 - k / len(panels)
        part = part[part["label"].isin(order)]
        parts[f"yaxis{end}"] = {
            "domain": [top - (each - HEAD) / each / len(panels), top], "automargin": True, "type": "category",
            "categoryorder": "array", "categoryarray": [text(name) for name in order], "anchor": f"x{end}",
            "range": [-0.6, len(order) - 0.4],
        }  # fmt: skip
        parts[f"xaxis{end}"] = axis(label, anchor=f"y{end}")
        single = seeds[(seeds["panel"] == label) & seeds["label"].isin(order)] if seeds is not None else part[:0]
        data += [_dots(each, "x" + end, "y" + end, k == 0) for each in _layers(part, single)]
    drawn = rows[rows["label"].isin(order)]
    caption += (
        "" if len(drawn) == len(rows) else f" The first {len(order)} of {rows['label'].nunique()} lines are drawn."
    )
    columns = ["measure", "map", "layer", "b", "a", "split", "seed", "temperature", *NUMBERS]
    numbers = of_frame(rows, columns, cards={"value": card} if card else None)
    return Chart(
        id, name, caption.strip(), words(name, rows), {"data": data, "layout": layout(height, **parts)}, numbers, card
    )


def _layers(part: pd.DataFrame, single: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, str, dict[str, Any]]]:
    tick = {"symbol": "line-ns-open", "size": 16, "line": {"width": 3}}
    for side, colour in (("floor", FLOOR), ("ceiling", CEILING)):
        yield side, part[part[side].notna()], side, {"marker": tick | {"color": colour}}
    if len(single):
        yield "one seed", single, "value", {"marker": {"symbol": "circle-open", "size": 7, "color": STUDENT}}
    yield (
        "student, with interval", part, "value",
        {"marker": {"size": 9, "color": STUDENT}, "error_x": spread(part) | {"color": STUDENT}},
    )  # fmt: skip


def _dots(layer: tuple, x: str, y: str, first: bool) -> dict[str, Any]:
    name, rows, key, style = layer
    return {
        "type": "scatter", "mode": "markers", "name": name, "legendgroup": name, "showlegend": first,
        "x": values(rows, key), "y": [text(label) for label in rows["label"]], "xaxis": x, "yaxis": y,
        "hovertext": [hover(row, row.label) for row in rows.itertuples()], "hoverinfo": "text",
    } | style  # fmt: skip


def words(name: str, rows: pd.DataFrame, by: str = "label") -> str:
    """A chart in words: how many rows, and which of them are at either end."""
    known = rows[rows["value"].notna()]
    if not len(known):
        return f"{name}: no value is known."
    low, high = known.loc[known["value"].idxmin()], known.loc[known["value"].idxmax()]
    return (
        f"{name}: {len(known)} values from {number(low['value'])} ({low[by]}) to {number(high['value'])} ({high[by]}). "
        "The numbers are in the table below the chart."
    )


def intervals(asked: Asked) -> Iterator[Chart]:
    """The chart of any analysis: its first measures of students, or of whatever it has rows of."""
    rows = finals(asked)
    rows = rows[rows["value"].notna()]
    if "pair" in rows and rows["pair"].isin(TAUGHT).any():
        rows = rows[rows["pair"].isin(TAUGHT)]
    for sweep in ("area", "share", "bin_low"):
        rows = rows[rows[sweep].isna()] if sweep in rows else rows
    if not len(rows):
        return
    rows = labelled(all_seeds(rows))
    shown = list(dict.fromkeys(rows["measure"]))[:MOST_PANELS]
    rows = rows[rows["measure"].isin(shown)].drop_duplicates(["measure", "label"])
    panels = [(title(measure), rows[rows["measure"] == measure]) for measure in shown]
    yield framed(f"{asked.name}-intervals", asked.name.replace("-", " ").capitalize(), rows, panels, card_id(shown[0]))
