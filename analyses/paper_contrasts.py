"""Claims of Guo et al. (arXiv 2405.00739) that are differences of means and not relations, judged with intervals."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from kdscope.analyses.published import CLAIM
from kdscope.measures.claim import verdict
from kdscope.measures.correlation import FEWEST
from kdscope.measures.statistics import student_interval

MIXED = "Teachers of mixed augmentation make the best students"
APART = "Teachers that were trained differently attend to different places"
FOLLOWED = "Standardised logits lower fidelity", "Half images lower fidelity"
FITTED = "Standardised logits lower the accuracy gap", "Half images lower the accuracy gap"
ORDER = ("published", "guo2024-code", "kdscope")


def contrasts(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Claims on means and not on relations, by each definition: rows as `claims` gives.

    An interval of Student's t over the differences, of which fewer than 3 tell nothing: one for each dataset and seed.
    With fewer than 3 seeds one for each dataset, seed and (of accuracies) student's augmentation, of mixed and equal
    teachers; one for each trial and seed, of two settings.
    """
    for claim, measure, sign, place in (
        (MIXED, "accuracy", 1, "Table 1"),
        (APART, "attention-iou", -1, "Tables C.2 to C.4"),
    ):
        found = {d: _mixed(table, measure, d) for d in ORDER}
        yield _judged(claim, sign, place, f"{measure}, mixed less equal teachers", found)
    for k, (setting, place) in enumerate((("zKD", "Figure 4"), ("hKD", "Tables C.2 to C.4"))):
        for claim, measure in ((FOLLOWED[k], "agreement"), (FITTED[k], "accuracy-gap")):
            found = {d: _settings(table, measure, setting, d) for d in ORDER}
            yield _judged(claim, -1, place, f"{measure}, {setting} less vKD", found)


def _judged(claim: str, sign: int, place: str, what: str, found: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for each definition that has differences; the size is the published mean, where it has the claimed sign."""
    printed = sign * found["published"].mean() if len(found["published"]) else 0.0
    rows = []
    for definition, differences in found.items():
        if not len(differences):
            continue
        mean, n = float(differences.mean()), len(differences)
        error = float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        low, high = student_interval(mean, error, n) if n > 1 else (math.nan, math.nan)
        detail = (
            f"{what}: {mean:+.4f} [{low:+.4f}, {high:+.4f}], {int((sign * differences > 0).sum())} of {n} as claimed"
        )
        told = verdict(sign, low, high, max(printed, 1e-12)) if n >= FEWEST else "cannot be told"
        rows.append(
            {"claim": claim, "verdict": told, "detail": detail, "n": n, "definition": definition, "place": place}
        )
    return pd.DataFrame(rows, columns=[*CLAIM])


def _of(table: pd.DataFrame, measure: str, definition: str, settings: tuple[str, ...]) -> pd.DataFrame:
    rows = table[(table["measure"] == measure) & table["setting"].isin(settings) & table["trial"].notna()]
    return rows[rows["definition"] == definition].assign(seed=lambda rows: rows["seed"].fillna(""))


def _mixed(table: pd.DataFrame, measure: str, definition: str) -> np.ndarray:
    rows = _of(table, measure, definition, ("vKD",))
    kinds = rows["trial"].str.extract(r"^T1(.)T2(.)S")
    rows = rows.assign(kind=np.where(kinds[0] == kinds[1], "equal", "mixed"))
    # Clean images give two teachers one overlap, whoever their student is: that is one difference, and not two.
    of = ["dataset", *(["student"] if measure == "accuracy" else []), "seed"]
    means = rows.pivot_table("value", of, "kind").dropna()
    return _observed(means["mixed"] - means["equal"]) if {"mixed", "equal"} <= set(means) else np.array([])


def _settings(table: pd.DataFrame, measure: str, setting: str, definition: str) -> np.ndarray:
    rows = _of(table, measure, definition, ("vKD", setting))
    means = rows.pivot_table("value", ["dataset", "trial", "seed"], "setting").dropna()
    return _observed(means[setting] - means["vKD"]) if {setting, "vKD"} <= set(means) else np.array([])


def _observed(differences: pd.Series) -> np.ndarray:
    """One for each dataset and seed, whose trainings share teachers; all of them where there are too few seeds."""
    seeds = differences.groupby(level=["dataset", "seed"]).mean()
    enough = seeds.index.get_level_values("seed").nunique() >= FEWEST
    return (seeds if enough else differences).to_numpy()
