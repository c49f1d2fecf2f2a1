"""Which rows of a table of fidelity its figures show, and under what names."""

import pandas as pd

from kdscope.figures.style import short_names

TAUGHT, ALONE = ("teacher-student", "ensemble-student"), "floor:independent-student"
FEW = 8  # rows that leave room for two lines of text each
AXES = {
    "agreement": "Top-1 agreement with the teacher (share)",
    "kl-teacher-student": "KL(teacher || student) (nats)",
    "agreement-teacher-right": "Agreement where the teacher is right (share)",
    "agreement-teacher-wrong": "Agreement where the teacher is wrong (share)",
}


def one_teacher(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a student with several teachers the rows against their ensemble; of one without, those against the same."""
    taught = rows["pair"] != ALONE
    several = rows[rows["pair"] == "ensemble-student"].groupby(["group", "split"]).size().index
    with_ensemble = pd.MultiIndex.from_frame(rows[["group", "split"]]).isin(several)
    chosen = rows[taught & (~with_ensemble | (rows["pair"] == "ensemble-student"))]
    return pd.concat([chosen, rows[~taught & rows["a"].isin(chosen["a"].unique())]])


def all_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all seeds together where there are any, else those of the only one."""
    together = rows.groupby(["group", "a_group", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    return rows[~together.astype(bool) | (rows["seed"] == "all")]


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """With a column `label`: the student, and its teacher where the students differ in that and there is room."""
    label = rows["b"].map(short_names(rows["b"], 30))
    if rows["a"].nunique() > 1 and rows["b"].nunique() <= FEW:
        label += "\nby " + rows["a"].map(short_names(rows["a"], 30))
    return rows.assign(label=label)
