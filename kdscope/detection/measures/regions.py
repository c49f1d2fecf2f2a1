"""The regions of an image on a grid: cells of small, medium and large objects, the ring around them, the rest.

A cell belongs to a box that it shares any area with; where boxes overlap, to the smallest. (FGD's masks add up to one
cell more on the right and at the bottom: `kdscope.detection.methods.masks`.) The ring are the other cells of boxes that
are made half as wide and high again. Cells whose middle lies in the padding belong to no region, and neither do those
of crowds and ignored regions, where nobody knows what is an object: but for cells of an object that lies there.
"""

from collections.abc import Sequence

import numpy as np

from kdscope.detection.measures.feature_error import PADDING, REGIONS
from kdscope.errors import KDScopeError

RING = 1.5  # times the width and height of a box
FAR = REGIONS.index("far")


def regions(
    boxes: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    frame: tuple[int, int],
    grid: tuple[int, int],
    bounds: tuple[float, float],
    ignored: Sequence[np.ndarray] | None = None,
    areas: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """The region of each cell, int64 [N, H, W]: a position in `REGIONS`, or -1 for padding and what is ignored.

    Args:
        boxes: of each image [n, 4] (x1, y1, x2, y2), in pixels of the frame.
        sizes: (height, width) of each image without its padding, in the same pixels.
        frame: (height, width) of what the grid covers.
        grid: (H, W).
        bounds: where small ends and medium ends, as shares of the image's own area, or in the unit of `areas`.
        ignored: of each image [m, 4], what is neither an object nor background.
        areas: of each image [n], what makes its objects small or large, if that is not the size of their boxes.

    Raises:
        KDScopeError: bounds that do not rise, or other numbers of boxes and sizes.

    >>> one = regions([np.array([[0.0, 0.0, 2.0, 1.0]])], [(4, 4)], (4, 4), (4, 4), (0.2, 0.5))
    >>> one[0].tolist()
    [[0, 0, 3, 4], [3, 3, 3, 4], [4, 4, 4, 4], [4, 4, 4, 4]]
    """
    if not 0 < bounds[0] < bounds[1]:
        raise KDScopeError(f"bounds {bounds}: give two rising shares of the image's area, such as (0.02, 0.1)")
    for what, given in (("boxes", boxes), ("ignored boxes", ignored), ("areas", areas)):
        if given is not None and len(given) != len(sizes):
            raise KDScopeError(f"{what} of {len(given)} images, and sizes of {len(sizes)}")
    filled = _filled(boxes, 4)
    size = np.asarray(sizes, dtype=np.float64).reshape(-1, 2)
    area = np.prod(np.clip(filled[..., 2:] - filled[..., :2], 0, None), axis=2)
    inside = _cover(filled, frame, grid)
    kinds = np.searchsorted(
        bounds, area / size.prod(axis=1)[:, None] if areas is None else _filled(areas, 1)[..., 0], side="right"
    )
    smallest = np.where(inside, area[:, :, None, None], np.inf).argmin(axis=1)
    kind = np.take_along_axis(kinds, smallest.reshape(len(kinds), -1), axis=1).reshape(smallest.shape)
    middle, half = (filled[..., 2:] + filled[..., :2]) / 2, (filled[..., 2:] - filled[..., :2]) / 2 * RING
    around = _cover(np.concatenate([middle - half, middle + half], axis=2), frame, grid).any(axis=1)
    found = np.where(inside.any(axis=1), kind, np.where(around, REGIONS.index("ring"), FAR))
    known = valid_cells(size, frame, grid)
    if ignored is not None:
        known &= inside.any(axis=1) | ~_cover(_filled(ignored, 4), frame, grid).any(axis=1)
    return np.where(known, found, PADDING)


def valid_cells(sizes: np.ndarray, frame: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The cells whose middle lies in the image and not in its padding: bool [N, H, W], for sizes [N, 2].

    >>> valid_cells(np.array([[2, 4]]), (4, 4), (2, 2))[0].tolist()
    [[True, True], [False, False]]
    """
    inside = [
        (np.arange(n) + 0.5) * f / n < np.asarray(sizes)[:, k, None]
        for k, (n, f) in enumerate(zip(grid, frame, strict=True))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


def _filled(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Parts [n_i, width] as one array [N, B, width] with nothing at the end, at least once: float64."""
    filled = np.zeros((len(parts), max(map(len, parts), default=0) + 1, width))
    for place, some in zip(filled, parts, strict=True):
        place[: len(some)] = np.asarray(some, dtype=np.float64).reshape(-1, width)
    return filled


def _cover(boxes: np.ndarray, frame: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Which cells share area with each box [N, B, 4]: bool [N, B, H, W]."""
    sides = []
    for low, high, length, count in ((1, 3, frame[0], grid[0]), (0, 2, frame[1], grid[1])):
        edges = np.arange(count + 1) * length / count
        sides.append((boxes[..., low, None] < edges[1:]) & (boxes[..., high, None] > edges[:-1]))
    there = (boxes[..., 2:] > boxes[..., :2]).all(axis=2)
    return sides[0][..., :, None] & sides[1][..., None, :] & there[..., None, None]
