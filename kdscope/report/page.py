"""The page of a report: one HTML file with its styles, scripts, numbers and pictures inside, that loads nothing.

Three walls stand between a hostile name and the reader. Jinja escapes every text; numbers and images lie in JSON
islands in which no markup can begin; and a content security policy runs only the scripts whose hashes it lists, so that
even what slipped through both would stay dead text.
"""

import base64
import hashlib
import json
import math
import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from kdscope.report.payload import Card, Column, Payload, Table

ASSETS = Path(__file__).parent / "assets"
# Each may import from those before it: they are joined into one module, for a page in a file cannot import another.
MODULES = (
    *("dom", "colours", "maps", "cards", "tables", "themes", "charts", "answers", "filmstrip", "canvas"),
    *("overlap", "ious", "panels", "explorer", "coco", "box_panels", "boxes", "main"),
)
STYLES = ("report", "explorer", "boxes", "media")
IMPORT = re.compile(r"^import [^;]*;\n", flags=re.MULTILINE)
EXPORT = re.compile(r"^export (?=(async )?(function|const|let|class)\b)", flags=re.MULTILINE)
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {}; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)
TAG = re.compile(r"<(?!/?(?:b|i|sub|sup|extra)>|br ?/?>)")  # a bracket that begins none of plotly's harmless tags
LONG_NAME, LEGEND = 24, 8  # letters, entries: what a chart of half the width has room for
FRAME = ("floor", "ceiling", "value", "ci_low", "ci_high")


def render(payload: Payload) -> str:
    """The report as the text of an HTML file.

    Raises:
        ValueError: a value that is not text, number, list or dict.

    >>> page = render(Payload(title="<i>mine</i>", kind="run", source="runs/kd", version="1"))
    >>> "<title>&lt;i&gt;mine&lt;/i&gt;" in page, "<i>mine" in page
    (True, False)
    """
    script = modules()
    drawing = plotly() if payload.charts else ""
    return (
        _environment()
        .get_template("template.html")
        .render(
            report=payload,
            policy=POLICY.format(" ".join(_hashed(text) for text in (script, drawing) if text)),
            style=Markup("\n".join((ASSETS / f"{name}.css").read_text(encoding="utf-8") for name in STYLES)),
            script=Markup(script),
            plotly=Markup(drawing),
            figures={chart.id: harmless(chart.figure) for chart in payload.charts},
            explorer=None if payload.explorer is None else asdict(payload.explorer),
            boxes=None if payload.boxes is None else asdict(payload.boxes),
            cards={key: asdict(card) for key, card in payload.cards.items()},
        )
    )


