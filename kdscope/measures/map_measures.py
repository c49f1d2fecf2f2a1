"""The measures of attention maps as states that add up: overlap of two maps, and one map against the true mask."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtri

from kdscope.measures.base import Card, Definition, Measure, SampleMean, measure
from kdscope.measures.grids import as_maps
from kdscope.measures.map_overlap import map_overlap, map_rank_correlation, soft_iou
from kdscope.measures.map_threshold import (
    intersection_union,
    per_image_iou,
    pooled_influence,
    pooled_iou,
    threshold_masks,
)
from kdscope.measures.map_truth import energy_inside, pointing_game
from kdscope.measures.result import Result

SYMMETRIC = ("gauge", "sample-order", "swap")
GUO = "Guo et al., arXiv 2405.00739, released code"


class MapMean(SampleMean):
    """A measure of maps that is a mean over images; flat maps are counted out, and never a NaN in the mean."""

    def update(self, a: Any, b: Any) -> "MapMean":
        """Adds images; returns itself.

        Args:
            a, b: maps [B, h, w] of two networks, any grids; for a measure of truth, maps and true masks [B, H, W].

        Raises:
            KDScopeError: other shapes, different images, values that are not finite.
        """
        self.keep(self.per_sample(as_maps(a), as_maps(b)))
        return self

    @abstractmethod
    def per_sample(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The number of each image [B], NaN where it does not count."""


@measure
class AttentionIoU(MapMean):
    """The area under the chance-corrected IoU of the top cells of two maps (`kdscope.measures.map_overlap`).

    >>> m = np.random.default_rng(0).normal(size=(8, 7, 7))
    >>> round(AttentionIoU().update(m, m).compute().value, 6)
    1.0
    """

    card = Card(
        *("attention-iou", "Attention overlap above chance", "kappa, mean over areas", (-1, 1), "higher"),
        *("after Cohen 1960", (*SYMMETRIC, "monotone"), (), "bootstrap", 0.0, "attention"),
    )

    def per_sample(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return map_overlap(a, b)


@measure
class SoftIoU(MapMean):
    """sum min / sum max of two maps of sum 1.

    >>> SoftIoU().update([[[1.0, 3.0]]], [[[1.0, 3.0]]]).estimate()
    1.0
    """

    card = Card(
        *("soft-iou", "Soft IoU of the maps", "share", (0, 1), "higher"),
        *("Ruzicka 1958", SYMMETRIC, (), "bootstrap", None, "attention"),
    )

    def per_sample(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return soft_iou(a, b)


@measure
class MapRankCorrelation(MapMean):
    """Spearman's rho over the cells of two maps.

    >>> MapRankCorrelation().update([[[1.0, 3.0, 2.0]]], [[[3.0, 1.0, 2.0]]]).estimate()
    -1.0
    """

    card = Card(
        *("map-rank-correlation", "Rank correlation of the maps", "Spearman's rho", (-1, 1), "higher"),
        *("Spearman 1904", (*SYMMETRIC, "monotone"), (), "bootstrap", 0.0, "attention"),
    )

    def per_sample(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return map_rank_correlation(a, b)


@measure
class PointingGame(MapMean):
    """The true mask's share of a map's highest cell.

    >>> PointingGame().update([[[0.0, 1.0]]], [[[0, 1]]]).estimate()
    1.0
    """

    card = Card(
        *("pointing-game", "Points at the object", "share", (0, 1), "none"),
        *("Zhang et al., IJCV 2018", ("gauge", "sample-order", "monotone"), (), "bootstrap", None, "attention"),
    )

    def per_sample(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return pointing_game(a, b)


@measure
class EnergyInside(MapMean):
    """The share of a map's positive part inside the true mask.

    >>> EnergyInside().update([[[1.0, 3.0]]], [[[0, 1]]]).estimate()
    0.75
    """

    card = Card(
        *("energy-inside", "Energy inside the object", "share", (0, 1), "none"),
        *("Wang et al., CVPR workshops 2020", ("gauge", "sample-order"), (), "bootstrap", None, "attention"),
    )

    def per_sample(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return energy_inside(a, b)


@measure
class ThresholdIoU(Measure):
    """IoU of maps cut at 0.4 of their range (`kdscope.measures.map_threshold`), of two networks or of more.

    The state is each image's intersection and union, in order. "kdscope" is the mean of each image's IoU;
    "guo2024-code" pools the pixels of a batch, as their code does.

    Args:
        size: (H, W) of the image, to which the maps are interpolated first; None leaves them as they are.
        batch_size: of the pooled form; None: all images at once.

    >>> twelve, one, two = np.arange(16) < 12, np.arange(16) == 0, np.arange(16) == 1
    >>> a, b = (np.stack(pair).reshape(2, 4, 4) for pair in ((twelve, one), (twelve, two)))
    >>> ThresholdIoU().update(a, b).estimate(), round(ThresholdIoU("guo2024-code").update(a, b).estimate(), 9)
    (0.5, 0.857142857)
    """

    card = Card(
        *("threshold-iou", "IoU of maps cut at 0.4 of their range", "share", (0, 1), "higher"),
        *(GUO, ("sample-order", "swap"), (), "bootstrap", None, "attention"),
    )
    definitions: ClassVar = {
        "guo2024-code": Definition(
            GUO, "pooled over a batch, on areas that differ; two unrelated maps give about 0.56", "mean-logit"
        )
    }

    def __init__(self, definition: str = "kdscope", size: tuple[int, int] | None = None, batch_size: int | None = None):
        super().__init__(definition)
        self.size, self.batch_size = size, batch_size
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def options(self) -> dict[str, Any]:
        return {"definition": self.definition, "size": self.size, "batch_size": self.batch_size}

    def update(self, *maps: Any) -> "ThresholdIoU":
        """Adds images: the maps [B, h, w] of two or more networks; three give |all of them| / |any of them|."""
        self._parts.append(intersection_union(*(threshold_masks(each, self.size) for each in maps)))
        self.seen += len(self._parts[-1][0])
        return self

    def absorb(self, other: "ThresholdIoU") -> None:
        self._parts.extend(other._parts)

    def point(self) -> float:
        shared, union = self._counts()
        if self.definition == "kdscope":
            return float(np.nanmean(per_image_iou(shared, union))) if union.any() else math.nan
        return pooled_iou(shared, union, self.batch_size)

    def finish(self, confidence: float, seed: int) -> Result:
        shared, union = self._counts()
        each, known = per_image_iou(shared, union), int(np.count_nonzero(union))
        if self.definition == "kdscope":
            mean = AttentionIoU()
            mean.keep(each)
            found = mean.finish(confidence, seed)
            low, high = found.ci_low, found.ci_high
        else:
            each = None  # a pooled number is no mean over images
            error = math.sqrt(float(np.square(pooled_influence(shared, union, self.batch_size)).sum()))
            half = float(ndtri((1 + confidence) / 2)) * error if known > 1 else math.nan
            low, high = self.point() - half, self.point() + half
        return Result(
            self.card.name, self.point(), each, known, low, high, definition=self.definition,
            source=self.defined.citation, excluded=self.seen - known,
        )  # fmt: skip

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        shared, union = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        return shared, union
