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
    return BoxTruth(*(score[:, 0] for score in by_kind(a, np.where(v, np.where(m, 0, 1), -1), 1)))


def by_kind(a: np.ndarray, kind: np.ndarray, kinds: int) -> BoxTruth:
    """The scores of all objects, and of each kind of object while the others are left out: [N, 1 + kinds] each.

    All follow from one sort of the cells of an image, by the numbers of cells of each kind up to each value.

    Args:
        a: float32 or float64 [N, K], not negative.
        kind: int [N, K]; of an object 0 to kinds - 1, of the background `kinds`, of the padding -1.

    >>> truth = by_kind(np.array([[3.0, 2.0, 1.0, 1.0]]), np.array([[1, 2, 0, 2]]), 2)
    >>> truth.auroc.tolist(), truth.energy.round(3).tolist()
    ([[0.625, 0.25, 1.0]], [[0.571, 0.25, 0.5]])
    """
    values, kind = _ascending(a, kind)
    ties, rest = _ties(values), kind == kinds
    around = _counts(rest)
    level = sum(np.take_along_axis(around, end, axis=1) for end in ties)  # twice those below, ties half
    energy = np.einsum("nk,nk->n", values, rest)
    parts = [(kind >= 0) & ~rest, *(kind == k for k in range(kinds))][: kinds + (kinds > 1)]
    found = [_of_part(values, own, level, ties, around, energy) for own in parts]
    return BoxTruth(*(np.stack(column, axis=1) for column in zip(*found, strict=True)))


def _ascending(a: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and kinds [N, K] in the order of the values, padding among the first.

    Maps of pixels are float32. Such numbers, none below zero, are in order as whole numbers too, behind which their
    kind finds room: ten times faster than an order of them.
    """
    low = np.where(kind >= 0, a, a.dtype.type(0)) + a.dtype.type(0)  # so that no zero is -0.0
    if a.dtype != np.float32:
        order = np.argsort(np.where(kind >= 0, low, -1.0), axis=1)
        return np.take_along_axis(low, order, axis=1), np.take_along_axis(kind, order, axis=1)
    keys = low.view(np.uint32).astype(np.uint64) << np.uint64(8) | (kind + 1).astype(np.uint64)
    keys.sort(axis=1)
    values = (keys >> np.uint64(8)).astype(np.uint32).view(np.float32)
    return values.astype(np.float64), (keys & np.uint64(255)).astype(np.int64) - 1


def _of_part(
    values: np.ndarray,
    own: np.ndarray,
    level: np.ndarray,
    ties: tuple[np.ndarray, np.ndarray],
    around: np.ndarray,
    energy: np.ndarray,
) -> BoxTruth:
    """The scores [N] of the cells `own` [N, K], in the order of their values, among those and the background.

    `around` are the counts of the background, and `energy` what it has of the attention.
    """
    ours = _counts(own)
    every = ours + around
    objects, cells = ours[:, -1].astype(np.float64), every[:, -1].astype(np.float64)
    known = (objects > 0) & (objects < cells)
    # As many of the highest cells as objects have end among the cells of one value, which are shared out.
    last = np.count_nonzero(every[:, 1:] <= around[:, -1:], axis=1)[:, None]
    start, stop = (np.take_along_axis(end, np.minimum(last, own.shape[1] - 1), axis=1) for end in ties)
    (low, high), (below, upto) = (
        tuple(np.take_along_axis(some, end, axis=1)[:, 0] for end in (start, stop)) for some in (ours, every)
    )
    share = (objects - (cells - upto)) / np.maximum(upto - below, 1)
    shared = objects - high + share * (high - low)
    inside = np.einsum("nk,nk->n", values, own)
    with np.errstate(invalid="ignore", divide="ignore"):
        energy = np.where(inside + energy > 0, inside / (inside + energy), np.nan)
        auroc = np.einsum("nk,nk->n", level, own) / 2 / (objects * (cells - objects))
        found = (energy, energy / (objects / cells), auroc, shared / (2 * objects - shared))
    return BoxTruth(*(np.where(known, score, np.nan) for score in found))


def _ties(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where those that are equal to each of ascending values [N, K] start, and where they stop: int [N, K] each.

    >>> [ends.tolist() for ends in _ties(np.array([[1.0, 1.0, 2.0]]))]
    [[[0, 0, 2]], [[2, 2, 3]]]
    """
    length = ordered.shape[1]
    new = np.ones((len(ordered), length + 1), dtype=bool)
    new[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]
    start = np.maximum.accumulate(np.where(new[:, :-1], np.arange(length), 0), axis=1)
    stop = np.minimum.accumulate(np.where(new[:, 1:], np.arange(1, length + 1), length)[:, ::-1], axis=1)[:, ::-1]
    return start, stop


def _counts(there: np.ndarray) -> np.ndarray:
    """How many of bool [N, K] are before each place, and at the end all: int64 [N, K + 1]."""
    found = np.zeros((len(there), there.shape[1] + 1), dtype=np.int64)
    np.cumsum(there, axis=1, out=found[:, 1:])
    return found


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
    """Attention float64 or float32, objects and valid cells bool, all [N, K]; objects are cut to the valid cells."""
    a = np.asarray(attention)
    a = a if a.dtype == np.float32 else a.astype(np.float64)
    m = np.asarray(inside, dtype=bool)
    v = np.ones_like(m) if valid is None else np.asarray(valid, dtype=bool)
    if a.ndim != 3 or a.shape != m.shape or m.shape != v.shape:
        shapes = f"{list(a.shape)}, objects of {list(m.shape)} and valid cells of {list(v.shape)}"
        raise KDScopeError(f"attention of shape {shapes}; all must be the same [N, H, W]")
    a, m, v = (each.reshape(len(each), -1) for each in (a, m, v))
    if not (np.isfinite(a) & (a >= 0) | ~v).all():
        raise KDScopeError("attention must be finite and not negative, such as the mean of |F| over channels")
    return a, m & v, v
