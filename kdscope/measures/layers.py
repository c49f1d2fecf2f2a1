"""Every layer of one network against every layer of another, with all that is one layer's alone computed once.

CKA (debiased, and biased beside it) and Procrustes come from sums over all images; neighbours and RDMs, whose work
grows with the square of the number of images, from a strided part of them, whose size each result states.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from kdscope.errors import KDScopeError, unknown
from kdscope.measures import neighbour_overlap as neighbours
from kdscope.measures.cka import BIASED, Spread, cka_of, undefined
from kdscope.measures.features import GROUPS, checked, compact
from kdscope.measures.hsic import FEWEST, Sums
from kdscope.measures.procrustes import procrustes_of
from kdscope.measures.result import Result
from kdscope.measures.rsa import RDM, rsa_matrix

NAMES = ("cka", "procrustes", "knn-jaccard", "rsa")
WIDE, WIDE_IMAGES = 4096, 2000  # beyond so many dimensions so many images, in the space that they span
NEIGHBOUR_IMAGES, RDM_IMAGES = 2000, 500
BLOCK = 2048
GROUP_BYTES = 2**28


class Layer:
    """Features [N, d] of one layer; what measures make of them alone is made when it is asked for, once.

    More than 4,096 dimensions are exactly turned into those that 2,000 strided images span, for CKA and Procrustes.

    Raises:
        KDScopeError: no matrix, or NaN (in how many images); `name` says of which layer.
    """

    def __init__(self, features: np.ndarray, name: str = "layer"):
        self.features = checked(features, name)
        self._spreads: dict[int, Spread] = {}

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def wide(self) -> bool:
        return self.features.shape[1] > WIDE

    @cached_property
    def compacted(self) -> np.ndarray:
        return compact(self.features[strided(len(self), WIDE_IMAGES)])

    def rows(self, wide: bool) -> np.ndarray:
        """The features that sums are made of, where either of two layers is wide."""
        if not wide:
            return self.features
        return self.compacted if self.wide else self.features[strided(len(self), WIDE_IMAGES)]

    def spread(self, groups: int, wide: bool) -> Spread:
        key = -groups if wide else groups
        if key not in self._spreads:
            rows = self.rows(wide)
            self._spreads[key] = Spread.of(_sums(rows, rows, groups))
        return self._spreads[key]

    @cached_property
    def top(self) -> float:
        """Share of the variance on the first principal axis; NaN of a constant layer."""
        known = next(iter(self._spreads.values()), None)
        return (known or self.spread(1, self.wide)).top

    @cached_property
    def near(self) -> np.ndarray:
        part = self.features[strided(len(self), NEIGHBOUR_IMAGES)]
        return neighbours.nearest_neighbours(part, neighbours.SPARE * neighbours.K)

    @cached_property
    def rdm(self) -> RDM:
        return RDM(self.features[strided(len(self), RDM_IMAGES)])


def strided(n: int, most: int) -> np.ndarray:
    """At most `most` of n images, evenly strided.

    >>> strided(10, 4).tolist()
    [0, 2, 5, 7]
    """
    return np.arange(n) if n <= most else np.arange(most) * n // most


def compare_layers(
    a: Mapping[str, Layer], b: Mapping[str, Layer], names: Sequence[str] = NAMES, confidence: float = 0.95
) -> dict[tuple[str, str], list[Result]]:
    """Results for each layer of a with each of b, of the same images; CKA gives two (debiased, biased).

    Raises:
        KDScopeError: an unknown measure, different numbers of images, or fewer than a measure needs (how many).

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> found = compare_layers({"layer1": Layer(x)}, {"layer1": Layer(-2 * x)}, ["cka", "knn-jaccard"])
    >>> [(r.measure, r.definition, round(r.value, 6)) for r in found["layer1", "layer1"]]
    [('cka', 'kdscope', 1.0), ('cka', 'kornblith2019', 1.0), ('knn-jaccard', 'kdscope', 1.0)]
    """
    for name in names:
        if name not in NAMES:
            raise unknown("measure", name, NAMES, "the likeness of layers")
    sizes = {len(layer) for layer in (*a.values(), *b.values())}
    if len(sizes) != 1:
        raise KDScopeError(f"layers of {sorted(sizes)} images cannot be compared; give the same images")
    n = sizes.pop()
    need = max(2 * neighbours.K + 1 if "knn-jaccard" in names else 0, FEWEST)
    if n < need:
        raise KDScopeError(f"{', '.join(names)} need at least {need} images, and there are {n}")
    found: dict[tuple[str, str], list[Result]] = {(one, other): [] for one in a for other in b}
    for one, other in found:
        found[one, other] += _from_sums(a[one], b[other], names, confidence)
    if "knn-jaccard" in names:
        for one, other in found:
            found[one, other].append(_overlap(a[one], b[other], confidence))
    if "rsa" in names:
        results = rsa_matrix([x.rdm for x in a.values()], [x.rdm for x in b.values()], confidence=confidence)
        for one, row in zip(a, results, strict=True):
            for other, result in zip(b, row, strict=True):
                found[one, other].append(result)
    return found


def _from_sums(a: Layer, b: Layer, names: Sequence[str], confidence: float) -> list[Result]:
    if not {"cka", "procrustes"} & set(names):
        return []
    wide = a.wide or b.wide
    x, y = a.rows(wide), b.rows(wide)
    widest = max(x.shape[1], y.shape[1])
    groups = int(np.clip(GROUP_BYTES // (8 * widest**2), 5, GROUPS))
    cross, own = _sums(x, y, groups), (a.spread(groups, wide), b.spread(groups, wide))
    results = []
    if "cka" in names:
        results += [cka_of(cross, *own, definition, confidence) for definition in ("kdscope", BIASED)]
    if "procrustes" in names:
        results.append(procrustes_of(cross, *own, confidence))
    return results


def _overlap(a: Layer, b: Layer, confidence: float) -> Result:
    if a.rdm.constant or b.rdm.constant:
        return undefined("knn-jaccard", len(a.near))
    return neighbours.overlap_of(a.near, b.near, confidence=confidence)


def _sums(x: np.ndarray, y: np.ndarray, groups: int) -> Sums:
    sums = Sums(groups)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        sums.update(part, part if x is y else y[start : start + BLOCK])
    return sums
