"""Do two networks look at the same place? Overlap of the top cells of two maps, swept over areas, above chance.

An intersection over union (IoU) needs a chance level: two unrelated maps thresholded at 0.4 of their range share 0.56
of their union. The sets here have the same area in both maps, for which chance is known: see `chance_iou`.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from kdscope.measures.grids import Ranked, as_maps, common_grid, is_flat, ranked

FRACTIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
CELLS = 2**21  # worked on at once


@lru_cache(maxsize=1024)
def chance_iou(count: int, cells: int) -> float:
    """The mean IoU of two independent sets of `count` of `cells` cells.

    With large grids this is f / (2 - f), f = count / cells; on small ones it is more, for IoU is convex in the overlap
    (of one cell in 49, 1/49 and not 1/97), and the formula would show overlap where there is none.

    >>> round(chance_iou(1, 49), 4), round(chance_iou(5000, 10_000), 4)
    (0.0204, 0.3333)
    """
    shared = np.arange(max(0, 2 * count - cells), count + 1)
    return float(np.sum(hypergeom.pmf(shared, cells, count, count) * shared / (2 * count - shared)))


def counts_of(cells: int, fractions: tuple[float, ...] = FRACTIONS) -> np.ndarray:
    """How many of `cells` cells each fraction is: int [F'], at least one, ascending; fractions that are the same go.

    >>> counts_of(16).tolist()
    [1, 2, 3, 4, 5, 6, 8]
    """
    return np.unique(np.clip(np.round(np.asarray(fractions) * cells), 1, max(1, cells - 1)).astype(int))


def top_iou(a: Any, b: Any, fractions: tuple[float, ...] = FRACTIONS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU of the top cells of two maps at each area, for each image.

    Args:
        a, b: maps [N, h, w] of the same images; on different grids the larger is averaged over area to the smaller.
        fractions: of the area.

    Returns:
        areas [F] (the fractions that the grid has), IoU [N, F] (NaN where a map is flat), and its chance level [F].

    Raises:
        KDScopeError: other shapes, different images, values that are not finite.

    >>> areas, iou, chance = top_iou(np.arange(16.0).reshape(1, 4, 4), -np.arange(16.0).reshape(1, 4, 4), (0.25, 0.5))
    >>> areas.tolist(), iou.tolist()
    ([0.25, 0.5], [[0.0, 0.0]])
    """
    a, b = common_grid(as_maps(a), as_maps(b))
    return ranked_iou(ranked(a), ranked(b), fractions)


def ranked_iou(
    a: Ranked, b: Ranked, fractions: tuple[float, ...] = FRACTIONS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`top_iou` of maps on one grid that are ranked already."""
    counts = counts_of(a.cells, fractions)
    shared = np.empty((len(a), len(counts)))
    tied = a.tied | b.tied
    both = np.minimum(a.first, b.first)
    for k, count in enumerate(counts):
        shared[:, k] = np.count_nonzero(both >= a.cells - count, axis=1)
    rows = np.flatnonzero(tied)
    step = max(1, CELLS // a.cells)
    for some in (rows[start : start + step] for start in range(0, len(rows), step)):
        one, other = a.at(some), b.at(some)
        for k, count in enumerate(counts):
            shared[some, k] = np.minimum(one.top(count), other.top(count)).sum(axis=1)
    iou = shared / (2 * counts - shared)
    iou[a.flat | b.flat] = np.nan
    return counts / a.cells, iou, np.array([chance_iou(int(count), a.cells) for count in counts])


def above_chance(iou: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """kappa = (IoU - chance) / (1 - chance): 0 for independent maps, 1 for equal ones; shapes [N, F] and [F].

    >>> above_chance(np.array([[0.5, 1.0]]), np.array([0.0, 0.3]))
    array([[0.5, 1. ]])
    """
    return (iou - chance) / (1 - chance)


def area_under(areas: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """The mean height [N] of kappa [N, F] over its range of areas [F] (trapezoid rule); a lone area is its own mean.

    >>> area_under(np.array([0.1, 0.3, 0.5]), np.array([[0.0, 0.5, 1.0]]))
    array([0.5])
    """
    if len(areas) == 1:
        return kappa[:, 0]
    return (kappa[:, 1:] + kappa[:, :-1]) / 2 @ np.diff(areas) / (areas[-1] - areas[0])


def map_overlap(a: Any, b: Any, fractions: tuple[float, ...] = FRACTIONS) -> np.ndarray:
    """The area under the chance-corrected IoU curve of each image [N]: 1 for equal maps, 0 in the mean for unrelated.

    >>> m = np.random.default_rng(0).normal(size=(3, 7, 7))
    >>> map_overlap(m, 2 * m + 1).round(12)
    array([1., 1., 1.])
    """
    areas, iou, chance = top_iou(a, b, fractions)
    return area_under(areas, above_chance(iou, chance))


def soft_iou(a: Any, b: Any) -> np.ndarray:
    """sum min / sum max of the positive parts of two maps, each scaled to sum 1, for each image [N]; NaN where one has
    none or is flat.

    It sees amounts where the top cells see places alone; smooth unrelated maps score high, so that it is read against a
    floor.

    >>> soft_iou([[[1.0, 3.0]]], [[[3.0, 1.0]]])
    array([0.33333333])
    """
    a, b = common_grid(as_maps(a), as_maps(b))
    flat = is_flat(a) | is_flat(b)
    a, b = (np.clip(each, 0, None).reshape(len(each), -1) for each in (a, b))
    sums = [each.sum(axis=1, keepdims=True) for each in (a, b)]
    empty = flat | (sums[0][:, 0] == 0) | (sums[1][:, 0] == 0)
    a, b = (each / np.where(total > 0, total, 1) for each, total in zip((a, b), sums, strict=True))
    shared = np.minimum(a, b).sum(axis=1)
    return np.where(empty, np.nan, shared / np.where(empty, 1, 2 - shared))


def map_rank_correlation(a: Any, b: Any) -> np.ndarray:
    """Spearman's rho between the cells of two maps, for each image [N]; ties share their rank, NaN where one is flat.

    >>> map_rank_correlation([[[1.0, 2.0, 3.0]]], [[[9.0, 5.0, 1.0]]])
    array([-1.])
    """
    a, b = common_grid(as_maps(a), as_maps(b))
    return ranked_correlation(ranked(a), ranked(b))


def ranked_correlation(a: Ranked, b: Ranked) -> np.ndarray:
    """`map_rank_correlation` of maps on one grid that are ranked already."""
    rho = np.full(len(a), np.nan)
    step = max(1, CELLS // a.cells)
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        x, y = ((one.first[part] + one.last[part]) / 2.0 - (a.cells - 1) / 2 for one in (a, b))
        spread = np.einsum("nc,nc->n", x, x) * np.einsum("nc,nc->n", y, y)
        known = ~(a.flat[part] | b.flat[part] | (spread == 0))
        rho[part] = np.where(known, np.einsum("nc,nc->n", x, y) / np.sqrt(np.where(known, spread, 1)), np.nan)
    return np.clip(rho, -1, 1)
