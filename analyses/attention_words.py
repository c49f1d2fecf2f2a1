"""What the table of `attention-iou` says in a few rows and lines."""

import pandas as pd

from kdscope.analyses.cast import TAUGHT
from kdscope.analyses.relations import against_accuracy, one_by_one
from kdscope.attention.cam import SUM_WARNING
from kdscope.figures.style import short_names
from kdscope.figures.trends import over_teachers

SHOWN = ("attention-iou", "threshold-iou", "pointing-game", "energy-inside")


def short(table: pd.DataFrame) -> pd.DataFrame:
    """For a terminal: the overlap of each pair at the last layer, and each network on the object."""
    rows = table[table["area"].isna() & table["epoch"].isna() & table["measure"].isin(SHOWN)]
    rows = rows[rows["pair"].isin((*TAUGHT, "teacher-teacher", "student-student", "truth"))]
    together = rows.groupby(["group", "pair", "map"])["seed"].transform(lambda seeds: (seeds == "all").any())
    rows = rows[~together.astype(bool) | (rows["seed"] == "all")]
    last = rows.groupby(["split", "map", "pair", "a", "b", "measure"], sort=False).tail(1)
    a, b = (last[side].map(short_names(last[side], 22)) for side in ("a", "b"))
    cells = {
        "networks": a + " ~ " + b,
        "map": last["map"],
        "measure": last["measure"],
        "value": [_with_interval(row) for row in last.itertuples()],
        "floor": [_number(value) for value in last["floor"]],
        "ceiling": [_number(value) for value in last["ceiling"]],
    }
    if last["split"].nunique() > 1:
        cells = {"split": last["split"], **cells}
    return pd.DataFrame(cells).astype(str)


def notes(table: pd.DataFrame, guo: bool) -> tuple[str, ...]:
    """What must be said with the table, one line each."""
    said = []
    whole = table[table["area"].isna() & table["epoch"].isna()]
    taught = whole[whole["pair"].isin(TAUGHT) & (whole["measure"] == "attention-iou") & (whole["seed"] != "all")]
    above = taught[taught["gain_low"] > 0]
    if taught["gain"].notna().any():
        said.append(
            f"{len(above)} of {taught['gain'].notna().sum()} overlaps of a student's maps with its teacher's are above"
            " their floor (the intervals are for other images, not for other trainings)"
        )
    if taught["control"].str.contains("independent").sum() < len(taught):
        said.append("without a student trained alone, the floor is an untrained network: training alone exceeds that")
    by_run = one_by_one(whole[(whole["measure"] == "attention-iou") & (whole["split"] == whole["split"].iloc[-1])])
    for kind, own in by_run.groupby("map", sort=False):
        last = over_teachers(own[own["layer"] == own["layer"].iloc[-1]]).drop_duplicates("b")
        said += against_accuracy(last, last["accuracy"], f"attention IoU ({kind}, {last['layer'].iloc[0]})")
    flat = whole[whole["excluded"] > 0]
    if len(flat):
        worst = flat.loc[flat["excluded"].astype(float).idxmax()]
        said.append(
            f"maps that are flat, without a positive part or alone in their class were left out: up to "
            f"{int(worst['excluded'])} images ({worst['map']}/{worst['layer']}, {worst['b']})"
        )
    if guo:
        said.append(f"{SUM_WARNING}; two unrelated maps score about 0.56 there")
    return tuple(said)


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def _with_interval(row: object) -> str:
    if pd.isna(row.ci_low):
        return _number(row.value)
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
