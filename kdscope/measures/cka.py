"""Linear CKA: how alike are the similarities between images that two layers see?

Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, with the unbiased HSIC of Song et
al. 2012 as in Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, eq. 3. The biased form that
most papers print grows with d / N: of independent Gaussians in 512 dimensions it is 0.80 at 128 images and 0.11 at
4,096, where the debiased one is 0 within its noise. It is negative at times, and never clamped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.features import GROUPS, REACH, FeatureMeasure
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
WIDEST = 8192  # dimensions; the sums of two such layers are 512 MiB


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
class CKA(FeatureMeasure):
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

    def __init__(self, definition: str = "kdscope", *, groups: int = GROUPS):
        super().__init__(definition)
        self.groups = groups
        self._sums = tuple(Sums(groups) for _ in range(3))

    def options(self) -> dict[str, Any]:
        return super().options() | {"groups": self.groups}

    def see(self, a: np.ndarray, b: np.ndarray) -> None:
        for sums, (x, y) in zip(self._sums, ((a, b), (a, a), (b, b)), strict=True):
            sums.update(x, y)

    def absorb(self, other: "CKA") -> None:
        for mine, theirs in zip(self._sums, other._sums, strict=True):
            mine.merge(theirs)

    def point(self) -> float:
        return self.finish(0.95, 0).value

    def finish(self, confidence: float, seed: int) -> Result:
        cross, a, b = self._sums
        return cka_of(cross, Spread.of(a), Spread.of(b), self.definition, confidence)


class StreamedCKA:
    """CKA of each layer of one network with each layer of another, exact, from one pass in batches of any size.

    It serves during training: give it both networks' features of each batch, numpy or torch on any device; nothing
    waits for the device before `compute`. HSIC of a layer with itself is kept once a layer. States of several ranks
    `merge` (they can be pickled).

    Args:
        groups: of images, left out in turn for the intervals; 1 (no intervals) needs the least memory, d1 x d2 doubles
            a pair of layers.

    >>> rng = np.random.default_rng(0)
    >>> cka = StreamedCKA()
    >>> for _ in range(4):
    ...     x = rng.normal(size=(50, 6))
    ...     _ = cka.update({"layer1": x, "layer2": x**2}, {"layer1": 3 * x})
    >>> round(cka.compute()["layer1", "layer1"].value, 9)
    1.0
    """

    def __init__(self, groups: int = 1):
        self.groups = groups
        self.seen = 0
        self._cross: dict[tuple[str, str], Sums] = {}
        self._own: dict[tuple[str, str], Sums] = {}
        self._bad: dict[tuple[str, str], Any] = {}

    def update(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> "StreamedCKA":
        """Adds the features [B, d] of some images, by layer, the same layers each time; returns itself.

        Raises:
            KDScopeError: features of another shape or number of images, other layers than before, or more than 8,192
                dimensions; nothing was added then.
        """
        sides = {(side, layer): x for side, given in (("a", a), ("b", b)) for layer, x in given.items()}
        self._check(sides)
        for key, x in sides.items():
            finite = x.isfinite() if hasattr(x, "detach") else np.isfinite(x)
            self._bad[key] = self._bad.get(key, 0) + (~finite).any(1).sum()
            self._own.setdefault(key, Sums(self.groups)).update(x, x)
        for one, x in a.items():
            for other, y in b.items():
                self._cross.setdefault((one, other), Sums(self.groups)).update(x, y)
        self.seen += len(next(iter(sides.values())))
        return self

    def merge(self, other: "StreamedCKA") -> "StreamedCKA":
        """Adds what another has seen of the same layers; returns itself."""
        if self.seen and other.seen and (self._cross.keys() != other._cross.keys() or self.groups != other.groups):
            raise KDScopeError("CKA of other layers or groups cannot be merged")
        for mine, theirs in ((self._cross, other._cross), (self._own, other._own)):
            for key, sums in theirs.items():
                mine.setdefault(key, Sums(self.groups)).merge(sums)
        for key, count in other._bad.items():
            self._bad[key] = self._bad.get(key, 0) + count
        self.seen += other.seen
        return self

    def compute(self, definition: str = "kdscope", confidence: float = 0.95) -> dict[tuple[str, str], Result]:
        """A result for each pair of layers (of a, of b).

        Raises:
            KDScopeError: no images, too few, or NaN or infinite features (in which layer, of how many images).
        """
        if not self.seen:
            raise KDScopeError("CKA has seen no images")
        for (side, layer), count in self._bad.items():
            if int(count):
                who = "first" if side == "a" else "second"
                raise KDScopeError(
                    f"layer {layer!r} of the {who} network is NaN or infinite in {int(count)} of {self.seen} images"
                )
        own = {key: Spread.of(sums) for key, sums in self._own.items()}
        return {
            (one, other): cka_of(sums, own["a", one], own["b", other], definition, confidence)
            for (one, other), sums in self._cross.items()
        }

    def _check(self, sides: Mapping[tuple[str, str], Any]) -> None:
        if self._own and self._own.keys() != sides.keys():
            raise KDScopeError(f"CKA began with other layers: {sorted({layer for _, layer in self._own})}")
        lengths = {len(x) for x in sides.values()}
        for (_, layer), x in sides.items():
            if len(x.shape) != 2 or 0 in x.shape:
                raise KDScopeError(f"layer {layer!r} has shape {list(x.shape)}; CKA takes [images, dimensions]")
            if x.shape[1] > WIDEST:
                raise KDScopeError(f"layer {layer!r} has {x.shape[1]} dimensions, more than {WIDEST}: pool it first")
        if len(lengths) > 1:
            raise KDScopeError(f"layers of {sorted(lengths)} images cannot be compared; give the same images")
