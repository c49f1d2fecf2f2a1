"""Do teacher and student look at the same places? The gap of FGD's figure 1 as numbers, and the overlap at equal area.

Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, section 1: the attention of student and
teacher differs, and more so on objects. On spatial attention A (eq. 1, which sums to the number of cells): the mean
of |A_T - A_S| over the cells of objects, and the same elsewhere. The overlap is that of the q highest cells of each, q
being the number of cells of objects, ties shared out evenly.
"""

from typing import Any, NamedTuple

import numpy as np

from kdscope.detection.measures.attention_boxes import checked, highest, soft_iou
from kdscope.errors import KDScopeError


class AttentionGap(NamedTuple):
    """One number an image [N]; NaN where it is not defined."""

    foreground: np.ndarray
    background: np.ndarray
    iou: np.ndarray


def attention_gap(teacher: Any, student: Any, inside: Any, valid: Any = None) -> AttentionGap:
    """Gap and overlap of two maps of each image.

    Args:
        teacher, student: spatial attention [N, H, W], not negative, on one grid.
        inside: bool [N, H, W], cells of objects. valid: bool [N, H, W], cells that are no padding; None: all.

    Returns:
        [N] each: foreground and overlap are NaN without an object, the background without anything else.

    Raises:
        KDScopeError: other shapes, negative or non-finite attention.

    >>> t, s = np.array([[[3.0, 1.0]]]), np.array([[[2.0, 2.0]]])
    >>> [float(x[0]) for x in attention_gap(t, s, np.array([[[True, False]]]))]
    [1.0, 1.0, 0.3333333333333333]
    """
    t, m, v = checked(teacher, inside, valid)
    s, _, _ = checked(student, inside, valid)
    if np.shape(teacher) != np.shape(student):
        raise KDScopeError(f"attention of {np.shape(teacher)} and {np.shape(student)}; both must be on one grid")
    difference = np.abs(t - s)
    foreground, background = _mean(difference, m), _mean(difference, v & ~m)
    count = m.sum(axis=1)
    overlap = np.where(count > 0, soft_iou(highest(t, v, count), highest(s, v, count)), np.nan)
    return AttentionGap(foreground, background, overlap)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    count, total = where.sum(axis=1), np.where(where, values, 0.0).sum(axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
