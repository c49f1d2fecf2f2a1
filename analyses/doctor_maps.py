"""The doctor's tests of cached attention maps: overlap of a map with itself, and with those of shuffled images."""

from collections.abc import Iterator
from typing import Any

from kdscope.analyses.cast import Pair
from kdscope.analyses.doctor_rules import REFUSE, of_measure
from kdscope.analyses.map_library import MapLibrary, matched, methods_of
from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.controls import derangement
from kdscope.measures.layers import strided
from kdscope.measures.trust import Tried

OVERLAPS = ("attention-iou", "map-rank-correlation", "soft-iou")
SHUFFLES = 5
IMAGES = 1000


def map_rows(pair: Pair, split: str, view: str) -> Iterator[dict[str, Any]]:
    """Identity and null of each overlap of each map that both networks have; what is not cached is extracted."""
    library = MapLibrary(split, view)
    try:
        caches = [library.cache(party) for party in (pair.a, pair.b)]
        caches[0].check_compatible(caches[1])
        names = [library.names(cache) for cache in caches]
        for method in methods_of(None, names):
            for one, other in matched(*names, method):
                yield from _of_map(library, caches, one, other)
                library.forget()
    except KDScopeError as error:
        yield {"measure": "attention-iou", "test": "applies", "verdict": REFUSE, "reason": " ".join(str(error).split())}


def _of_map(library: MapLibrary, caches: list[Any], one: str, other: str) -> Iterator[dict[str, Any]]:
    grid = min(library.grid(caches[0], one), library.grid(caches[1], other))
    rows = strided(len(caches[0].index), IMAGES)
    a, b = (library.maps(cache, name, grid)[rows] for cache, name in zip(caches, (one, other), strict=True))
    for name in OVERLAPS:
        value, itself = _overlap(name, a, b), _overlap(name, b, b)
        null = tuple(_overlap(name, a, b[derangement(len(b), seed)]) for seed in range(SHUFFLES))
        for row in of_measure(Tried(MEASURES[name].card, "kdscope", value, value, itself, null)):
            if row["test"] != "gauge":  # that is tried on the network itself
                layer = one if one == other else f"{one}, {other}"
                yield {"measure": name, "definition": "kdscope", "layer": layer, "n": len(rows)} | row


def _overlap(name: str, a: Any, b: Any) -> float:
    return MEASURES[name]().update(a, b).estimate()
