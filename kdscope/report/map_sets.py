"""Which maps of which networks the explorer has room for, on grids that all networks share."""

from collections.abc import Iterator, Mapping

import numpy as np

from kdscope.features.cache import FeatureCache
from kdscope.measures.grids import as_maps, pool_area
from kdscope.report.payload import MapSet
from kdscope.report.pixels import as_bytes, as_signed_bytes, encode

MOST_BYTES = 2_800_000  # of all maps together: the page has room for a third more as base64
FINEST = 16  # cells a side
METHODS = ("cam", "grad-cam", "rollout", "cls-attention", "activation", "integrated-gradients")
TITLES = {
    "cam": "class activation", "grad-cam": "Grad-CAM", "rollout": "attention roll-out",
    "cls-attention": "class token's attention", "activation": "activation", "integrated-gradients": "causal (IG)",
}  # fmt: skip
MAPS = "maps/"
Caches = tuple[FeatureCache | None, FeatureCache | None]


def map_sets(
    networks: Mapping[str, Caches], index: np.ndarray, rows: np.ndarray
) -> tuple[dict[str, dict[str, MapSet]], list[str], list[str]]:
    """The maps of networks on the same images.

    Layers are matched from the deepest up; a kind of map is on the smallest of its grids, and at most `FINEST` cells a
    side: larger ones are averaged over area, as `attention-iou` does. The deepest layers come first, until all is full.

    Args:
        networks: caches of maps and of causal maps by the names of the networks.
        index: int [n], positions in the split. rows: the same as positions in the caches of maps.

    Returns:
        Maps by network and kind, the kinds in their order, and what must be said of them.
    """
    kinds = _kinds(networks)
    made: dict[str, dict[str, MapSet]] = {name: {} for name in networks}
    order, left_out, free = [], [], MOST_BYTES
    for kind, names in kinds.items():
        shapes = [_cache(networks[n], array).array(MAPS + array).shape[1:] for n, array in names.items()]
        grid = tuple(min(FINEST, *(shape[axis] for shape in shapes)) for axis in (0, 1))
        cost = len(names) * len(index) * grid[0] * grid[1]
        if cost > free:
            left_out.append(kind)
            continue
        free -= cost
        order.append(kind)
        read = {name: _read(networks[name], array, grid, index, rows) for name, array in names.items()}
        signed = any(maps.min() < 0 for maps, _ in read.values())
        for name, (maps, known) in read.items():
            made[name][kind] = _map_set(names[name], maps, known, signed)
    said = [f"Maps of {', '.join(left_out)} are left out: the page has no room for them."] if left_out else []
    return made, order, said


def _kinds(networks: Mapping[str, Caches]) -> dict[str, dict[str, str]]:
    """The array of each network for each kind of map, deepest layers first: "cam", "activation", "activation-2", ..."""
    by_network = {name: [*_names(caches)] for name, caches in networks.items()}
    kinds: dict[tuple[int, int], dict[str, str]] = {}
    for name, arrays in by_network.items():
        for m, method in enumerate(METHODS):
            own = [array for array in arrays if array.partition("/")[0] == method]
            for depth, array in enumerate(reversed(own)):
                kinds.setdefault((depth, m), {})[name] = array
    return {METHODS[m] if depth == 0 else f"{METHODS[m]}-{depth + 1}": kinds[depth, m] for depth, m in sorted(kinds)}


def _names(caches: Caches) -> Iterator[str]:
    """METHOD/LAYER of all maps, causal ones from the input up; those of controls are none."""
    maps, causal = caches
    for cache, methods in ((maps, METHODS[:-1]), (causal, METHODS[-1:])):
        for array in cache.names if cache is not None else ():
            if array.startswith(MAPS) and array.removeprefix(MAPS).partition("/")[0] in methods:
                yield array.removeprefix(MAPS)


def _cache(caches: Caches, array: str) -> FeatureCache:
    return caches[1 if array.partition("/")[0] == METHODS[-1] else 0]


def _read(
    caches: Caches, array: str, grid: tuple[int, int], index: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps [n, *grid] and, where not every image has one, which have: bool [n]."""
    cache = _cache(caches, array)
    if cache is caches[0]:
        return pool_area(as_maps(cache.array(MAPS + array)[rows], array), grid), None
    there = np.searchsorted(cache.index, index).clip(max=len(cache) - 1)
    known = cache.index[there] == index
    maps = np.zeros((len(index), *grid))
    maps[known] = pool_area(as_maps(cache.array(MAPS + array)[there[known]], array), grid)
    return maps, None if known.all() else known


def _map_set(array: str, maps: np.ndarray, known: np.ndarray | None, signed: bool) -> MapSet:
    method, _, layer = array.partition("/")
    scaled = as_signed_bytes(maps) if signed else as_bytes(maps)
    return MapSet(
        label=f"{TITLES[method]}, {layer}", height=maps.shape[1], width=maps.shape[2], data=encode(scaled, "uint8"),
        signed=signed, known=None if known is None else encode(known, "uint8"),
        card="area-iou",
    )  # fmt: skip
