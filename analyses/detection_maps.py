"""Attention maps of detectors and the regions of images on their grids, from caches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdscope.analyses.detection_views import Seen
from kdscope.detection.average_precision import RELATIVE_AREAS
from kdscope.detection.measures.feature_error import PADDING, REGIONS
from kdscope.detection.measures.regions import regions
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache

EVERY = "all"
SIZES = REGIONS[:3]
BOUNDS = tuple(end for _, end in list(RELATIVE_AREAS.ranges.values())[:2])  # shares of an image's area

Maps = Mapping[tuple, Mapping[int, np.ndarray]]  # of each network, by the key of its party, and then by stride


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


def grid_of(cache: FeatureCache, level: int | tuple[int, int]) -> Grid:
    """The regions of all images on the grid of a stride, or on one of (h, w) cells; boxes of crowds are no objects."""
    scale = cache.array("frame/size")[:] / cache.array("frame/original")[:]
    labels, crowd = cache.array("truth/labels")[:], cache.array("truth/crowd")[:]
    boxes = cache.array("truth/boxes")[:] * np.tile(scale[:, ::-1], 2)[:, None]
    kept = [some[(label > 0) & (c == 0)] for some, label, c in zip(boxes, labels, crowd, strict=True)]
    shape = level if isinstance(level, tuple) else cache.array(f"maps/attention/{level}").shape[1:]
    sizes, frame = cache.array("frame/size")[:], tuple(cache.identity["frame"])
    return Grid(regions(kept, [tuple(size) for size in sizes.tolist()], frame, shape, BOUNDS))


def attention_of(cache: FeatureCache, stride: int, grid: Grid, temperature: float = 0.5) -> np.ndarray:
    """Spatial attention [N, h, w] of FGD (equation 1) over the cells of each image: it sums to their number.

    The cells of the padding are no part of the image, and have none.
    """
    mean = np.asarray(cache.array(f"maps/attention/{stride}")[:], np.float64)
    valid = grid.region != PADDING
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
