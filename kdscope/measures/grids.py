"""Attention maps [N, h, w] as arrays: brought to a common grid, checked, and cut at a share of their area."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.pair import to_numpy

FLAT = 1e-6  # a map whose values differ by less, relative to the largest, is flat: that is float32's rounding


def as_maps(maps: Any, what: str = "the maps") -> np.ndarray:
    """Maps as float64 [N, h, w]; a mask of bools or uint8 as well.

    Raises:
        KDScopeError: another shape, or values that are not finite, with the number of images that have them.
    """
    maps = np.asarray(to_numpy(maps), dtype=np.float64)
    if maps.ndim != 3:
        raise KDScopeError(f"{what} have the shape {list(maps.shape)}, not [images, rows, columns]")
    bad = ~np.isfinite(maps).all(axis=(1, 2))
    if bad.any():
        raise KDScopeError(f"{what} of {bad.sum()} of {len(bad)} images have values that are not finite")
    return maps


def area_weights(large: int, small: int) -> np.ndarray:
    """How much of each of `large` cells lies in each of `small` ones, as averages: float64 [small, large].

    >>> area_weights(4, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    edges = np.arange(small + 1) * (large / small)
    cells = np.arange(large)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.clip(overlap, 0, None) * (small / large)


def pool_area(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Maps [N, H, W] averaged over the area of each cell of a grid that is no larger: [N, *grid].

    >>> pool_area(np.arange(4.0).reshape(1, 2, 2), (1, 2))
    array([[[1., 2.]]])
    """
    if maps.shape[1:] == grid:
        return maps
    down, across = (area_weights(large, small) for large, small in zip(maps.shape[1:], grid, strict=True))
    return down @ maps @ across.T


def common_grid(*maps: np.ndarray) -> list[np.ndarray]:
    """Maps of the same images on the smallest grid among them: the larger ones are averaged over area.

    Nothing is ever interpolated upwards: what lies between the cells of a 7x7 map is not known.

    Raises:
        KDScopeError: different numbers of images.
    """
    if len({len(each) for each in maps}) > 1:
        raise KDScopeError(f"maps of {', '.join(str(len(each)) for each in maps)} images; they must be of the same")
    grid = tuple(min(each.shape[axis] for each in maps) for axis in (1, 2))
    return [pool_area(each, grid) for each in maps]


def is_flat(maps: np.ndarray) -> np.ndarray:
    """Which maps [N, h, w] are constant, and so look nowhere: bool [N]."""
    spread = maps.max(axis=(1, 2)) - maps.min(axis=(1, 2))
    return spread <= FLAT * np.abs(maps).max(axis=(1, 2))


@dataclass(frozen=True)
class Ranked:
    """Maps as the places of their cells, from the lowest up: all that the measures of place know of them.

    Attributes:
        first, last: int32 [N, cells], the lowest and the highest place among the cells that tie with each.
        tied: bool [N], whether any cells of a map tie. flat: bool [N], whether all do.
    """

    first: np.ndarray
    last: np.ndarray
    tied: np.ndarray
    flat: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def cells(self) -> int:
        return self.first.shape[1]

    def at(self, rows: np.ndarray | slice) -> "Ranked":
        """Some of the images, in that order."""
        return Ranked(self.first[rows], self.last[rows], self.tied[rows], self.flat[rows])

    def top(self, count: int) -> np.ndarray:
        """The `count` highest cells as weights [N, cells] that add up to `count`.

        Cells that tie at the cut share what is left of the count. So nothing depends on the order of the cells, equal
        maps have equal weights, and a map of a few levels gives no more than it knows.

        >>> ranked(np.array([[[3.0, 1.0], [1.0, 0.0]]])).top(2)
        array([[1. , 0.5, 0.5, 0. ]])
        """
        inside = self.last - (self.cells - count - 1)
        return np.clip(inside / (self.last - self.first + 1), 0, 1)


def ranked(maps: np.ndarray) -> Ranked:
    """The places of the cells of maps [N, h, w].

    >>> r = ranked(np.array([[[10.0, 30.0, 10.0]]]))
    >>> r.first.tolist(), r.last.tolist(), r.tied.tolist()
    ([[0, 2, 0]], [[1, 2, 1]], [True])
    """
    flat = maps.reshape(len(maps), -1)
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    place = np.arange(flat.shape[1], dtype=np.int32)
    new = np.ones(flat.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    tied = ~new.all(axis=1)
    first = np.empty(flat.shape, dtype=np.int32)
    np.put_along_axis(first, order, np.broadcast_to(place, flat.shape), axis=1)
    last = first
    if tied.any():
        last = first.copy()
        groups = np.maximum.accumulate(np.where(new[tied], place, 0), axis=1)
        ends = np.ones(new[tied].shape, dtype=bool)
        ends[:, :-1] = new[tied][:, 1:]
        highest = np.minimum.accumulate(np.where(ends, place, len(place))[:, ::-1], axis=1)[:, ::-1]
        for places, values in ((first, groups), (last, highest)):
            rows = np.empty_like(values)
            np.put_along_axis(rows, order[tied], values, axis=1)
            places[tied] = rows
    return Ranked(first, last, tied, is_flat(maps))
