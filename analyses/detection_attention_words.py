"""What a terminal says of the attention of detectors."""

import pandas as pd

from kdscope.analyses.cast import ALONE
from kdscope.analyses.detection_words import shared_floors, together

FLOORS = {"independent student": "the student alone", "random init": "an untrained network"}
CONTROLS = {"floor:random-init": "an untrained network", "floor:shuffled": "maps of other images"}
OVERLAPS = {"attention-overlap": "overlap with the teacher", "area-matched-iou": "IoU with the boxes"}
SHORT = ("auroc", "area-matched-iou", "energy-in-boxes", "lift")


def attention_short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each network: its attention against the boxes, and beside its teacher's; means of levels.

    It is of the definition without a unit, where that was asked for.
    """
    rows = _means(table)
    rows = rows[(rows["area"] == "all") & (rows["definition"] == _among(rows, "normalised"))]
    truth = together(rows[rows["pair"] == "truth"])
    pairs = together(rows[rows["pair"].isin(("teacher-student", ALONE)) & rows["region"].isin(("",))])
    lines = []
    for (_, b), own in truth.groupby(["split", "b"], sort=False):
        by = own.set_index("measure")
        line = {"network": b, "seeds": str(by["seeds"].iloc[0])}
        for measure in SHORT:
            line[measure] = _number(by.loc[measure].value)
        other = pairs[pairs["b"] == b].drop_duplicates("measure").set_index("measure")
        for measure in ("attention-overlap", "gap-ratio"):
            line[measure] = _number(other.loc[measure].value) if measure in other.index else ""
        lines.append(line)
    return pd.DataFrame(lines)


def attention_notes(table: pd.DataFrame) -> list[str]:
    """Whether a student looks where its teacher does more than one that had none, and where it differs most."""
    means = _means(table)
    rows = means[means["pair"] == "teacher-student"]
    # Overlaps are of ranks: those of "normalised" are those of "kdscope".
    looks = rows[(rows["measure"] == "attention-overlap") & (rows["definition"] != "normalised")]
    looks = together(looks[looks["area"] == "all"])
    said = [_overlap(row) for row in looks[looks["gain"].notna()].itertuples()]
    said += _floors(means[means["definition"] == "kdscope"])
    density = together(rows[(rows["measure"] == "error-density") & (rows["definition"] == _among(rows, "fitted"))])
    for b, own in density.groupby("b", sort=False):
        known = own[own["value"].notna()]
        if not len(known):
            continue
        most = known.loc[known["value"].idxmax()]
        said.append(f"{b}: its features differ most in cells of {most.region}, {most.value:.1f} times the average")
    return said + shared_floors(table)


def _overlap(row: object) -> str:
    """How far a student's overlap with its teacher is above its floor."""
    sure = "" if row.gain_low > 0 or row.gain_high < 0 else ", which chance may explain"
    named = row.control.removeprefix("floor: ").partition(";")[0].partition(" (")[0]
    how = "" if row.definition == "kdscope" else f" ({row.definition})"
    gap = f"{row.gain:+.2f} [{row.gain_low:+.2f}, {row.gain_high:+.2f}] over {FLOORS.get(named, named)}"
    return f"{row.b}: overlap of attention with {row.a} {row.value:.2f}{how}, {gap}{sure}"


def _floors(rows: pd.DataFrame) -> list[str]:
    """What is scored by networks that know nothing, or nothing of these images: the largest of each kind."""
    said = []
    for measure, what in OVERLAPS.items():
        own = rows[(rows["measure"] == measure) & (rows["area"] == "all")]
        values = {name: own.loc[own["pair"] == pair, "value"].max() for pair, name in CONTROLS.items()}
        known = [f"{value:.2f} by {name}" for name, value in values.items() if not pd.isna(value)]
        said += [f"{what}: {' and '.join(known)} (floors)"] * bool(known)
    return said


def _among(rows: pd.DataFrame, definition: str) -> str:
    """The definition where there are rows of it, else the plain one."""
    return definition if (rows["definition"] == definition).any() else "kdscope"


def _means(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["layer"].isna() | (table["layer"] == "")]


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"
