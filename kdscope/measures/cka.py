"""Linear CKA: how alike are the similarities between images that two layers see?

Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, with the unbiased HSIC of Song et
al. 2012 as in Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, eq. 3. The biased form that
most papers print grows with d / N: of independent Gaussians in 512 dimensions it is 0.80 at 128 images and 0.11 at
4,096, where the debiased one is 0 within its noise. It is negative at times, and never clamped.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.features import REACH, SumsMeasure
from kdscope.measures.hsic import CONSTANT, FEWEST, Sums, biased_hsic, double
from kdscope.measures.result import Result
from kdscope.measures.statistics import jackknife_interval

CARD = Card(
    *("cka", "Debiased linear CKA", "share", (-1, 1), "higher", "Nguyen et al., ICLR 2021, eq. 3"),
    REACH,
    resampling="jackknife",
    family="similarity",
    null=0.0,
)
BIASED = "kornblith2019"
DEFINITIONS = {
    BIASED: Definition(
        "Kornblith et al., ICML 2019, eq. 4", "above 0 for independent features, the more so the more dimensions"
    )
}


def linear_cka(x: Any, y: Any, definition: str = "kdscope") -> float:
    """Linear CKA of features [N, d1] and [N, d2] of the same images; NaN where either is constant.

    Args:
        definition: "kdscope" (debiased, N >= 4) or "kornblith2019" (biased).

    >>> x, y = [[0, 0], [1, 0], [0, 1]], [[0], [1], [2]]
    >>> round(linear_cka(x, y, "kornblith2019"), 9)
    0.474341649
    """
    return CKA(definition, groups=1).update(x, y).estimate()


def rbf_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Biased CKA with Gaussian kernels, sigma^2 the median squared distance above 0 (Stanton et al. 2021).

    Its floor is high and grows as N shrinks: 0.18 to 0.46 for independent noise of 16 to 64 dimensions and 128 images.

    >>> x = np.random.default_rng(0).normal(size=(30, 4))
    >>> round(rbf_cka(x, 3 * x[:, ::-1] + 1), 9)
    1.0
    """
    a, b = _rbf(np.asarray(x, dtype=np.float64)), _rbf(np.asarray(y, dtype=np.float64))
    return biased_hsic(a, b) / math.sqrt(biased_hsic(a, a) * biased_hsic(b, b))


def _rbf(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=0)
    size = np.square(centred).sum(axis=1)
    distance = np.maximum(size[:, None] + size - 2 * centred @ centred.T, 0.0)
    np.fill_diagonal(distance, 0.0)
    return np.exp(-distance / (2 * np.median(distance[distance > 0])))


@dataclass(frozen=True)
class Spread:
    """A layer with itself: HSIC and variance, of all images and with each group left out [1 + G]; computed once.

    Attributes:
        scatter: sum of centred x x^T over all images, [d, d].
        constant: whether all images have the same features, so that no likeness is defined.
    """

    unbiased: np.ndarray
    biased: np.ndarray
    variance: np.ndarray
    scatter: np.ndarray
    constant: bool

    @cached_property
    def top(self) -> float:
        """Share of the variance on the first principal axis; NaN of a constant layer.

        Near 1 CKA says whether the two first axes agree, and hardly more (Davari et al., ICLR 2023).
        """
        return math.nan if self.constant else float(np.linalg.eigvalsh(self.scatter)[-1] / self.variance[0])

    @classmethod
    def of(cls, own: Sums) -> "Spread":
        whole = own.whole()
        several = [whole, *own.left_out()]
        scatter = whole.centred()
        # The size that rounding is relative to is that of the features before the pilot was taken off.
        pilot = double(own.pilot[0])
        size = whole.xx + whole.n * float(pilot @ pilot)
        constant = bool(np.trace(scatter) <= CONSTANT * size or whole.n < 2)
        return cls(
            unbiased=np.array([m.unbiased() if m.n >= FEWEST else math.nan for m in several]),
            biased=np.array([m.biased() if m.n > 1 else math.nan for m in several]),
            variance=np.array([np.trace(m.centred()) for m in several]),
            scatter=scatter,
            constant=constant,
        )


def cka_of(cross: Sums, a: Spread, b: Spread, definition: str = "kdscope", confidence: float = 0.95) -> Result:
    """CKA from the sums of two layers and what each is with itself; the interval leaves out each group of images."""
    debiased = definition == "kdscope"
    several = [cross.whole(), *cross.left_out()]
    if debiased and cross.n < FEWEST:
        raise KDScopeError(f"debiased CKA needs at least {FEWEST} images, and there are {cross.n}")
    if a.constant or b.constant:
        return undefined(CARD.name, cross.n, definition)
    shared = np.array([m.unbiased() if debiased else m.biased() for m in several])
    own = a.unbiased * b.unbiased if debiased else a.biased * b.biased
    values = shared / np.sqrt(own[: len(shared)])
    value, interval = float(values[0]), jackknife_interval(values[0], values[1:], confidence=confidence)
    low, high = (float(np.clip(end, *CARD.range)) for end in interval)
    source = CARD.citation if debiased else DEFINITIONS[definition].citation
    return Result(CARD.name, value, None, cross.n, low, high, definition=definition, source=source)


def undefined(name: str, n: int, definition: str = "kdscope") -> Result:
    """The result where a layer is constant: no number, no image counts."""
    return Result(name, math.nan, None, 0, math.nan, math.nan, definition=definition, excluded=n)


@measure
class CKA(SumsMeasure):
    """CKA of two layers; the state is sums, so that batches and ranks add up to the number of the full Gram matrices.

    Args:
        definition: "kdscope" (debiased) or "kornblith2019" (biased).
        groups: how many groups of images are left out in turn for the interval; 1: no interval.

    >>> x = np.random.default_rng(0).normal(size=(200, 8))
    >>> result = CKA().update(x, x + np.random.default_rng(1).normal(size=(200, 8))).compute()
    >>> result.ci_low < result.value < result.ci_high
    True
    """

    card = CARD
    definitions = DEFINITIONS

    def finish(self, confidence: float, seed: int) -> Result:
        cross, a, b = self.sums
        return cka_of(cross, Spread.of(a), Spread.of(b), self.definition, confidence)
