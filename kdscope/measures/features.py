"""Measures of what two layers make of the same images: features go in, [B, d1] and [B, d2], and one number comes out.

Image i of the one is image i of the other. Pair them by their index: two passes over a shuffled loader pair different
images, and any measure of likeness then finds none.
"""

from abc import abstractmethod
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Measure
from kdscope.measures.hsic import Sums
from kdscope.measures.pair import to_numpy

GROUPS = 20  # of images, each left out in turn for the interval
# Features lie below the head that a gauge moves.
REACH = ("gauge", "sample-order", "rotation", "scale", "shift", "swap")


class FeatureMeasure(Measure):
    """A measure on the features of two layers; of a constant layer it is undefined: NaN, with n = 0, all excluded."""

    def update(self, a_features: Any, b_features: Any) -> "FeatureMeasure":
        """Adds images; returns itself.

        Args:
            a_features, b_features: [B, d1] and [B, d2], numpy or torch, any floating dtype, of the same images.

        Raises:
            KDScopeError: features that are no matrices, of unequal numbers of images, NaN or infinite (how many); what
                was seen before stays as it was.
        """
        a, b = (checked(to_numpy(x), who) for x, who in ((a_features, "first"), (b_features, "second")))
        if len(a) != len(b):
            raise KDScopeError(f"features of {len(a)} and of {len(b)} images cannot be compared; pair the same images")
        self.see(a, b)
        self.seen += len(a)
        return self

    @abstractmethod
    def see(self, a: np.ndarray, b: np.ndarray) -> None:
        """Adds checked features, finite, of equal numbers of images."""


class SumsMeasure(FeatureMeasure):
    """A feature measure that is a function of sums: of both layers together, and of each with itself.

    Args:
        definition: one of its definitions.
        groups: how many groups of images are left out in turn for the interval; 1: no interval.

    Attributes:
        sums: of (a, b), (a, a) and (b, b).
    """

    def __init__(self, definition: str = "kdscope", *, groups: int = GROUPS):
        super().__init__(definition)
        self.groups = groups
        self.sums = tuple(Sums(groups) for _ in range(3))

    def options(self) -> dict[str, Any]:
        return super().options() | {"groups": self.groups}

    def see(self, a: np.ndarray, b: np.ndarray) -> None:
        for sums, (x, y) in zip(self.sums, ((a, b), (a, a), (b, b)), strict=True):
            sums.update(x, y)

    def absorb(self, other: "SumsMeasure") -> None:
        for mine, theirs in zip(self.sums, other.sums, strict=True):
            mine.merge(theirs)

    def point(self) -> float:
        return self.finish(0.95, 0).value


def checked(features: np.ndarray, who: str) -> np.ndarray:
    """The features [N, d] themselves.

    Raises:
        KDScopeError: another shape, none at all, or NaN or infinite ones (in how many images); `who` says whose.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise KDScopeError(f"the {who} features have shape {list(features.shape)}; they must be [images, dimensions]")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise KDScopeError(
            f"the {who} features are NaN or infinite in {len(bad)} of {len(features)} images; the first is {bad[0]}"
        )
    return features


def compact(features: np.ndarray) -> np.ndarray:
    """Features [N, d] of more dimensions than images, turned into the N dimensions that they span.

    All inner products of centred features stay as they are, and so does all that is invariant to rotations and shifts;
    with d <= N the features come back as they went in.

    >>> x = np.random.default_rng(0).normal(size=(5, 100))
    >>> y = compact(x)
    >>> y.shape, bool(np.allclose(y @ y.T, (x - x.mean(0)) @ (x - x.mean(0)).T))
    ((5, 5), True)
    """
    n, d = features.shape
    if d <= n:
        return features
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def groups_of(n: int, groups: int = GROUPS) -> np.ndarray:
    """To which group [N] each image is dealt, in turn."""
    return np.arange(n) % groups
