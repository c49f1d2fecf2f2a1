"""The layers of caches as vectors, read once: pooled features as they are, maps averaged or laid out flat."""

import fnmatch
from collections.abc import Sequence

import numpy as np

from kdscope.analyses.cast import Party
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.measures.layers import Layer, strided

Cell = tuple[str, str]  # a layer of a, and one of b
ROWS = 1024


def matching(layers: Sequence[str] | str | None) -> tuple[str, ...]:
    """Patterns of layer names, from one text with commas too; none stands for all."""
    if layers is None:
        return ()
    named = layers.split(",") if isinstance(layers, str) else layers
    return tuple(name.strip() for name in named if name.strip())


def rows_of(cache: FeatureCache, probe: FeatureCache) -> np.ndarray:
    """Where in a cache the images of a probe are: int64 [N]; a KDScopeError unless it holds them all."""
    rows = np.searchsorted(cache.index, probe.index)
    there = cache.index[np.minimum(rows, len(cache.index) - 1)] == probe.index
    if not there.all():
        raise KDScopeError(f"{(~there).sum()} of {len(there)} images of {probe.path} are not in {cache.path}")
    if cache.classes != probe.classes or not np.array_equal(cache.labels[rows], probe.labels):
        raise KDScopeError(f"{cache.path} and {probe.path} are not of the same images: their labels differ")
    return rows


class Library:
    """Layers of caches by name, at most `images` strided images of each.

    Attributes:
        notes: what was left out, and why.
        reductions: of each layer that was read, how it became a vector: "pool", or "full: mean over positions", ...
    """

    def __init__(self, patterns: Sequence[str] = (), images: int = 10_000):
        if images < 1:
            raise KDScopeError(f"{images} images; there must be at least 1")
        self.patterns, self.images = patterns, images
        self.reductions: dict[str, str] = {}
        self._notes: dict[str, None] = {}
        self._read: dict[str, dict[str, Layer]] = {}
        self._controls: dict[tuple, FeatureCache | None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def cache(self, party: Party, split: str, view: str) -> FeatureCache | None:
        """What the network of a party says of a split; None for a control whose network is not known."""
        subject = party.subjects[0]
        if party.kind != "random-init":
            return subject.cache(split, view)
        key = (subject.name, subject.folder, split, view)
        if key not in self._controls:
            self._controls[key] = subject.random_init(split, view)
        return self._controls[key]

    def layers(self, cache: FeatureCache) -> dict[str, Layer]:
        """The chosen layers, each set of features once (the penultimate vector is often the last stage, pooled)."""
        key = str(cache.path)
        if key not in self._read:
            self._read[key] = self._layers(cache, strided(len(cache.index), self.images))
        return self._read[key]

    def layers_at(self, cache: FeatureCache, probe: FeatureCache) -> dict[str, Layer]:
        """The layers of a cache on the images of a probe, which it must hold."""
        rows = rows_of(cache, probe)
        return self._layers(cache, rows[strided(len(rows), self.images)])

    def wanted(self, layer: str) -> bool:
        """Whether a layer is among those that were asked for."""
        return not self.patterns or any(fnmatch.fnmatchcase(layer, pattern) for pattern in self.patterns)

    def _layers(self, cache: FeatureCache, rows: np.ndarray) -> dict[str, Layer]:
        found: dict[str, Layer] = {}
        for name in self._chosen(cache):
            features = self._vectors(cache, name, rows)
            layer = Layer(features, f"{name} of {cache.path}:")
            twin = next((known for known, other in found.items() if np.array_equal(features, other.features)), None)
            if twin is not None:
                self._notes[f"{name} is left out where it is {twin} itself, pooled"] = None
                continue
            found[name] = layer
        return found

    def _chosen(self, cache: FeatureCache) -> list[str]:
        if not cache.layers:
            raise KDScopeError(f"{cache.path} holds no features of any layer; extract with --layers")
        chosen = [name for name in cache.layers if self.wanted(name)]
        if not chosen:
            raise unknown("layer", ", ".join(self.patterns), cache.layers, str(cache.path))
        return chosen

    def _vectors(self, cache: FeatureCache, name: str, rows: np.ndarray) -> np.ndarray:
        stored = cache.feature(name)
        axes = len(stored.shape)
        how = getattr(stored, "reduction", "pool")
        if axes == 2:
            self.reductions[name] = how
        elif axes == 3 and how == "attention":
            self.reductions[name] = "attention map, flat"
        else:
            self.reductions[name] = f"{how}, mean over positions"
        parts = []
        for start in range(0, len(rows), ROWS):
            block = np.asarray(stored[rows[start : start + ROWS]])
            if axes > 2:
                over = (1,) if axes == 3 else tuple(range(2, axes))  # tokens [T, D], maps [C, H, W]
                flat = self.reductions[name].endswith("flat")
                block = block.reshape(len(block), -1) if flat else block.mean(axis=over, dtype=np.float32)
            parts.append(block)
        return np.concatenate(parts)
