"""What a terminal says of fidelity: a short table, and a line for each student that does not oversell."""

import math
from collections.abc import Mapping

import pandas as pd

from kdscope.analyses.cast import TAUGHT
from kdscope.analyses.relations import against_accuracy, one_by_one

SHOWN = ("accuracy", "agreement", "kl-teacher-student")


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that speak for each student and teacher (sound definition): all seeds together, or the only one."""
    rows = table[table["pair"].isin(TAUGHT) & table["epoch"].isna() & (table["definition"] == "kdscope")]
    several = rows.groupby(["group", "a_group", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    return rows[~several | (rows["seed"] == "all")]


def short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each student, teacher and split; accuracy, agreement, floor and ceiling in %, KL in nats."""
    rows = headline(table)
    lines = []
    for (_, b, a), group in rows.groupby(["split", "b", "a"], sort=False):
        by = group.set_index("measure")
        agreement, kl = by.loc["agreement"], by.loc["kl-teacher-student"]
        interval = f"{_percent(agreement.value)} [{_percent(agreement.ci_low)}, {_percent(agreement.ci_high)}]"
        lines.append(
            {
                "student": b,
                "teacher": a,
                "split": agreement.split,
                "seeds": str(agreement.seeds),
                "accuracy %": _percent(by.loc["accuracy"].value),
                "agreement %": interval,
                "floor": _percent(agreement.floor),
                "ceiling": _percent(agreement.ceiling),
                "KL": f"{kl.value:.3f}",
            }
        )
    return pd.DataFrame(lines)


def verdicts(table: pd.DataFrame, split: str) -> list[str]:
    """Where the agreement of each student and teacher lies on `split`, whether accuracy rose, and the caveats."""
    rows = headline(table)
    rows = rows[rows["split"] == split]
    said = []
    for (b, a), group in rows.groupby(["b", "a"], sort=False):
        by = group.set_index("measure")
        said.append(f"{b}, by {a}, on {split}: {_agreement(by.loc['agreement'])}")
    for b, group in rows[rows["measure"] == "accuracy"].groupby("b", sort=False):
        row = group.iloc[0]
        if "independent" in row.control:
            said.append(f"{b}, on {split}: {_accuracy(row)}")
    return said + _relation(table, split) + _caveats(rows) + _shared_floors(table)


def _relation(table: pd.DataFrame, split: str) -> list[str]:
    """Whether agreement goes with accuracy over runs."""
    by_run = one_by_one(table[table["split"] == split])
    agreement = by_run[by_run["measure"] == "agreement"]
    accuracy = by_run[by_run["measure"] == "accuracy"].set_index(["a", "b"])["value"]
    return against_accuracy(
        agreement, [accuracy[a, b] for a, b in zip(agreement["a"], agreement["b"], strict=True)], "agreement"
    )


def _agreement(row: pd.Series) -> str:
    text = f"agreement {row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
    if math.isnan(row.floor):
        return f"{text}; no floor is known"
    text += f"; {_article(row.control)} reaches {row.floor:.3f}"
    if not pd.isna(row.gain):
        nearer = f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
        text += f" ({nearer})" if row.gain_low > 0 else f" ({nearer}: not more than that)"
    if math.isnan(row.ceiling):
        return f"{text}; no ceiling is known (another seed of the student would give one)"
    if not row.ceiling > row.floor:
        return f"{text}; the ceiling, {row.ceiling:.3f}, leaves no room above it"
    position = (row.value - row.floor) / (row.ceiling - row.floor)
    return f"{text}: position {position:.2f} between floor and ceiling ({row.ceiling:.3f}, {_ceiling(row.control)})"


def _accuracy(row: pd.Series) -> str:
    text = f"accuracy {row.value:.3f}, without this teacher {row.floor:.3f}"
    if pd.isna(row.gain):
        return text
    text += f" ({row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}])"
    lone = " in this one training" if row.seeds == 1 else ""
    if row.gain_low > 0:
        return f"{text}: distillation helped{lone}"
    return f"{text}: distillation {'made it worse' if row.gain_high < 0 else 'did not help measurably'}{lone}"


def _caveats(rows: pd.DataFrame) -> list[str]:
    agreement = rows[rows["measure"] == "agreement"]
    said = []
    if agreement["control"].str.contains("independent").any():
        said.append("networks that never met agree too: what counts is the distance from the floor, not the agreement")
    elif len(agreement):
        said.append(
            "the floor here is chance; two networks that never met agree far more: give a student trained without a "
            "teacher as well (--baseline)"
        )
    if (agreement["seeds"] == 1).any():
        said.append("students of one seed: their intervals are over images, and say nothing of another training")
    if ((agreement["seeds"] > 1) & (agreement["seeds"] < 5)).any():
        said.append("fewer than five seeds: the intervals over seeds and images are wide")
    return said


def shared_floor(students: Mapping[str, int], alone: str, known: int) -> list[str]:
    """What gains over fewer students alone than students do not know.

    Args:
        students: how many seeds each group of students has. alone: whom they are compared with, `known` seeds.

    >>> shared_floor({"kd": 3, "fgd": 1}, "alone", 1)
    ['kd: gains are over one student alone (alone), another training of which is not in the interval']
    >>> shared_floor({"kd": 3}, "alone", 3)
    []
    """
    more = ", ".join(student for student, seeds in students.items() if seeds > known)
    if not more:
        return []
    if known == 1:
        return [f"{more}: gains are over one student alone ({alone}), another training of which is not in the interval"]
    share = f"gains share {known} students alone ({alone}), fewer than their seeds"
    return [f"{more}: {share}, so that their intervals may be too narrow"]


def _shared_floors(table: pd.DataFrame) -> list[str]:
    """Students of several seeds, fewer of which have a student alone of their own."""
    rows = table[table["pair"].isin(TAUGHT) & table["epoch"].isna() & (table["measure"] == "agreement")]
    rows = rows[(rows["seed"] != "all") & rows["baseline"].fillna("").ne("")]
    said: dict[str, None] = {}
    for group, own in rows.groupby("group", sort=False):
        alone = own["baseline"].unique()
        said |= dict.fromkeys(shared_floor({group: own["b"].nunique()}, ", ".join(alone), len(alone)))
    return [*said]


def _article(control: str) -> str:
    kind = control.split(";")[0].removeprefix("floor: ")
    return {"independent student": "an independent student", "random init": "an untrained network"}.get(
        kind, "the student on shuffled images"
    )


def _ceiling(control: str) -> str:
    return control.partition("ceiling: ")[2]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
