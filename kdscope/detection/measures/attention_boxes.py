"""Does a detector look at the objects? Its attention map against the ground-truth boxes, without a threshold to choose.

Four scores of a map A over the cells of an image; M are the cells of the objects, p is their share of all cells:

- energy inside: sum_M A / sum A (Wang et al., CVPR workshops 2020); a uniform map scores p;
- lift: the energy over p; a uniform map scores 1;
- AUROC: how often a cell of an object is above one of the background, ties half (chance 0.5);
- area-matched IoU: of M and the |M| highest cells, ties shared out evenly; a uniform map scores p / (2 - p).

Cells of the padding belong to no image and are left out of all of them.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from kdscope.errors import KDScopeError


class BoxTruth(NamedTuple):
    """One number an image [N] for each score; NaN where it is not defined."""

    energy: np.ndarray
    lift: np.ndarray
    auroc: np.ndarray
    iou: np.ndarray


def against_boxes(attention: Any, inside: Any, valid: Any = None) -> BoxTruth:
    """The four scores of each image.

    Args:
        attention: maps [N, H, W], not negative.
        inside: bool [N, H, W], the cells of objects.
        valid: bool [N, H, W], the cells that are no padding; None: all.

    Returns:
        Scores [N]; all NaN for an image without a cell of an object or without one of the background, and the energy
        and lift also where the map is zero.

    Raises:
        KDScopeError: other shapes, negative or non-finite attention on a valid cell.

    >>> truth = against_boxes(np.ones((1, 8, 8)), np.arange(64).reshape(1, 8, 8) < 8)
    >>> [round(float(score[0]), 4) for score in truth]
    [0.125, 1.0, 0.5, 0.0667]
    """
    a, m, v = checked(attention, inside, valid)
    cells, objects = v.sum(axis=1), m.sum(axis=1)
    known = (objects > 0) & (objects < cells)
    total = np.where(v, a, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        energy = np.where(known & (total > 0), np.where(m, a, 0.0).sum(axis=1) / total, np.nan)
        lift = energy / (objects / cells)
        auroc = np.where(known, _auroc(a, m, v), np.nan)
        iou = np.where(known, soft_iou(highest(a, v, objects), m), np.nan)
    return BoxTruth(energy, lift, auroc, iou)


def highest(a: np.ndarray, valid: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The share [N, K], in [0, 1], that each valid cell has in the `count` [N] highest; equal cells share what is left.

    >>> highest(np.array([[3.0, 1.0, 1.0, 0.0]]), np.ones((1, 4), dtype=bool), np.array([2]))
    array([[1. , 0.5, 0.5, 0. ]])
    """
    low = np.where(valid, a, -np.inf)
    last = np.clip(np.asarray(count) - 1, 0, None)[:, None].astype(np.int64)
    threshold = np.take_along_axis(-np.sort(-low, axis=1), last, axis=1)
    above, level = low > threshold, (low == threshold) & valid
    left = np.asarray(count)[:, None] - above.sum(axis=1, keepdims=True)
    share = left / np.maximum(level.sum(axis=1, keepdims=True), 1)
    return above + level * share


def soft_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sum min(a, b) / sum max(a, b) of each image [N], for shares [N, K] in [0, 1]; NaN where both are empty."""
    union = np.maximum(a, b).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, np.minimum(a, b).sum(axis=1) / union, np.nan)


def checked(attention: Any, inside: Any, valid: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention float64, objects and valid cells bool, all [N, K]; objects are cut to the valid cells."""
    a = np.asarray(attention, dtype=np.float64)
    m = np.asarray(inside, dtype=bool)
    v = np.ones_like(m) if valid is None else np.asarray(valid, dtype=bool)
    if a.ndim != 3 or a.shape != m.shape or m.shape != v.shape:
        shapes = f"{list(a.shape)}, objects of {list(m.shape)} and valid cells of {list(v.shape)}"
        raise KDScopeError(f"attention of shape {shapes}; all must be the same [N, H, W]")
    a, m, v = (each.reshape(len(each), -1) for each in (a, m, v))
    if not (np.isfinite(a) & (a >= 0))[v].all():
        raise KDScopeError("attention must be finite and not negative, such as the mean of |F| over channels")
    return a, m & v, v


def _auroc(a: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mann and Whitney's U over the number of pairs; ranks of ties are their mean."""
    ranks = rankdata(np.where(v, a, -1.0), axis=1) - (~v).sum(axis=1, keepdims=True)  # padding is below all others
    objects = m.sum(axis=1)
    others = v.sum(axis=1) - objects
    above = np.where(m, ranks, 0.0).sum(axis=1) - objects * (objects + 1) / 2
    return above / np.where(objects * others > 0, objects * others, np.nan)
