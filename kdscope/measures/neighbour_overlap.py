"""Do two layers put the same images next to each other? The Jaccard index of each image's k nearest neighbours.

Klabunde et al., "ReSi: A Comprehensive Benchmark for Representational Similarity Measures", ICLR 2025 (k = 10), with
Euclidean distances, so that a shift changes nothing. It looks at the near, where CKA looks at the whole. Its value
depends on how many images there are: compare numbers of the same n only.
"""

from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, measure
from kdscope.measures.cka import undefined
from kdscope.measures.features import GROUPS, REACH, FeatureMeasure, groups_of
from kdscope.measures.result import Result
from kdscope.measures.statistics import jackknife_interval

CARD = Card(
    *("knn-jaccard", "Overlap of nearest neighbours", "share", (0, 1), "higher", "Klabunde et al., ICLR 2025"),
    REACH,
    resampling="jackknife",
    family="similarity",
)
K = 10
SPARE = 4  # times k neighbours are kept, so that k are left when a group is left out


def nearest_neighbours(features: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest other images of each, nearest first, int [N, count]; of equal ones the first in order.

    >>> nearest_neighbours(np.array([[0.0], [1.0], [3.0]]), 1).ravel().tolist()
    [1, 0, 1]
    """
    distance = squared_distances(features)
    np.fill_diagonal(distance, np.inf)
    count = min(count, len(distance) - 1)
    near = np.sort(np.argpartition(distance, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1)


def squared_distances(features: np.ndarray) -> np.ndarray:
    """|x_i - x_j|^2, float64 [N, N]."""
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    size = np.square(x).sum(axis=1)
    return np.maximum(size[:, None] + size - 2 * x @ x.T, 0.0)


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|A and B| / |A or B| [N] of the neighbours [N, k] of each image.

    >>> jaccard(np.array([[1, 2, 3]]), np.array([[3, 4, 1]]))
    array([0.5])
    """
    shared = sum((a == b[:, [column]]).any(axis=1).astype(np.int64) for column in range(b.shape[1]))
    return shared / (2 * a.shape[1] - shared)


def overlap_of(a: np.ndarray, b: np.ndarray, k: int = K, confidence: float = 0.95, groups: int = GROUPS) -> Result:
    """The mean Jaccard index from lists of more than k nearest neighbours; the interval leaves out groups of images."""
    n = len(a)
    per_image = jaccard(a[:, :k], b[:, :k])
    left_out, group = [], groups_of(n, groups)
    for out in range(min(groups, n)):
        kept = group != out
        first, second = (_first_kept(near[kept], kept, k) for near in (a, b))
        enough = (first >= 0).all(axis=1) & (second >= 0).all(axis=1)
        if enough.any():
            left_out.append(jaccard(first[enough], second[enough]).mean())
    value = float(per_image.mean())
    low, high = jackknife_interval(value, np.array(left_out), confidence=confidence)
    low, high = max(low, 0.0), min(high, 1.0)
    # No image's number is kept with the result: they share neighbours, so they must not be bootstrapped.
    return Result(CARD.name, value, None, n, low, high, source=CARD.citation)


def _first_kept(near: np.ndarray, kept: np.ndarray, k: int) -> np.ndarray:
    """The first k of each row that are kept; -1 where there are fewer."""
    remains = kept[near]
    place = np.cumsum(remains, axis=1) - 1
    out = np.full((len(near), k), -1)
    rows, columns = np.nonzero(remains & (place < k))
    out[rows, place[rows, columns]] = near[rows, columns]
    return out


@measure
class NeighbourOverlap(FeatureMeasure):
    """Mean Jaccard index of the k nearest neighbours of each image in two layers. The features seen are kept.

    Args:
        k: how many neighbours; there must be more than 2 k images.

    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> NeighbourOverlap().update(x, 2 * x + 1).compute().value
    1.0
    """

    card = CARD

    def __init__(self, definition: str = "kdscope", *, k: int = K):
        if k < 1:
            raise KDScopeError(f"the overlap of {k} neighbours; it needs at least 1")
        super().__init__(definition)
        self.k = k
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def options(self) -> dict[str, Any]:
        return super().options() | {"k": self.k}

    def see(self, a: np.ndarray, b: np.ndarray) -> None:
        self._parts.append((a, b))

    def absorb(self, other: "NeighbourOverlap") -> None:
        self._parts.extend(other._parts)

    def point(self) -> float:
        return self.finish(0.95, 0).value

    def finish(self, confidence: float, seed: int) -> Result:
        if self.seen <= 2 * self.k:
            raise KDScopeError(f"{self.k} neighbours need more than {2 * self.k} images, and there are {self.seen}")
        a, b = (np.concatenate(side) for side in zip(*self._parts, strict=True))
        if any((x == x[0]).all() for x in (a, b)):
            return undefined(CARD.name, self.seen)
        near = (nearest_neighbours(x, SPARE * self.k) for x in (a, b))
        return overlap_of(*near, self.k, confidence)
