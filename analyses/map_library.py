"""The attention maps of the networks of an analysis, read, put on a common grid and ranked once each."""

from collections.abc import Sequence

import numpy as np

from kdscope.analyses.cast import Party
from kdscope.analyses.feature_layers import rows_of
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.grids import Ranked, as_maps, is_flat, pool_area, ranked

MAPS, MASK = "maps/", "meta/mask"


class Excerpt:
    """The images of a probe from a cache of maps: as much of a cache as is read here."""

    def __init__(self, cache: FeatureCache, probe: FeatureCache):
        self._cache, self._rows = cache, rows_of(cache, probe)
        self.path, self.names, self.labels = f"{cache.path} at {probe.path}", cache.names, probe.labels

    def array(self, name: str) -> np.ndarray:
        return self._cache.array(name)[self._rows]


class MapLibrary:
    """Maps by network and name, of one split and view."""

    def __init__(self, split: str, view: str):
        self.split, self.view = split, view
        self._caches: dict[tuple, FeatureCache | None] = {}
        self._pooled: dict[tuple, np.ndarray] = {}
        self._ranked: dict[tuple, Ranked] = {}

    def cache(self, party: Party) -> FeatureCache | None:
        """The maps of a party's network; None for a control whose network is not known."""
        subject, kind = party.subjects[0], "random-init" if party.kind == "random-init" else "trained"
        key = (kind, subject.name, subject.folder, subject.group, subject.seed)
        if key not in self._caches:
            ask = subject.random_init if kind == "random-init" else subject.cache
            self._caches[key] = ask(self.split, self.view, kind="maps")
        return self._caches[key]

    def names(self, cache: FeatureCache | Excerpt) -> list[str]:
        """Names of the maps of a cache, METHOD/LAYER."""
        return [name.removeprefix(MAPS) for name in cache.names if name.startswith(MAPS)]

    def last(self, cache: FeatureCache, method: str) -> str:
        """Its deepest map of a method."""
        return [name for name in self.names(cache) if name.partition("/")[0] == method][-1]

    def grid(self, cache: FeatureCache | Excerpt, name: str) -> tuple[int, int]:
        """Rows and columns of a map."""
        rows, columns = cache.array(MAPS + name).shape[1:]
        return rows, columns

    def maps(self, cache: FeatureCache | Excerpt, name: str, grid: tuple[int, int] | None = None) -> np.ndarray:
        """A map of all images, averaged over area to a grid: float32 [N, *grid]."""
        grid = grid or self.grid(cache, name)
        key = (str(cache.path), name, grid)
        if key not in self._pooled:
            maps = as_maps(cache.array(MAPS + name)[:], f"{name} of {cache.path}")
            # float32 as it was stored: ties are those of the cache, and the memory is half.
            self._pooled[key] = pool_area(maps, grid).astype(np.float32)
        return self._pooled[key]

    def ranked(self, cache: FeatureCache | Excerpt, name: str, grid: tuple[int, int]) -> Ranked:
        """The same as places of cells."""
        key = (str(cache.path), name, grid)
        if key not in self._ranked:
            self._ranked[key] = ranked(self.maps(cache, name, grid))
        return self._ranked[key]

    def forget(self) -> None:
        """Drops what was read; called between layers, so that one layer of all networks is held at a time."""
        self._pooled.clear()
        self._ranked.clear()

    def flat(self, cache: FeatureCache, name: str) -> int:
        """How many of the maps are constant."""
        return int(is_flat(self.maps(cache, name)).sum())


def matched(a: Sequence[str], b: Sequence[str], method: str) -> list[tuple[str, str]]:
    """The maps of one method to compare: by the names of their layers where these agree, else from the deepest up.

    >>> matched(["cam/layer3", "activation/layer2"], ["cam/stage4"], "cam")
    [('cam/layer3', 'cam/stage4')]
    >>> matched(["activation/s1", "activation/s2"], ["activation/b2"], "activation")
    [('activation/s2', 'activation/b2')]
    """
    left, right = ([name for name in names if name.partition("/")[0] == method] for names in (a, b))
    if set(left) == set(right):
        return [(name, name) for name in left]
    return list(zip(reversed(left), reversed(right), strict=False))[::-1]


def methods_of(wanted: Sequence[str] | str | None, held: Sequence[Sequence[str]]) -> list[str]:
    """The methods to look at: those that all networks have, but for `cam-sum`, unless they are named.

    Raises:
        KDScopeError: a method that some network does not have, or none in common.
    """
    each = [list(dict.fromkeys(name.partition("/")[0] for name in names)) for names in held]
    common = [method for method in each[0] if all(method in other for other in each)]
    if wanted is None:
        common = [method for method in common if method != "cam-sum"]
        if not common:
            raise KDScopeError(f"the networks have no kind of map in common: {'; '.join(', '.join(e) for e in each)}")
        return common
    chosen = [m.strip() for m in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    for method in chosen:
        if method not in common:
            raise KDScopeError(f"not every network has maps of {method!r}; all have {', '.join(common) or 'none'}")
    return chosen
