"""Attention maps of detectors and the regions of images on their grids, from caches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdscope.analyses.detection_views import Seen
from kdscope.detection.average_precision import RELATIVE_AREAS, Areas, areas_for
from kdscope.detection.measures.feature_error import PADDING, REGIONS
from kdscope.detection.measures.regions import regions
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache

EVERY = "all"
SIZES = REGIONS[:3]


def bounds_of(areas: Areas) -> tuple[float, float]:
    """Where small ends and medium ends."""
    return tuple(end for _, end in list(areas.ranges.values())[:2])


BOUNDS = bounds_of(RELATIVE_AREAS)


class Cell(NamedTuple):
    """What a number is of: a measure, a level ("" for the mean of all), a size of objects, a region."""

    measure: str
    layer: str
    area: str
    region: str


@dataclass(frozen=True)
class Grid:
    """The cells of one level.

    Attributes:
        region: int64 [N, h, w], positions in `REGIONS`, or -1 for padding.
    """

    region: np.ndarray

    @property
    def sizes(self) -> tuple[str, ...]:
        return SIZES

    @property
    def kind(self) -> np.ndarray:
        """0, 1, 2 of objects by their size, 3 of what is none, -1 of padding: [N, h, w]."""
        return np.minimum(self.region, len(SIZES))

    def objects(self, area: str) -> tuple[np.ndarray, np.ndarray]:
        """The cells of the objects of a size ("all"), and the valid ones: no padding, no objects of other sizes."""
        inside = (self.region >= 0) & (self.region < len(SIZES))
        if area == EVERY:
            return inside, self.region != PADDING
        own = self.region == SIZES.index(area)
        return own, (self.region != PADDING) & (own | ~inside)


def strides_of(networks: Mapping[tuple, Seen]) -> list[int]:
    """The strides that all networks have, finest first.

    Raises:
        KDScopeError: grids of one stride that differ.
    """
    every = [one.cache for one in networks.values()]
    common = set.intersection(*(set(cache.identity["strides"]) for cache in every))
    for stride in common:
        shapes = {cache.array(f"maps/attention/{stride}").shape[1:] for cache in every}
        if len(shapes) > 1:
            raise KDScopeError(
                f"grids of stride {stride} are {sorted(shapes)}: the networks see their images at different sizes"
            )
    return sorted(common)


class Framing(NamedTuple):
    """Where the objects of each image are in the frame, and how large: small is what average precision calls small.

    Attributes:
        boxes: of each image [n, 4] in pixels of the frame. sizes: int64 [N, 2], (height, width) without padding.
        frame: (height, width) of all.
        bounds: where small ends and medium ends: shares of the image, or COCO's pixels where images differ in size.
        ignored: of each image [m, 4], crowds and ignored regions, which are neither objects nor background.
        areas: of each image [n], in the unit of `bounds`; None: shares of the image by the boxes.
    """

    boxes: list[np.ndarray]
    sizes: np.ndarray
    frame: tuple[int, int]
    bounds: tuple[float, float] = BOUNDS
    ignored: list[np.ndarray] | None = None
    areas: list[np.ndarray] | None = None

    @classmethod
    def of(cls, cache: FeatureCache) -> "Framing":
        sizes, original, labels, crowd = (
            cache.array(name)[:] for name in ("frame/size", "frame/original", "truth/labels", "truth/crowd")
        )
        boxes = cache.array("truth/boxes")[:] * np.tile((sizes / original)[:, ::-1], 2)[:, None]
        ranges, area = areas_for(cache.identity["dataset"]), cache.array("truth/area")[:].astype(np.float64)
        area = area / original.prod(axis=1)[:, None] if ranges.relative else area
        there, ignored = (labels > 0) & (crowd == 0), (labels > 0) & (crowd != 0)
        parts = [[some[k] for some, k in zip(*both, strict=True)] for both in ((boxes, ignored), (area, there))]
        kept = [some[k] for some, k in zip(boxes, there, strict=True)]
        return cls(kept, sizes, tuple(cache.identity["frame"]), bounds_of(ranges), *parts)

    def on(self, grid: tuple[int, int]) -> Grid:
        """The regions of all images on a grid of (h, w) cells."""
        sizes = [tuple(size) for size in self.sizes.tolist()]
        return Grid(regions(self.boxes, sizes, self.frame, grid, self.bounds, self.ignored, self.areas))

    def some(self, rows: np.ndarray) -> "Framing":
        """Of the images at `rows`."""
        boxes, ignored, areas = (
            each and [each[row] for row in rows] for each in (self.boxes, self.ignored, self.areas)
        )
        return self._replace(boxes=boxes, sizes=self.sizes[rows], ignored=ignored, areas=areas)


def grid_of(cache: FeatureCache, level: int | tuple[int, int]) -> Grid:
    """The regions of all images on the grid of a stride, or on one of (h, w) cells."""
    shape = level if isinstance(level, tuple) else cache.array(f"maps/attention/{level}").shape[1:]
    return Framing.of(cache).on(tuple(shape))


def attention_of(
    cache: FeatureCache, stride: int, grid: Grid, temperature: float = 0.5, *, normalised: bool = False
) -> np.ndarray:
    """Spatial attention [N, h, w] of FGD (equation 1) over the cells of each image: it sums to their number.

    The cells of the padding are no part of the image, and have none.

    Args:
        normalised: divide mean |F| by its mean over the cells of all images, before the temperature: then features of
            another unit, k F, have the same attention. A level of zeros stays as it is, and is even.
    """
    mean = np.asarray(cache.array(f"maps/attention/{stride}")[:], np.float64)
    valid = grid.region != PADDING
    if normalised and mean[valid].any():
        mean = mean / mean[valid].mean()
    logits = np.where(valid, mean / temperature, -np.inf)
    power = np.exp(logits - logits.max(axis=(1, 2), keepdims=True))
    return valid.sum(axis=(1, 2), keepdims=True) * power / power.sum(axis=(1, 2), keepdims=True)


def with_mean(values: Mapping[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """And of all levels the mean, image by image, over those where it is defined."""
    cells: dict[Cell, list[np.ndarray]] = {}
    for cell, each in values.items():
        cells.setdefault(cell._replace(layer=""), []).append(each)
    means = {}
    for cell, each in cells.items():
        stack = np.stack(each)
        known = ~np.isnan(stack)
        with np.errstate(invalid="ignore"):
            means[cell] = np.where(known, stack, 0.0).sum(axis=0) / known.sum(axis=0)
    return means | dict(values)
