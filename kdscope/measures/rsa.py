"""Representational similarity analysis: do two layers rank all pairs of images by their distance alike?

Kriegeskorte et al., "Representational similarity analysis", Frontiers in Systems Neuroscience 2008: Spearman's rho
between two dissimilarity matrices (RDMs). Euclidean distances by default, for they are defined for every vector;
"kriegeskorte2008" is 1 - Pearson, which is not for an image whose features are all equal.
"""

from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.cka import undefined
from kdscope.measures.features import GROUPS, REACH, FeatureMeasure, groups_of
from kdscope.measures.neighbour_overlap import squared_distances
from kdscope.measures.result import Result
from kdscope.measures.statistics import jackknife_interval

CARD = Card(
    *("rsa", "RSA (Spearman of RDMs)", "correlation", (-1, 1), "higher", "Kriegeskorte et al. 2008, on distances"),
    REACH,
    resampling="jackknife",
    family="similarity",
    null=0.0,
)
PEARSON = "kriegeskorte2008"
DEFINITIONS = {PEARSON: Definition("Kriegeskorte et al. 2008", "undefined for an image of equal features")}
FEWEST = 4


class RDM:
    """The distances of all pairs of images [P], as places in their order: ranks of any part of them need no sorting.

    Args:
        features: [N, d].
        definition: "kdscope" (Euclidean) or "kriegeskorte2008" (1 - Pearson).
    """

    def __init__(self, features: np.ndarray, definition: str = "kdscope"):
        x = np.asarray(features, dtype=np.float64)
        if definition == PEARSON:
            x = x - x.mean(axis=1, keepdims=True)
            size = np.linalg.norm(x, axis=1, keepdims=True)
            bad = np.flatnonzero(size <= 1e-12 * np.abs(np.asarray(features)).max())
            if len(bad):
                raise KDScopeError(f"{len(bad)} of {len(x)} images have equal features: no correlation distance there")
            distance = 1 - (x / size) @ (x / size).T
        else:
            distance = squared_distances(x)
        self.n = len(x)
        rows, columns = np.triu_indices(self.n, 1)
        distance = distance[rows, columns]
        # Rounding must not rank what is equal: ten digits are kept.
        top = distance.max() if len(distance) else 0.0
        self.constant = bool(top <= 1e-20 * np.square(np.asarray(features, dtype=np.float64)).sum(axis=1).max())
        values = np.round(distance / (top or 1.0), 10)
        self.places = np.unique(values, return_inverse=True)[1].astype(np.int32)

    def ranks(self, kept: np.ndarray | None = None) -> np.ndarray:
        """Mean ranks (from 1) of the pairs, or of those that are `kept`, bool [P]."""
        places = self.places if kept is None else self.places[kept]
        counts = np.bincount(places)
        return (np.cumsum(counts) - (counts - 1) / 2)[places]


def rsa(x: Any, y: Any, definition: str = "kdscope") -> float:
    """Spearman's rho of the RDMs of features [N, d1] and [N, d2].

    >>> x = np.random.default_rng(0).normal(size=(30, 3))
    >>> round(rsa(x, 2 * x[:, ::-1]), 9)
    1.0
    """
    return RSA(definition).update(x, y).estimate()


def rsa_matrix(
    a: list[RDM], b: list[RDM], definition: str = "kdscope", confidence: float = 0.95, groups: int = GROUPS
) -> list[list[Result]]:
    """A result for each RDM of a with each of b; all of the same images."""
    n = a[0].n
    rows, columns = np.triu_indices(n, 1)
    group = groups_of(n, groups)
    values = [_rho(a, b, None)]
    if n - -(-n // groups) >= FEWEST:
        for out in range(groups):
            kept = group != out
            values.append(_rho(a, b, kept[rows] & kept[columns]))
    values = np.array(values)
    return [
        [
            undefined(CARD.name, n, definition)
            if one.constant or other.constant
            else _result(values[:, i, j], n, definition, confidence)
            for j, other in enumerate(b)
        ]
        for i, one in enumerate(a)
    ]


def _rho(a: list[RDM], b: list[RDM], kept: np.ndarray | None) -> np.ndarray:
    sides = []
    for rdms in (a, b):
        ranks = np.stack([rdm.ranks(kept) for rdm in rdms])
        ranks -= ranks.mean(axis=1, keepdims=True)
        size = np.linalg.norm(ranks, axis=1, keepdims=True)
        sides.append(ranks / np.where(size > 0, size, 1.0))
    return sides[0] @ sides[1].T


def _result(values: np.ndarray, n: int, definition: str, confidence: float) -> Result:
    interval = jackknife_interval(values[0], values[1:], confidence=confidence)
    low, high = (float(np.clip(end, *CARD.range)) for end in interval)
    source = RSA.definitions[definition].citation
    return Result(CARD.name, float(values[0]), None, n, low, high, definition=definition, source=source)


@measure
class RSA(FeatureMeasure):
    """Spearman's rho of the RDMs of two layers. The features seen are kept; the work grows with their number squared.

    Args:
        definition: "kdscope" (Euclidean distances) or "kriegeskorte2008" (1 - Pearson).

    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> result = RSA().update(x, x + 0.3 * x**2).compute()
    >>> result.ci_low < result.value < result.ci_high
    True
    """

    card = CARD
    definitions = DEFINITIONS

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def see(self, a: np.ndarray, b: np.ndarray) -> None:
        self._parts.append((a, b))

    def absorb(self, other: "RSA") -> None:
        self._parts.extend(other._parts)

    def point(self) -> float:
        return self.finish(0.95, 0).value

    def finish(self, confidence: float, seed: int) -> Result:
        if self.seen < FEWEST:
            raise KDScopeError(f"RSA needs at least {FEWEST} images, and there are {self.seen}")
        a, b = (RDM(np.concatenate(side), self.definition) for side in zip(*self._parts, strict=True))
        return rsa_matrix([a], [b], self.definition, confidence)[0][0]
