"""Does what is measured of a student go with its accuracy, over runs? One line that says what it is within groups, too.

Pooled correlations mislead where runs differ in more than what is measured: those published of fidelity, attention and
accuracy are mostly between students of two augmentations (`kdscope.measures.correlation`).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdscope.analyses.cast import TAUGHT
from kdscope.features.cache import FeatureCache
from kdscope.measures.correlation import FEWEST, correlate

BLOCK = 2**22  # logits read at once


def accuracy_of(cache: FeatureCache) -> float:
    """Share of the images of a cache on which the top class is the label."""
    rows = max(1, BLOCK // len(cache.classes))
    blocks = cache.blocks(["logits", "labels"], rows)
    hits = [np.count_nonzero(block["logits"].argmax(axis=1) == block["labels"]) for block in blocks]
    return sum(hits) / len(cache.labels)


def one_by_one(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of students with their teachers, a training each, at its end, by the sound definition.

    Of a student with several teachers, those of their ensemble where it was measured.
    """
    rows = table[table["pair"].isin(TAUGHT) & (table["seed"] != "all") & (table["definition"] == "kdscope")]
    if "epoch" in rows:
        rows = rows[rows["epoch"].isna()]
    together = rows[rows["pair"] == "ensemble-student"]["b"]
    return rows[~rows["b"].isin(together) | (rows["pair"] == "ensemble-student")]


def against_accuracy(rows: pd.DataFrame, accuracy: Sequence[float], what: str) -> list[str]:
    """The line on rows (a run each) of one measure and the accuracies of the same runs; none of fewer than 3 runs."""
    if len(rows) < FEWEST:
        return []
    found = correlate(rows["value"], accuracy, rows["group"])
    few = "" if found.groups >= FEWEST else f"; only {found.groups} kind(s) of training, which shows no relation"
    return [f"{what} against accuracy over runs, on {rows['split'].iloc[0]}: {found}{few}"]
