"""A level's attention at the size of the image, and the boxes as pixels: what a map says where nothing is cut to cells.

At a stride of 32 a cell that a small object touches is mostly background, and counts as the object's. At image size
objects are the pixels of their boxes, and the map between the middles of its cells is bilinear, as an overlay of it is
drawn (torch's `interpolate(mode="bilinear", align_corners=False)`). What lies between the cells is not known, though:
a map of 4x4 cells has no more to say when it is drawn with 128x128 pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdscope.detection.measures.feature_error import PADDING, REGIONS
from kdscope.detection.measures.regions import valid_cells
from kdscope.errors import KDScopeError
from kdscope.measures.map_threshold import linear_weights

OTHER = REGIONS.index("far")


def enlarged(maps: Any, valid: Any, frame: tuple[int, int]) -> np.ndarray:
    """Maps at the size of their frame, interpolated among the cells that are no padding: float32 [N, H, W].

    Beyond the last such cell the map goes on as it is there, as at the border of an image without padding.

    Args:
        maps: [N, h, w]. valid: bool [N, h, w], the cells that are no padding.
        frame: (H, W) in pixels, padding included.

    Returns:
        NaN where all four cells around a pixel are padding.

    Raises:
        KDScopeError: other shapes.

    >>> enlarged([[[0.0, 4.0]]], [[[True, True]]], (1, 4))[0].tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    >>> enlarged([[[1.0, 2.0, 9.0]]], [[[True, True, False]]], (1, 6))[0].tolist()
    [[1.0, 1.25, 1.75, 2.0, 2.0, nan]]
    """
    maps, valid = np.asarray(maps, dtype=np.float32).astype(np.float64), np.asarray(valid, dtype=bool)
    if maps.ndim != 3 or maps.shape != valid.shape:
        raise KDScopeError(f"maps {list(maps.shape)} and valid cells {list(valid.shape)}; both must be [N, h, w]")
    down, across = (linear_weights(small, large) for small, large in zip(maps.shape[1:], frame, strict=True))
    value = down @ np.where(valid, maps, 0.0) @ across.T
    if not valid.all():
        weight = down @ valid.astype(np.float64) @ across.T
        value = np.divide(value, weight, out=np.full_like(value, np.nan), where=weight > 0)
    return value.astype(np.float32)  # whose rounding is coarser than the arithmetic's: what is flat stays flat


def painted(
    boxes: Sequence[np.ndarray],
    sizes: np.ndarray,
    frame: tuple[int, int],
    bounds: tuple[float, float],
    ignored: Sequence[np.ndarray] | None = None,
    areas: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """The kind of each pixel, int8 [N, H, W]: 0, 1, 2 of small, medium and large objects, `OTHER`, or -1 for padding.

    A pixel belongs to a box that it shares any area with, and of several to the smallest: `regions` on a grid of
    pixels, without its ring and without an array [boxes, H, W].

    Args:
        boxes: of each image [n, 4] (x1, y1, x2, y2), in pixels of the frame.
        sizes: (height, width) [N, 2] of each image without its padding.
        frame: (H, W).
        bounds, ignored, areas: as of `regions`.

    >>> painted([np.array([[0.5, 0.0, 2.0, 1.0]])], np.array([[2, 3]]), (2, 4), (0.5, 0.9))[0].tolist()
    [[0, 0, 4, -1], [4, 4, 4, -1]]
    """
    found = np.full((len(boxes), *frame), OTHER, dtype=np.int8)
    for image, (canvas, some, size) in enumerate(zip(found, boxes, np.asarray(sizes), strict=True)):
        some = np.asarray(some, dtype=np.float64).reshape(-1, 4)
        area = np.prod(np.clip(some[:, 2:] - some[:, :2], 0, None), axis=1)
        kind = np.searchsorted(bounds, area / size.prod() if areas is None else areas[image], side="right")
        for box in np.zeros((0, 4)) if ignored is None else ignored[image]:
            canvas[_pixels(box)] = PADDING
        for k in np.argsort(-area, kind="stable")[: np.count_nonzero(area)]:  # so that the smallest is on top
            canvas[_pixels(some[k])] = kind[k]
    return np.where(valid_cells(np.asarray(sizes), frame, frame), found, np.int8(PADDING))


def _pixels(box: np.ndarray) -> tuple[slice, slice]:
    """The pixels that share area with a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = np.maximum(box, 0)
    return slice(math.floor(y1), math.ceil(y2)), slice(math.floor(x1), math.ceil(x2))
