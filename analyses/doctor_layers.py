"""The doctor's tests of cached layers: finite numbers, and CKA of a layer with itself and with shuffled images."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kdscope.analyses.doctor_rules import REFUSE, TRUST, of_dimensions, of_measure
from kdscope.analyses.feature_layers import Library
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures import MEASURES
from kdscope.measures.controls import derangement
from kdscope.measures.layers import Layer, compare_layers
from kdscope.measures.trust import Tried

SHUFFLES = 5  # of the images of a layer; each costs a CKA
BLOCK = 1024


def unfit_layers(cache: FeatureCache) -> Iterator[dict[str, Any]]:
    """A row for each layer: in how many images it is NaN or infinite."""
    for layer, count in bad_images(cache).items():
        yield {
            "test": "finite features", "layer": layer, "value": float(count), "found": float(count), "expected": 0.0,
            "verdict": REFUSE if count else TRUST,
            "reason": "images whose cached features are NaN or infinite" if count else "",
        }  # fmt: skip


def bad_images(cache: FeatureCache) -> dict[str, int]:
    """For each layer, how many images have NaN or infinite features."""
    counts = dict.fromkeys(cache.layers, 0)
    for layer in counts:
        stored = cache.feature(layer)
        for start in range(0, len(stored), BLOCK):
            block = np.asarray(stored[start : start + BLOCK])
            counts[layer] += int((~np.isfinite(block)).reshape(len(block), -1).any(axis=1).sum())
    return counts


def layer_rows(a: FeatureCache, b: FeatureCache, images: int) -> Iterator[dict[str, Any]]:
    """Identity, null and support of CKA, debiased and biased, for each layer of a beside that of b."""
    try:
        sides = [_layers(cache, images) for cache in (a, b)]
        for one, other in beside(list(sides[0]), list(sides[1])):
            yield from _of_cell(one, sides[0][one], other, sides[1][other])
    except KDScopeError as error:
        yield {"measure": "cka", "test": "applies", "verdict": REFUSE, "reason": " ".join(str(error).split())}


def _layers(cache: FeatureCache, images: int) -> dict[str, Layer]:
    whole = [layer for layer, count in bad_images(cache).items() if not count]
    return Library(whole, images).layers(cache) if whole else {}


def _of_cell(one: str, x: Layer, other: str, y: Layer) -> Iterator[dict[str, Any]]:
    named = one if one == other else f"{one}, {other}"
    shuffled = [Layer(y.features[derangement(len(y), seed)]) for seed in range(SHUFFLES)]
    columns = [_cka(x, y), _cka(y, y), *(_cka(x, each) for each in shuffled)]
    for definition, (value, itself, *null) in zip(
        columns[0], zip(*(c.values() for c in columns), strict=True), strict=True
    ):
        tried = Tried(MEASURES["cka"].card, definition, value, value, itself, tuple(null))
        rows = [row for row in of_measure(tried) if row["test"] != "gauge"]  # features come before the head
        if definition == "kdscope":
            rows.append(of_dimensions(len(x), max(x.features.shape[1], y.features.shape[1])))
        for row in rows:
            yield {"measure": "cka", "definition": definition, "layer": named} | row


def _cka(x: Layer, y: Layer) -> dict[str, float]:
    return {r.definition: r.value for r in compare_layers({"x": x}, {"y": y}, ["cka"])["x", "y"]}


def beside(a: list[str], b: list[str]) -> list[tuple[str, str]]:
    """Layers by the same name where the networks share one; else from the deepest up.

    >>> beside(["layer1", "penultimate"], ["layer1", "layer2", "penultimate"])
    [('layer1', 'layer1'), ('penultimate', 'penultimate')]
    >>> beside(["stage1", "stage2"], ["block"])
    [('stage2', 'block')]
    """
    common = [name for name in a if name in b]
    return [(name, name) for name in common] or list(zip(reversed(a), reversed(b), strict=False))[::-1]
