"""CKA of every layer of one network with every layer of another in one pass, exact whatever the batches: for training.

No N x N matrix and no copy of the features: HSIC is a function of sums (`kdscope.measures.hsic`), which are kept in
float64 on the device that the features are on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.cka import Spread, cka_of
from kdscope.measures.hsic import Sums
from kdscope.measures.result import Result

WIDEST = 8192  # dimensions; the sums of two such layers are 512 MiB


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
        self._known: tuple[int, dict[tuple[str, str], Spread]] = (0, {})

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
        own = self._spreads()
        return {
            (one, other): cka_of(sums, own["a", one], own["b", other], definition, confidence)
            for (one, other), sums in self._cross.items()
        }

    def shares(self) -> tuple[dict[str, float], dict[str, float]]:
        """Share of each layer's variance on its first principal axis, of a and of b; NaN of a constant layer."""
        found: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for (side, layer), spread in self._spreads().items():
            found[side == "b"][layer] = spread.top
        return found

    def _spreads(self) -> dict[tuple[str, str], Spread]:
        """Made once for what was seen so far."""
        if self._known[0] != self.seen:
            self._known = self.seen, {key: Spread.of(sums) for key, sums in self._own.items()}
        return self._known[1]

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
