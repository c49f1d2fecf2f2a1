"""Tidy tables as tables of the report: which rows and columns a page has room for, and how each is shown.

Numbers go through unchanged, so that the page can be read back against the CSV.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdscope.report.cards import card_id
from kdscope.report.payload import AnalysisTable, Column, Table

MOST_ROWS = 300  # of one analysis, and of all together; the CSV has all
MOST_OF_ALL = 1200
FIRST = ("measure", "definition", "a", "b", "layer", "map", "by", "split", "view", "seed")
NUMBERS = ("value", "ci_low", "ci_high", "floor", "ceiling", "n")
# Repeats of what other columns say, and the names of files.
ASIDE = ("analysis", "group", "a_group", "architecture", "method", "pictures", "layer_a", "layer_b", "baseline", "card")
LABELS = {
    "a": "a (teacher)", "b": "b (student)", "ci_low": "interval from", "ci_high": "interval to", "seed": "seed",
    "gain_low": "gain from", "gain_high": "gain to", "p_value": "p", "p_holm": "p (Holm)",
}  # fmt: skip
WHOLE = ("n", "seeds", "excluded", "epoch", "epochs", "classes", "parameters", "seed")
DIGITS = {"seconds": 1, "accuracy": 2, "ap": 2, "sd": 2, "ci_low": 2, "ci_high": 2}
FOLDERS = re.compile(r"(?<![\w/.<])/(?!/)(?:[^\s/'\"]+/)+(?=[^\s/])")  # of an absolute path; no address of the network


def homeless(text: str, root: Any = "/") -> str:
    """A text without the folders of this machine: of paths below `root` what comes after it, of others the last name.

    >>> homeless("no data in /home/me/s/runs/kd: see https://x.org/a/b", "/home/me/s")
    'no data in runs/kd: see https://x.org/a/b'
    >>> homeless("folder:/home/me/cats"), homeless("1/2 and/or a / b")
    ('folder:cats', '1/2 and/or a / b')
    """
    return FOLDERS.sub("", text.replace(f"{str(root).rstrip('/')}/", "") if root != "/" else text)


def score_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The column of runs.csv or summary.json that has the headline of a run, and what it is called.

    >>> score_of({"name": "kd", "test_accuracy": "0.9"}), score_of({"test_ap": ""})
    (('test_accuracy', 'accuracy'), ('test_ap', 'AP'))
    """
    return ("test_ap", "AP") if "test_ap" in row and not row.get("test_accuracy") else ("test_accuracy", "accuracy")


def plain(value: Any) -> Any:
    """A value of a data frame as JSON has it: a number, a text, or None for nothing and for what is not finite.

    >>> plain(float("nan")), plain(1.5), plain("x"), plain(pd.NA), plain(True)
    (None, 1.5, 'x', None, 'True')
    """
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool):
        return str(value)
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str) else str(value)


def column(key: str, values: Iterable[Any], card: str | None = None) -> Column:
    """How a column is shown: by its name where that is known, else by what is in it."""
    values = [value for value in values if value is not None]
    label = LABELS.get(key, key.replace("_", " "))
    if key == "state":
        return Column(key, label, "state")
    if key == "folder":
        return Column(key, label, "link")
    if values and all(isinstance(value, int | float) for value in values):
        if key in ("test_accuracy", "test_ap"):
            return Column(key, label, "percent", "%", card or key.removeprefix("test_"), 2)
        whole = key in WHOLE or all(float(value).is_integer() for value in values)
        unit = "s" if key == "seconds" else ""
        return Column(key, label, "number", unit, card, 0 if whole else DIGITS.get(key, 3))
    return Column(key, label, card=card)


def table(
    rows: Sequence[Mapping[str, Any]], caption: str = "", cards: Mapping[str, str] | None = None, drop: bool = False
) -> Table:
    """Rows as a table; the columns are those of the first row.

    Args:
        cards: ids of cards by column.
        drop: leave out columns without any value.
    """
    rows = [{key: plain(value) for key, value in row.items()} for row in rows]
    keys = list(rows[0]) if rows else []
    if drop:
        keys = [key for key in keys if any(row.get(key) is not None for row in rows)]
    columns = [column(key, (row.get(key) for row in rows), (cards or {}).get(key)) for key in keys]
    return Table(columns, [{key: row.get(key) for key in keys} for row in rows], caption)


def of_frame(frame: pd.DataFrame, columns: Sequence[str], caption: str = "", **options: Any) -> Table:
    """Some columns of a data frame as a table, those that it has."""
    frame = frame[[name for name in columns if name in frame.columns]]
    return table(frame.astype(object).to_dict("records"), caption, **options)


def of_analysis(
    name: str, label: str, frame: pd.DataFrame, notes: Sequence[str], file: str, most: int = MOST_ROWS
) -> AnalysisTable:
    """The table of an analysis: students and their teachers first, floors only as columns of these.

    Columns that say one thing throughout are told in the caption. A table that is too long is cut, and says so.
    """
    kept = headline(frame, most)
    same, keys = [], []
    for key in (*FIRST, *NUMBERS, *(k for k in frame.columns if k not in (*FIRST, *NUMBERS, *ASIDE))):
        if key not in kept.columns or kept[key].isna().all():
            continue
        values = kept[key].dropna().unique()
        if key in NUMBERS or key in ("measure", "b") or len(values) > 1 or kept[key].isna().any() or len(kept) == 1:
            keys.append(key)
        else:
            same.append(f"{LABELS.get(key, key)} {plain(values[0])}")
    caption = f"{len(kept)} of {len(frame)} rows of {file}" if len(kept) < len(frame) else f"{file}, whole"
    caption += "".join(f"; {each}" for each in same)
    definition = kept["definition"] if "definition" in kept else pd.Series("kdscope", index=kept.index)
    ids = [card_id(m, plain(d)) for m, d in zip(kept["measure"], definition, strict=True)]
    made = of_frame(kept, keys, caption)
    for row, id in zip(made.rows, ids, strict=True):
        row["card"] = id
    return AnalysisTable(name, label, made, list(dict.fromkeys(kept["measure"])), list(notes))


def headline(frame: pd.DataFrame, most: int = MOST_ROWS) -> pd.DataFrame:
    """At most `most` rows, in their order: what is left out first are sweeps, then floors, seeds and epochs."""
    if len(frame) <= most:
        return frame
    rank = pd.Series(0, index=frame.index)
    for key, weight in (("area", 8), ("share", 8), ("bin_low", 8), ("epoch", 2)):
        if key in frame:
            rank += weight * frame[key].notna().astype(int)
    if "pair" in frame:
        pair = frame["pair"].fillna("").astype(str)
        rank += 4 * pair.str.startswith(("floor:", "ceiling:")).astype(int)
    if "seed" in frame:
        rank += (frame["seed"].astype(str) != "all").astype(int)
    return frame.loc[rank.sort_values(kind="stable").index[:most].sort_values()]
