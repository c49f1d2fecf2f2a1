"""The table of an analysis that a paper shows: from its tidy table, beside the figures, as NAME.md and NAME.tex.

A row for each student (and teacher), a column for each measure, on the last split; several seeds are one row.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd

from kdscope.figures.tables import Column, Number, Row, Table

TAUGHT = ("teacher-student", "ensemble-student")
ALIKE = "In measures of likeness, best means most alike, which need not be better"
ABOVE = "*: nearer to the teacher than the floor is, beyond chance; nothing is said of differences between rows"
MEASURES = {
    "fidelity": {
        "agreement": Column("agreement", digits=3),
        "kl-teacher-student": Column("KL (nats)", "lower", 3),
        "accuracy": Column("accuracy", digits=3),
    },
    "mutual-information": {
        "mutual-information": Column("MI (nats)", digits=2),
        "soft-mutual-information": Column("MI, soft labels (nats)", digits=2),
        "adjusted-mutual-information": Column("adjusted MI", digits=2),
    },
    "attention-iou": {"attention-iou": Column("overlap above chance", digits=3)},
}


def of_students(table: pd.DataFrame, name: str) -> Table | None:
    """Measures of students with their teachers; for maps, a block for each kind, at its last layer."""
    rows = table[
        (table["definition"] == "kdscope") & table["pair"].isin(TAUGHT) & table["measure"].isin(MEASURES[name])
    ]
    for absent in ("epoch", "area"):
        rows = rows[rows[absent].isna()] if absent in rows else rows
    rows = rows[rows["split"] == rows["split"].iloc[-1]] if len(rows) else rows
    if "map" in rows:
        rows = rows[rows["layer"] == rows.groupby("map")["layer"].transform("last")]
    seeds = rows["seed"].astype(str)
    several = seeds.groupby([rows["group"], rows["a_group"]]).transform(lambda own: (own == "all").any()).astype(bool)
    rows = rows[~several | (seeds == "all")]
    if not len(rows):
        return None
    kinds = rows["map"] if "map" in rows else pd.Series("", index=rows.index)
    columns, lines = MEASURES[name], []
    for (kind, b, a), own in rows.groupby([kinds, "b", "a"], sort=False):
        numbers = {columns[row.measure].title: _number(row) for row in own.itertuples()}
        lines.append(Row((b, a, *((kind,) if "map" in rows else ())), numbers, str(kind)))
    heads = ("student", "teacher", *(("map",) if "map" in rows else ()))
    signed = any(number.signs for line in lines for number in line.numbers.values())
    caption = f"What students share with their teachers, on {rows['split'].iloc[0]}: {_sure(rows)} intervals."
    return Table(heads, tuple(columns.values()), tuple(lines), caption, (ALIKE, *([ABOVE] if signed else [])))


def of_methods(table: pd.DataFrame) -> Table | None:
    """Accuracy of each way of training, and its differences to others, signed where they are beyond chance."""
    rows = table[table["split"] == table["split"].iloc[-1]]
    seeds = rows["seed"].astype(str)
    keys = [rows[key].fillna("") for key in ("measure", "a", "b")]
    several = seeds.groupby(keys).transform(lambda own: (own == "all").any()).astype(bool)
    rows = rows[~several | (seeds == "all")]
    arms, differences = rows[rows["measure"] == "accuracy"], rows[rows["measure"] == "accuracy-difference"]
    if not len(arms):
        return None
    columns = [Column("accuracy (%)", digits=1)]
    columns += [Column(f"less {a} (points)", "none", 1, signed=True) for a in dict.fromkeys(differences["a"])]
    lines = []
    for arm in arms.itertuples():
        numbers = {columns[0].title: _number(arm, 100, "")}
        for row in differences[differences["b"] == arm.b].itertuples():
            beyond = "*" if row.p_holm < 1 - row.confidence else ""
            numbers[f"less {row.a} (points)"] = _number(row, 100, beyond)
        lines.append(Row((arm.b, f"{arm.seeds:.0f}"), numbers))
    caption = f"Accuracy of each way of training on {rows['split'].iloc[0]}: {_sure(rows)} intervals."
    notes = ["The marks rank what was measured; between others than those of the columns chance was not tested"]
    if len(differences):
        notes.append("*: differs beyond chance (p after Holm), paired by seed and image")
    return Table(("method", "seeds"), tuple(columns), tuple(lines), caption, tuple(notes))


TABLES: Mapping[str, Callable[[pd.DataFrame], Table | None]] = {
    **{name: partial(of_students, name=name) for name in MEASURES}, "comparison": of_methods, "controls": of_methods,
}  # fmt: skip


def _number(row, scale: float = 1, signs: str | None = None) -> Number:
    if signs is None:
        low = getattr(row, "gain_low", math.nan)
        signs = "*" if row.measure != "accuracy" and low > 0 else ""
    return Number(scale * row.value, scale * row.ci_low, scale * row.ci_high, signs=signs)


def _sure(rows: pd.DataFrame) -> str:
    return f"{rows['confidence'].iloc[0]:.0%}"