def island(value: Any) -> Markup:
    """JSON that may stand inside a script element: no markup can begin or end in it; what is not finite is null.

    >>> print(island({"name": "</script>", "value": float("nan")}))
    {"name":"\\u003c/script\\u003e","value":null}
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def harmless(value: Any) -> Any:
    """A figure in whose texts plotly finds no tag but those that change letters or break a line: no links.

    >>> harmless({"name": "<a href=x>b</a><br>"})
    {'name': '&lt;a href=x>b&lt;/a><br>'}
    """
    if isinstance(value, str):
        return TAG.sub("&lt;", value)
    if isinstance(value, dict):
        return {key: harmless(each) for key, each in value.items()}
    return [harmless(each) for each in value] if isinstance(value, (list, tuple)) else value


def is_wide(figure: dict[str, Any]) -> bool:
    """Whether a figure needs the width of the page: for long names beside its bars, or for many in its legend.

    >>> is_wide({"data": [{"y": ["a name of more than two dozen letters"]}]}), is_wide({"data": [{"y": [1, 2]}]})
    (True, False)
    """
    traces = figure.get("data", [])
    names = [line for trace in traces for name in _texts(trace.get("y")) for line in name.split("<br>")]
    legend = [trace for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    return len(legend) > LEGEND or max(map(len, names), default=0) > LONG_NAME


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, (list, tuple)) else []


def shown(value: Any, column: Column) -> str:
    """A value as it is read: fixed decimals, a true minus, powers of ten where decimals would show nothing.

    >>> shown(0.9123, Column("a", "A", "percent", digits=1)), shown(-0.5, Column("b", "B", "number", digits=2))
    ('91.2\\u202f%', '−0.50')
    >>> shown(31000, Column("n", "n", "number")), shown(2e-5, Column("p", "p", "number"))
    ('31\\u202f000', '2.0e−5')
    """
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if column.kind not in ("number", "percent") or isinstance(value, (str, bool)):
        return str(value)
    if column.kind == "percent":
        return f"{100 * value:.{column.digits}f}\u202f%".replace("-", "−")
    if isinstance(value, int):
        text = thousands(value)
    elif value and (abs(value) < 0.5 * 10**-column.digits or abs(value) >= 1e7):
        mantissa, power = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(power)}"
    else:
        text = f"{value:,.{column.digits}f}".replace(",", "\u202f")
    return text.replace("-", "−")


def relative(link: Any) -> str | None:
    """A link to a file beside the page, quoted; None for all that leads elsewhere or does something.

    >>> relative("runs/kd 1"), relative("javascript:alert(1)"), relative("//host/x")
    ('runs/kd%201', None, None)
    """
    text = str(link)
    if not text or text[0] in "/\\" or ":" in text or any(ord(letter) < 32 for letter in text):
        return None
    return quote(text, safe="/.-_~#")


def thousands(count: int) -> str:
    """A count with its thousands set apart.

    >>> thousands(2000)
    '2\\u202f000'
    """
    return f"{count:,}".replace(",", "\u202f")


def card_of(row: dict[str, Any], column: Column, cards: dict[str, Card]) -> str | None:
    """The card of a number: that of its row in the columns of its frame, else that of its column."""
    found = row.get("card") if column.key in FRAME else None
    return next((each for each in (found, column.card) if each in cards), None)


def strip(table: Table, row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Where value, interval, floor and ceiling of a row lie among those of its measure: shares of the width, 0..1.

    >>> t = Table([Column(k, k, "number") for k in ("value", "floor")])
    >>> strip(t, {"value": 0.5, "floor": 0.0}, [{"value": 0.5, "floor": 0.0}, {"value": 1.0, "floor": 0.2}])
    {'value': 0.5, 'floor': 0.0}
    """
    keys = [column.key for column in table.columns if column.key in FRAME]
    ends = [float(each[key]) for each in rows for key in keys if isinstance(each.get(key), (int, float))]
    if "value" not in keys or not isinstance(row.get("value"), (int, float)) or max(ends) <= min(ends):
        return None
    low, wide = min(ends), max(ends) - min(ends)
    found = {key: row[key] for key in ("value", *FRAME) if key in keys and isinstance(row.get(key), (int, float))}
    return {key: round((value - low) / wide, 4) for key, value in found.items()}


@lru_cache(maxsize=1)
def named(text: str) -> Markup:
    """Text in which names between backticks, as studies write them, are set as code; all else is escaped.

    >>> print(named("what `<b>` is & does"))
    what <code>&lt;b&gt;</code> is &amp; does
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def modules() -> str:
    """The scripts of the page as one module.

    A module declares its names as `export`, imports those of others by one statement each, and no name stands twice.
    """
    texts = [(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in MODULES]
    return "\n".join(EXPORT.sub("", IMPORT.sub("", text)) for text in texts)


@lru_cache(maxsize=1)
def plotly() -> str:
    """The source of plotly.js, which the page keeps as text until a chart comes into view."""
    from plotly.offline import get_plotlyjs

    text = get_plotlyjs().replace("\r\n", "\n")
    return re.sub(r"</(?=script)", r"<\\/", text, flags=re.IGNORECASE).replace("<!--", r"<\!--")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"island": island, "json": json.dumps, "shown": shown}
    environment.filters |= {"relative": relative, "thousands": thousands, "named": named}
    environment.globals |= {"card_of": card_of, "strips": _strips, "is_wide": is_wide}
    return environment


def _strips(table: Table) -> list[dict[str, float] | None]:
    """`strip` of each row; those of one measure (and definition) share a scale."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in table.rows:
        groups.setdefault((row.get("measure"), row.get("definition")), []).append(row)
    return [strip(table, row, groups[row.get("measure"), row.get("definition")]) for row in table.rows]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def _hashed(script: str) -> str:
    """A script as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
