"""The graphs of batches of images, from keys and queries in a cache, and what they look at, batch by batch."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.controls import derangement
from kdscope.measures.graphs import (
    SATURATED,
    divergence,
    head_correlation,
    identity_mass,
    log_graph,
    row_entropy,
    same_class_mass,
    scores,
)

OWN: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "same-class-mass": same_class_mass,
    "identity-mass": lambda logs, labels: identity_mass(logs),
    "row-entropy": lambda logs, labels: row_entropy(logs),
}
SHUFFLED = ("same-class-mass", "identity-mass", "graph-divergence")  # what another order of the images changes
WHOLE = "all"

Cell = tuple[str, str, str, str]  # measure, network, pair of layers, head
Cells = dict[Cell, np.ndarray]  # a number for each batch; of a lone batch, for each of its images


def batches(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    """Positions of `count` images in batches of `size`, drawn: classes that lie together in a data set are mixed.

    Images that fill no batch are left out; where there is none, all make one.

    >>> [len(rows) for rows in batches(10, 4)], [len(rows) for rows in batches(3, 4)]
    ([4, 4], [3])
    """
    if count < 2 or size < 2:
        raise KDScopeError(f"a graph needs at least 2 images, not {min(count, size)}")
    order = np.random.default_rng(seed).permutation(count)
    size = min(size, count)
    return [order[start : start + size] for start in range(0, count - size + 1, size)]


def bounded(cache: FeatureCache, network: str, pair: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores S [A, N, N] of some images, and what the softmax is taken of."""
    keys, queries = (cache.array(f"graph/{network}/{side}/{pair}")[:][rows] for side in ("key", "query"))
    S = scores(keys, queries)
    return S, np.tanh(S) if _tanh(cache) else S


def _tanh(cache: FeatureCache) -> bool:
    return cache.identity["attention"]["tanh"]


def measured(cache: FeatureCache, alone: Mapping[str, FeatureCache], size: int) -> tuple[Cells, Cells]:
    """Each measure of each network, pair of layers and head, and the same with images in another order (the null).

    Args:
        cache: of the student, the teacher and untrained heads.
        alone: caches of other networks under the same heads, by what they are called.
        size: images of a batch.

    Raises:
        KDScopeError: caches of other images than `cache`, or too few images.
    """
    for other in alone.values():
        cache.check_compatible(other)
    parts = batches(len(cache.index), size)
    found: dict[Cell, list] = defaultdict(list)
    null: dict[Cell, list] = defaultdict(list)
    for k, rows in enumerate(parts):
        for key, by_image, shuffled in _of_batch(cache, alone, rows, seed=k):
            found[key].append(by_image)
            null[key].append(shuffled)
    single = len(parts) == 1
    return tuple(
        {key: np.atleast_1d(v[0]) if single else np.array([np.mean(x) for x in v]) for key, v in each.items()}
        for each in (found, null)
    )


def _of_batch(
    cache: FeatureCache, alone: Mapping[str, FeatureCache], rows: np.ndarray, seed: int
) -> Iterator[tuple[Cell, np.ndarray, np.ndarray]]:
    """Cells of one batch: a number for each image (or one), and that of the null."""
    labels, order = cache.labels[rows], derangement(len(rows), seed)
    networks = {name: (cache, name) for name in ("teacher", "student", "untrained")}
    networks |= {name: (other, "student") for name, other in alone.items()}
    for pair in cache.layers:
        target = log_graph(bounded(cache, "teacher", pair, rows)[1])
        for name, (source, network) in networks.items():
            S, bound = bounded(source, network, pair, rows)
            logs = log_graph(bound)
            nothing = logs[:, :, order]  # queries of other images
            values = {m: (f(logs, labels), f(nothing, labels)) for m, f in OWN.items()}
            if network == "student":
                values["graph-divergence"] = divergence(logs, target), divergence(logs, target[:, :, order])
            for measure, (real, shuffled) in values.items():
                yield (measure, name, pair, WHOLE), real.mean(axis=0), shuffled.mean(axis=0)
                for head in range(len(real)):
                    yield (measure, name, pair, str(head)), real[head], shuffled[head]
            for measure, value in (
                ("head-correlation", head_correlation(logs)),
                ("score-deviation", float(S.std(axis=(1, 2)).mean())),
                ("saturation", float((np.abs(bound) > SATURATED).mean()) if _tanh(source) else np.nan),
            ):
                yield (measure, name, pair, WHOLE), np.array(value), np.array(np.nan)


def pictured(cache: FeatureCache, alone: Mapping[str, FeatureCache], size: int, most: int) -> Iterator[dict]:
    """Cells of heat maps: the graphs of the first batch, over heads, in multiples of an even share, ordered by class.

    Of a batch of more than `most` images those of its most frequent classes are shown.
    """
    rows = batches(len(cache.index), size)[0]
    labels = cache.labels[rows]
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    chosen = np.lexsort((labels, -counts[inverse]))[:most]
    chosen = chosen[np.lexsort((rows[chosen], labels[chosen]))]
    networks = {name: (cache, name) for name in ("teacher", "student", "untrained")}
    networks |= {name: (other, "student") for name, other in alone.items()}
    names = [cache.classes[label] for label in labels[chosen]]
    for pair in cache.layers:
        for name, (source, network) in networks.items():
            graph = np.exp(log_graph(bounded(source, network, pair, rows)[1])).mean(axis=0)
            part = len(rows) * graph[np.ix_(chosen, chosen)]
            for i, j in np.ndindex(part.shape):
                yield {
                    "measure": "attention", "network": name, "layer": pair, "value": part[i, j], "n": len(rows),
                    "row": i, "column": j, "class_a": names[i], "class_b": names[j],
                }  # fmt: skip
