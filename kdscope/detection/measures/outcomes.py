"""What became of each object: found by teacher, by the student alone, by the distilled student?

With hits T, B (student alone) and K (distilled) of every ground-truth object: transfer = |T not-B K| / |T not-B|, what
the teacher could have taught and did; beyond the teacher = |not-T not-B K| / |not-T not-B|; harm = |B not-K| / |B|. Two
trainings of the student alone differ as well: the same three numbers with a second B in the place of K are the churn
above which transfer counts, and what is found beyond the teacher cannot come from it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.statistics import bootstrap_mean

OUTCOMES = ("transfer", "beyond-teacher", "harm", "kept")


class Outcome(NamedTuple):
    """A share of objects [0, 1] with its interval over images, and how many objects it is a share of."""

    value: float
    ci_low: float
    ci_high: float
    n: int


def outcomes(
    teacher: np.ndarray, alone: np.ndarray, distilled: np.ndarray, image: np.ndarray, confidence: float = 0.95
) -> dict[str, Outcome]:
    """The shares of `OUTCOMES`; an interval is a bootstrap over images, whose objects are not independent.

    Args:
        teacher, alone, distilled: bool [M], which objects each found.
        image: int [M], which image each object is in.

    Returns:
        By name; NaN where there is no object that it could be a share of. "kept" is |B K| / |B|, one minus harm.

    Raises:
        KDScopeError: arrays of other lengths.

    >>> t, b, k = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 0]], dtype=bool)
    >>> {name: round(o.value, 2) for name, o in outcomes(t, b, k, np.arange(4)).items()}
    {'transfer': 0.5, 'beyond-teacher': 1.0, 'harm': 1.0, 'kept': 0.0}
    """
    t, b, k = (np.asarray(hits, dtype=bool) for hits in (teacher, alone, distilled))
    image = np.asarray(image)
    if len({len(t), len(b), len(k), len(image)}) > 1:
        raise KDScopeError(
            f"hits of {len(t)}, {len(b)} and {len(k)} objects in {len(image)} places; they must be the same"
        )
    parts = {"transfer": (k, t & ~b), "beyond-teacher": (k, ~t & ~b), "harm": (~k, b), "kept": (k, b)}
    return {name: share(hit, of, image, confidence) for name, (hit, of) in parts.items()}


def share(hit: np.ndarray, of: np.ndarray, image: np.ndarray, confidence: float = 0.95) -> Outcome:
    """The share of `hit` among the objects `of`, bool [M] both, with an interval over images."""
    known, place = np.unique(image, return_inverse=True)
    total = np.bincount(place, of, len(known))
    found = np.bincount(place, hit & of, len(known))
    there = total > 0
    if not there.any():
        return Outcome(np.nan, np.nan, np.nan, 0)
    values = found[there] / total[there]
    low, high = bootstrap_mean(values, total[there], confidence=confidence, method="percentile")
    return Outcome(float(found.sum() / total.sum()), low, high, int(total.sum()))


def table_of_outcomes(hits: Sequence[np.ndarray]) -> np.ndarray:
    """How many objects were found by whom: int [2, ..., 2], one axis (missed, found) for each detector.

    >>> table_of_outcomes([np.array([True, False, True]), np.array([True, False, False])])
    array([[1, 0],
           [1, 1]])
    """
    table = np.zeros((2,) * len(hits), dtype=np.int64)
    np.add.at(table, tuple(np.asarray(each, dtype=np.int64) for each in hits), 1)
    return table


def gap_of_shares(
    hit: np.ndarray, of: np.ndarray, other_hit: np.ndarray, other_of: np.ndarray, confidence: float = 0.95
) -> Outcome:
    """The difference of two shares of things in the same images, which are drawn for both at once.

    Args:
        hit, of: [N], by image, how many and of how many; other_hit, other_of: of what is subtracted.

    >>> gap = gap_of_shares(np.ones(4), np.full(4, 2), np.ones(4), np.full(4, 4))
    >>> gap.value, gap.ci_low, gap.ci_high
    (0.25, 0.25, 0.25)
    """
    images = len(of)
    if not images or not of.sum() or not other_of.sum():
        return Outcome(np.nan, np.nan, np.nan, 0)
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=1000)
    with np.errstate(invalid="ignore"):
        gaps = (draws @ hit) / (draws @ of) - (draws @ other_hit) / (draws @ other_of)
    low, high = np.nanquantile(gaps, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = hit.sum() / of.sum() - other_hit.sum() / other_of.sum()
    return Outcome(float(value), float(low), float(high), int(of.sum()))
