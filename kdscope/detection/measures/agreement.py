"""Do two detectors find the same things? Agreement of detections, whatever the truth is.

Scores of two detectors are not comparable: each is cut at the score of its own largest F1 (`best_score`). Then, image
by image, the detections are paired one to one. Agree-F1 at tau = 2 n / (|D_T| + |D_S|), n pairs of one class with
IoU >= tau; the same whatever the class; how often paired boxes have one label; their IoU; and how far their scores are
apart. Both empty agree (1), one empty does not (0).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdscope.detection.measures.found import Found, assigned
from kdscope.errors import KDScopeError


class Agreement(NamedTuple):
    """By image, [N]; NaN where it is not defined (there is no pair)."""

    f1: np.ndarray
    f1_any_class: np.ndarray
    same_label: np.ndarray
    iou: np.ndarray
    score_gap: np.ndarray


def detection_agreement(teacher: Sequence[Found], student: Sequence[Found], iou: float = 0.5) -> Agreement:
    """Agreement on each image of detections that are already cut.

    Args:
        teacher, student: what each found in the same images.
        iou: in (0, 1], the least overlap of a pair.

    Returns:
        [N] each: f1 and f1_any_class in [0, 1]; same_label, the share of the pairs of any class; iou (of those) and
        score_gap (mean |score_T - score_S| of the pairs of one class), NaN without pairs.

    Raises:
        KDScopeError: other numbers of images, or an IoU outside (0, 1].

    >>> t = Found.of([[0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.8], [1, 2])
    >>> s = Found.of([[0, 0, 10, 8], [20, 20, 30, 30], [50, 50, 60, 60]], [0.7, 0.8, 0.6], [1, 1, 3])
    >>> [round(float(x[0]), 3) for x in detection_agreement([t], [s])]
    [0.4, 0.8, 0.5, 0.9, 0.2]
    """
    if len(teacher) != len(student):
        raise KDScopeError(f"detections of {len(teacher)} and {len(student)} images; they must be of the same images")
    if not 0 < iou <= 1:
        raise KDScopeError(f"IoU {iou}: the least overlap of a pair must be above 0 and at most 1")
    return Agreement(*np.array([_of_image(t, s, iou) for t, s in zip(teacher, student, strict=True)]).reshape(-1, 5).T)


def _of_image(t: Found, s: Found, iou: float) -> tuple[float, ...]:
    size = len(t.scores) + len(s.scores)
    if not size:
        return 1.0, 1.0, np.nan, np.nan, np.nan
    rows, columns, _ = assigned(t, s, iou)
    every, other, overlap = assigned(t, s, iou, same_class=False)
    gap = np.abs(t.scores[rows] - s.scores[columns])
    return (
        2 * len(rows) / size,
        2 * len(every) / size,
        float((t.labels[every] == s.labels[other]).mean()) if len(every) else np.nan,
        float(overlap.mean()) if len(every) else np.nan,
        float(gap.mean()) if len(rows) else np.nan,
    )


def best_score(scores: np.ndarray, hits: np.ndarray, objects: int) -> float:
    """The score at which a detector's F1 is largest: where it would be used.

    Args:
        scores: of all its detections [n]. hits: bool [n], those that match an object (each object once).
        objects: how many there are.

    Returns:
        The smallest score that is kept; of equal F1 the higher one. Infinity where there is no detection or no hit.

    >>> best_score(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]), 2)
    0.8
    """
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(hits[order])
    f1 = 2 * true / (np.arange(1, len(order) + 1) + objects)
    last = (
        np.r_[np.diff(scores[order]) != 0, True] if len(order) else np.zeros(0, dtype=bool)
    )  # equal scores go together
    if not len(order) or not true[-1]:
        return float("inf")
    return float(scores[order][np.argmax(np.where(last, f1, -1.0))])
