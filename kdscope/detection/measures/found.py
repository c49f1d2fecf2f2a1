"""What a detector found in an image, and who of two lists of boxes belongs to whom."""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from kdscope.errors import KDScopeError

SAME_LABEL, NEAR_SCORE = 1e-6, 1e-9  # what decides among equal overlaps, too little to outweigh a better one


class Found(NamedTuple):
    """Detections of one image: boxes [n, 4] (x1, y1, x2, y2) float64, scores [n] in [0, 1], labels [n] int64 from 1."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, boxes: Any, scores: Any, labels: Any) -> "Found":
        """From anything that is like arrays; a KDScopeError where lengths or shapes differ.

        >>> Found.of([[0, 0, 2, 2]], [0.5], [1]).boxes.shape
        (1, 4)
        """
        b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        s, c = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
        if not len(b) == len(s) == len(c):
            raise KDScopeError(f"{len(b)} boxes with {len(s)} scores and {len(c)} labels; each needs one of both")
        return cls(b, s, c)

    def above(self, score: float) -> "Found":
        """Those with at least that score."""
        keep = self.scores >= score
        return Found(self.boxes[keep], self.scores[keep], self.labels[keep])


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]: [n, m], 0 where both are empty.

    >>> box_iou(np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 8], [20, 20, 30, 30]]))
    array([[0.8, 0. ]])
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def assigned(
    a: Found, b: Found, iou: float = 0.5, same_class: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The one-to-one assignment of most overlap (Kuhn 1955) among pairs of IoU >= `iou`: rows of a and b, and IoU.

    The number of pairs comes first, then the sum of their IoU; among equal overlaps a pair has one label, and then the
    nearest scores, if it can. (Without that the order of the detections would decide: suppression class by class leaves
    one box under two labels, and which of them belongs to which is not a matter of overlap.)

    Args:
        same_class: whether only detections of one label can be a pair.

    >>> one = Found.of([[0, 0, 10, 10]], [0.9], [1])
    >>> [x.tolist() for x in assigned(one, Found.of([[0, 0, 10, 8], [0, 0, 10, 6]], [0.9, 0.8], [1, 1]))]
    [[0], [0], [0.8]]
    """
    overlap = box_iou(a.boxes, b.boxes)
    allowed = overlap >= iou
    if same_class:
        allowed &= a.labels[:, None] == b.labels[None, :]
    # A pair is worth more than all IoU together can be, so that no pair is given up for a better overlap.
    tie = SAME_LABEL * (a.labels[:, None] == b.labels) - NEAR_SCORE * np.abs(a.scores[:, None] - b.scores)
    worth = np.where(allowed, overlap + tie + 1 + min(overlap.shape), 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept], overlap[rows[kept], columns[kept]]
