"""The attention IoU of Guo et al. (arXiv 2405.00739, released code), for comparison with their numbers.

Maps are interpolated to the size of the image, scaled to [0, 1] and cut at 0.4; intersections and unions are pooled
over a batch. What is wrong with it: the two areas are not the same, so that chance has no one value (two independent
Gaussian 7x7 maps give 0.56, and the published values are 0.41 to 0.59); one outlier moves the cut of both maps; images
with large areas count more, and the number depends on the batches.
"""

from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.grids import as_maps

THRESHOLD = 0.4
EPSILON = 1e-8
PIXELS = 2**20  # worked on at once


def linear_weights(small: int, large: int) -> np.ndarray:
    """Linear interpolation from `small` to `large` points, as torch's with align_corners=False: float64 [large, small].

    >>> linear_weights(2, 4)
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]])
    """
    at = np.clip((np.arange(large) + 0.5) * (small / large) - 0.5, 0, small - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, small - 1)
    weights = np.zeros((large, small))
    np.add.at(weights, (np.arange(large), low), 1 - (at - low))
    np.add.at(weights, (np.arange(large), high), at - low)
    return weights


def threshold_masks(maps: Any, size: tuple[int, int] | None = None, threshold: float = THRESHOLD) -> np.ndarray:
    """Which pixels of each map [N, h, w] are above the threshold of its range: bool [N, H, W].

    Args:
        size: (H, W), to which the maps are first interpolated; None leaves them as they are.
        threshold: of (m - min) / (max - min + 1e-8); strictly above.

    >>> threshold_masks([[[0.0, 1.0, 2.0]]]).tolist()
    [[[False, True, True]]]
    """
    maps = as_maps(maps)
    height, width = maps.shape[1:] if size is None else size
    down, across = linear_weights(maps.shape[1], height), linear_weights(maps.shape[2], width)
    masks = np.empty((len(maps), height, width), dtype=bool)
    step = max(1, PIXELS // (height * width))
    for start in range(0, len(maps), step):
        part = maps[start : start + step]
        part = part if part.shape[1:] == (height, width) else down @ part @ across.T
        low, high = (extreme(part, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
        np.greater(part - low, threshold * (high - low + EPSILON), out=masks[start : start + step])
    return masks


def intersection_union(*masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each image in all, and in any, of two or more masks [N, H, W]: int [N] each.

    >>> intersection_union(np.array([[[True, True]]]), np.array([[[True, False]]]))
    (array([1]), array([2]))
    """
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        raise KDScopeError(f"an IoU needs masks of one shape, not {[list(mask.shape) for mask in masks]}")
    together, any_of = np.logical_and.reduce(masks), np.logical_or.reduce(masks)
    return together.sum(axis=(1, 2)), any_of.sum(axis=(1, 2))


def per_image_iou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """IoU of each image [N]; NaN where all masks are empty.

    >>> per_image_iou(np.array([1, 0]), np.array([2, 0]))
    array([0.5, nan])
    """
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def pooled_iou(intersection: np.ndarray, union: np.ndarray, batch_size: int | None = None) -> float:
    """sum I / sum U of each batch, averaged over batches by their sizes; None: all images as one batch.

    A batch without any pixel (the code's 0/0) is left out.

    >>> pooled_iou(np.array([12, 0]), np.array([12, 2])), pooled_iou(np.array([12, 0]), np.array([12, 2]), 1)
    (0.8571428571428571, 0.5)
    """
    sizes, shared, whole = _batches(intersection, union, batch_size)
    known = whole > 0
    return float(np.average(shared[known] / whole[known], weights=sizes[known])) if known.any() else float("nan")


def pooled_influence(intersection: np.ndarray, union: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """What each image adds to `pooled_iou` (its infinitesimal jackknife) [N]: the standard error is its root of sum of
    squares."""
    sizes, shared, whole = _batches(intersection, union, batch_size)
    batch = np.arange(len(union)) // (batch_size or max(1, len(union)))
    share = sizes / sizes[whole > 0].sum() if (whole > 0).any() else sizes
    whole = np.maximum(whole, 1)
    return share[batch] * (intersection - (shared / whole)[batch] * union) / whole[batch]


def _batches(
    intersection: np.ndarray, union: np.ndarray, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts = np.arange(0, len(union), batch_size or max(1, len(union)))
    sizes = np.diff(np.r_[starts, len(union)]).astype(float)
    return sizes, np.add.reduceat(intersection, starts), np.add.reduceat(union, starts)
