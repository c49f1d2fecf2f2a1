"""Do teacher and student put the same classes on top? The share of the teacher's k first classes among the student's.

|A ∩ B| / k, which chance alone makes k / C. The Jaccard index of one image is o / (2 - o) of this o.
"""

from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, measure
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair


def top_classes(logits: np.ndarray, k: int) -> np.ndarray:
    """Whether each class is among the k largest of its image: bool [B, C], k of them in each row (all, where k > C).

    Of equal logits the first in class order comes first.

    >>> top_classes(np.array([[3.0, 1.0, 1.0, 2.0]]), 3)
    array([[ True,  True, False,  True]])
    """
    left = np.array(logits, dtype=np.float64)
    chosen = np.zeros(left.shape, dtype=bool)
    rows = np.arange(len(left))
    for _ in range(min(k, left.shape[1])):
        top = left.argmax(axis=1)
        chosen[rows, top] = True
        left[rows, top] = -np.inf
    return chosen


def top_overlap(teacher_logits: np.ndarray, student_logits: np.ndarray, k: int = 5) -> np.ndarray:
    """|A ∩ B| / k [B] of the k first classes A and B of logits [B, C]; k is at most C.

    >>> top_overlap(np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[3.0, 0.0, 1.0, 2.0]]), k=2)
    array([0.5])
    """
    shared = top_classes(teacher_logits, k) & top_classes(student_logits, k)
    return shared.sum(axis=1) / min(k, shared.shape[1])


@measure
class TopOverlap(LogitMean):
    """Share of the teacher's first five classes that are among the student's first five.

    With five classes or fewer it is always 1, and says nothing.

    Args:
        k: how many classes, 1 or more.

    >>> TopOverlap(k=1).update([[2.0, 0, 0]], [[0, 1.0, 0]]).compute().value
    0.0
    """

    card = Card(
        *("top5-overlap", "Top-5 overlap", "share", (0, 1), "higher", "share of common top-5 classes"),
        (*ORDER_ONLY, "swap"),
    )

    def __init__(self, definition: str = "kdscope", *, k: int = 5):
        if k < 1:
            raise KDScopeError(f"the overlap of the first {k} classes; it needs at least 1")
        super().__init__(definition)
        self.k = k

    def options(self) -> dict[str, Any]:
        return super().options() | {"k": self.k}

    def per_sample(self, pair: Pair) -> np.ndarray:
        return top_overlap(pair.teacher, pair.student, self.k)
