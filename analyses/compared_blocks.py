"""What the caches of a pair say of the same images, block by block: logits and labels (`compare`)."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.controls import derangement
from kdscope.measures.ensemble import combine_logits

BLOCK = 2**22  # logits in a block
SHUFFLED = 10_000  # images that a shuffled floor is measured on: its standard error is then below 0.005


def pair_blocks(
    shuffled: bool, a: Sequence[FeatureCache], b: FeatureCache, baseline: FeatureCache | None, how: str
) -> Iterator[tuple]:
    """What a, b, the truth and the baseline say of the same images, block by block."""
    if shuffled:
        yield from _shuffled_block(a, b, how)
        return
    rows = max(1, BLOCK // len(b.classes))
    streams = [cache.blocks(["logits", "labels"], rows) for cache in (*a, b)]
    third = itertools.repeat(None) if baseline is None else baseline.blocks(["logits"], rows)
    for parts in zip(*streams, third, strict=False):
        *teachers, student, alone = parts
        yield _combined(teachers, how), student["logits"], student["labels"], alone and alone["logits"]


def _combined(members: Sequence[dict], how: str) -> np.ndarray:
    return members[0]["logits"] if len(members) == 1 else combine_logits([m["logits"] for m in members], how)


def _shuffled_block(a: Sequence[FeatureCache], b: FeatureCache, how: str) -> Iterator[tuple]:
    """Some images of the teacher, each beside the student's prediction on another of them."""
    index = b.index
    if len(index) > SHUFFLED:
        index = np.sort(np.random.default_rng(0).choice(index, SHUFFLED, replace=False))
    if len(index) > 1:
        teachers = [at_images(cache, index) for cache in a]
        student = at_images(b, index)
        yield _combined(teachers, how), student["logits"][derangement(len(index))], teachers[0]["labels"], None


def at_images(cache: FeatureCache, index: np.ndarray) -> dict[str, np.ndarray]:
    """Logits and labels of some images, by their positions in the split, ascending.

    Raises:
        KDScopeError: an image that the cache does not hold.
    """
    rows = max(1, BLOCK // len(cache.classes))
    parts = [
        {name: block[name][np.isin(block["index"], index)] for name in ("logits", "labels")}
        for block in cache.blocks(["logits", "labels", "index"], rows)
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in ("logits", "labels")}
    if len(found["labels"]) != len(index):
        raise KDScopeError(f"{len(index) - len(found['labels'])} of {len(index)} images are not in {cache.path}")
    return found


class Excerpt:
    """Some images of a cache, by their positions in the split: a teacher on the images of a probe."""

    def __init__(self, cache: FeatureCache, index: np.ndarray):
        self.path, self.classes = cache.path, cache.classes
        self._held = at_images(cache, index)

    def blocks(self, names: Sequence[str], size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self._held["labels"]), size):
            yield {name: self._held[name][start : start + size] for name in names}

    def check_compatible(self, probe: FeatureCache) -> None:
        """A KDScopeError unless the probe has the same classes and labels."""
        if self.classes != probe.classes:
            raise KDScopeError(f"{self.path} and {probe.path} do not have the same classes")
        if not np.array_equal(self._held["labels"], probe.labels):
            raise KDScopeError(f"{self.path} and {probe.path} are not of the same images: their labels differ")
