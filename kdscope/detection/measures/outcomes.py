"""What became of each object: found by teacher, by the student alone, by the distilled student?

With hits T, B (student alone) and K (distilled) of every ground-truth object: transfer = |T not-B K| / |T not-B|, what
the teacher could have taught and did; beyond the teacher = |not-T not-B K| / |not-T not-B|; harm = |B not-K| / |B|. Two
trainings of the student alone differ as well: the same three numbers with a second B in the place of K are the churn
above which transfer counts, and what is found beyond the teacher cannot come from it. A K that began with B's weights
and saw B's batches misses what B misses; so B must be of another seed, as far from K as from the second B.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdscope.detection.measures.cards import SHARE
from kdscope.detection.measures.resampling import Score, ratio
from kdscope.errors import KDScopeError

OUTCOMES = ("transfer", "beyond-teacher", "harm", "kept")


class Outcome(NamedTuple):
    """A share of objects [0, 1] with what it was in resampled images, and how many objects it is a share of."""

    score: Score
    n: int

    @property
    def value(self) -> float:
        return self.score.value

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        return self.score.interval(confidence, SHARE)


def outcomes(
    teacher: np.ndarray, alone: np.ndarray, distilled: np.ndarray, image: np.ndarray, images: int | None = None
) -> dict[str, Outcome]:
    """The shares of `OUTCOMES`; images are resampled, whose objects are not independent, the same for all networks.

    Args:
        teacher, alone, distilled: bool [M], which objects each found.
        image: int [M], which image each object is in; images: how many there are, the last one's by default.

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
    count = int(image.max(initial=-1)) + 1 if images is None else images
    found = {}
    for name, (hit, of) in parts.items():
        sums = (np.bincount(image, part, count) for part in (hit & of, of))
        found[name] = Outcome(ratio(*sums), int(of.sum()))
    return found


def table_of_outcomes(hits: Sequence[np.ndarray]) -> np.ndarray:
    """How many objects were found by whom: int [2, ..., 2], one axis (missed, found) for each detector.

    >>> table_of_outcomes([np.array([True, False, True]), np.array([True, False, False])])
    array([[1, 0],
           [1, 1]])
    """
    table = np.zeros((2,) * len(hits), dtype=np.int64)
    np.add.at(table, tuple(np.asarray(each, dtype=np.int64) for each in hits), 1)
    return table
