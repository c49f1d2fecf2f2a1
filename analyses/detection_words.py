"""What a terminal says of detectors: a row for each way of training, and a line for each student."""

import math

import pandas as pd

from kdscope.analyses.cast import ALONE
from kdscope.analyses.fidelity_words import shared_floor

WHERE = {"fg": "on objects", "ring": "around objects", "far": "far from objects"}


def together(rows: pd.DataFrame) -> pd.DataFrame:
    """All seeds of a group together where there are several, else the only one."""
    several = rows.groupby(["group", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    return rows[~several.astype(bool) | (rows["seed"] == "all")]


def short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each way of training; AP and its difference from the student alone in points."""
    table = table[table["epoch"].isna()]
    whole = table[(table["pair"] == "truth") & (table["class"] == "all")]
    lines = []
    for (_, b), rows in together(whole).groupby(["split", "b"], sort=False):
        by = rows.set_index(["measure", "area"])
        ap = by.loc[("ap", "all")]
        line = {"network": b, "seeds": str(ap.seeds), "AP": ranged(ap.value, ap.ci_low, ap.ci_high)}
        line["over alone"] = signed(ap.gain, ap.gain_low, ap.gain_high)
        line["AP50"] = points(by.loc[("ap50", "all")].value)
        line |= {area: points(by.loc[("ap", area)].value) for area in dict.fromkeys(rows["area"]) if area != "all"}
        line["agree-F1"] = _agreement(table, b)
        lines.append(line)
    return pd.DataFrame(lines)


def _agreement(table: pd.DataFrame, b: str) -> str:
    rows = table[(table["measure"] == "agree-f1") & (table["iou"] == "0.5") & (table["b"] == b)]
    rows = rows[rows["pair"].isin(("teacher-student", ALONE))]
    return points(rows["value"].iloc[0]) if len(rows) else ""


def points(value: float) -> str:
    """A share in percent; empty where it is not known.

    >>> points(0.1234), points(float("nan"))
    ('12.3', '')
    """
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def ranged(value: float, low: float, high: float) -> str:
    return points(value) if math.isnan(low) else f"{points(value)} [{points(low)}, {points(high)}]"


def signed(value: float | None, low: float, high: float) -> str:
    """A difference in points with its interval.

    >>> signed(0.012, -0.01, 0.034)
    '+1.2 [-1.0, +3.4]'
    """
    if value is None or math.isnan(value):
        return ""
    number = f"{100 * value:+.1f}"
    return number if low is None or math.isnan(low) else f"{number} [{100 * low:+.1f}, {100 * high:+.1f}]"


def notes(table: pd.DataFrame) -> list[str]:
    """Whether AP rose by more than chance, how that compares with a second seed, and the caveats."""
    said = _active(table)
    table = table[table["epoch"].isna()]
    gaps = table[(table["measure"] == "ap-difference") & (table["area"] == "all")]
    for row in gaps[gaps["pair"] == ALONE].itertuples():
        sure = row.ci_low > 0 or row.ci_high < 0
        what = signed(row.value, row.ci_low, row.ci_high)
        said.append(f"{row.b} against {row.a}: {what} points of AP{'' if sure else ', which chance may explain'}")
    churn = gaps[gaps["pair"].str.startswith("ceiling:")]
    if len(churn):
        most = churn["value"].abs().max()
        said.append(f"two seeds of one training differ by up to {100 * most:.1f} points of AP")
    trained = table[(table["measure"] == "ap") & (table["role"] == "student")]
    if len(trained) and not (gaps["pair"] == ALONE).any():
        said.append("no student without a teacher is among the sources: give one (--baseline RUN), for the floor")
    whole = table[(table["measure"] == "ap") & (table["pair"] == "truth")]
    seeds = whole.groupby("group", sort=False)["seeds"].max()
    for alone, own in gaps[gaps["pair"] == ALONE].groupby("a", sort=False):
        said += shared_floor({student: seeds[student] for student in own["group"].unique()}, alone, seeds[alone])
    return said + of_few_seeds(seeds[seeds.index.isin(trained["group"])])


def shared_floors(table: pd.DataFrame) -> list[str]:
    """`shared_floor` of a table whose controls name the student alone of each group, which has rows of its own."""
    gains = table[(table["pair"] == "teacher-student") & (table["seed"] == "all") & table["gain"].notna()]
    single = table[table["seed"] != "all"]
    of_alone = single[single["pair"] == ALONE].groupby("group")["b"].nunique()
    seeds = single[single["pair"] == "teacher-student"].groupby("group")["b"].nunique()
    named = gains["control"].astype(str).str.extract(r"^floor: [^;(]*\((.*?)\)(?:;|$)")[0]
    said: list[str] = []
    for alone, own in gains.groupby(named, sort=False):
        if alone in of_alone:
            said += shared_floor({student: seeds[student] for student in own["group"].unique()}, alone, of_alone[alone])
    return said


def of_few_seeds(seeds: pd.Series) -> list[str]:
    """The caveats of students by how many seeds each group has.

    >>> of_few_seeds(pd.Series({"kd": 2, "fgd": 1}))
    ['one seed of fgd: intervals are over images, and say nothing of another training',
     'fewer than five seeds: the intervals over seeds and images are wide']
    """
    said, lone = [], ", ".join(seeds.index[seeds == 1])
    if lone:
        said.append(f"one seed of {lone}: intervals are over images, and say nothing of another training")
    if ((seeds > 1) & (seeds < 5)).any():
        said.append("fewer than five seeds: the intervals over seeds and images are wide")
    return said


def _active(table: pd.DataFrame) -> list[str]:
    """Where the bounded loss of Chen et al. was active before the first epoch and after the last, by the probes."""
    said = []
    rows = together(table[(table["measure"] == "worse-boxes") & table["epoch"].notna()])
    for (_, b, head), own in rows.groupby(["split", "b", "head"], sort=False):
        own = own.sort_values("epoch")
        first, last = own.iloc[0], own.iloc[-1]
        before, after = (ranged(row.value, row.ci_low, row.ci_high) for row in (first, last))
        said.append(
            f"{b}: its box is worse than the teacher's on {before}% of the {head} rows with an object after "
            f"{first.epoch} epochs, on {after}% after {last.epoch}"
        )
    return said


def outcomes_short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each student and IoU: what it took over, found beyond its teacher, and lost; in percent."""
    rows = table[(table["area"] == "all") & (table["class"] == "all") & (table["pair"] == "teacher-student")]
    lines = []
    for (_, b, iou), own in together(rows).groupby(["split", "b", "iou"], sort=False):
        by = own[own["measure"] != "objects"].drop_duplicates("measure").set_index("measure")
        line = {"student": b, "IoU": iou}
        for outcome, name in (("transfer", "transfer"), ("beyond-teacher", "beyond"), ("harm", "harm")):
            if outcome in by.index:
                row = by.loc[outcome]
                floor = f" ({points(row.floor)})" if points(row.floor) else ""
                line[f"{name} % (2nd seed)"] = ranged(row.value, row.ci_low, row.ci_high) + floor
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def outcome_notes(table: pd.DataFrame) -> list[str]:
    """Whether transfer is more than what a second seed of the student alone finds, and whose mistakes were kept."""
    rows = table[(table["area"] == "all") & (table["class"] == "all") & (table["pair"] == "teacher-student")]
    rows = together(rows)
    said = []
    for row in rows[(rows["measure"] == "transfer") & (rows["iou"] == "0.5")].itertuples():
        if pd.isna(row.value):
            said.append(f"{row.b}: there is no object that the teacher alone found, so that none could be transferred")
            continue
        if pd.isna(row.floor):
            said.append(f"{row.b}: what chance finds a second seed of the student alone would say (--baseline RUN)")
            continue
        sure = "more than" if not pd.isna(row.gain) and row.gain_low > 0 else "not surely more than"
        what = f"{points(row.value)}% of the objects that only the teacher found"
        said.append(f"{row.b} finds {what}, {sure} the {points(row.floor)}% of a second student alone")
    for row in rows[rows["measure"] == "inherited-false-positives"].itertuples():
        if not pd.isna(row.gain):
            what = signed(row.gain, row.gain_low, row.gain_high)
            said.append(f"{row.b}: {points(row.value)}% of its false positives are its teacher's, {what} over alone")
    if not (table["measure"] == "transfer").any():
        said.append("no student without a teacher is among the sources: what came from the teacher cannot be told")
    return said


def patch_short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each student, kind of parts and definition: points of AP that are lost in each part."""
    rows = together(table[table["measure"] == "ap-lost"])
    lines = []
    for (_, b, by, definition), own in rows.groupby(["split", "b", "by", "definition"], sort=False):
        named = {row.part: row.part if by == "regions" else f"stride {row.part}" for row in own.itertuples()}
        lost = {named[row.part]: f"{100 * row.value:.1f}" for row in own.itertuples() if row.part != "all"}
        whole = own[own["part"] == "all"].iloc[0]
        line = {"network": b, "seeds": str(whole.seeds), "definition": definition, "parts": by}
        line["AP lost"] = ranged(whole.value, whole.ci_low, whole.ci_high)
        lines.append(line | {"where": ", ".join(f"{part} {value}" for part, value in lost.items())})
    return pd.DataFrame(lines)


def patch_notes(table: pd.DataFrame) -> list[str]:
    """In which part most is lost, and how much less than by the student alone."""
    rows = together(table[(table["measure"] == "ap-lost") & (table["pair"] == "teacher-student")])
    said = []
    if (rows["definition"] == "fitted").any():  # of features that were never asked to fit all is lost
        rows = rows[rows["definition"] == "fitted"]
    for (b, _), own in rows.groupby(["b", "by"], sort=False):
        parts, whole = own[own["part"] != "all"], own[own["part"] == "all"].iloc[0]
        if not whole.value > 0:
            said.append(f"{b}: nothing is lost by its features ({points(whole.value)} points of AP)")
            continue
        most = parts.loc[parts["value"].idxmax()]
        where = WHERE.get(most.part, f"at stride {most.part}")
        said.append(f"{b}: of {points(whole.value)} points of AP most are lost {where} ({points(most.value)})")
        if not pd.isna(whole.gain):
            said[-1] += f"; the student alone loses {points(whole.floor)}"
    return said + shared_floors(table)
