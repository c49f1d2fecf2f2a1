"""What the features of two networks tell of each other: by nearest neighbours in few dimensions, or a lower bound."""

from collections.abc import Iterator, Sequence

import numpy as np

from kdscope.analyses.cast import Pair
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.controls import derangement
from kdscope.measures.infonce import info_nce
from kdscope.measures.ksg import ksg_interval, reduced_ksg
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean

ESTIMATORS = ("ksg", "infonce")
KSG, INFONCE = "ksg-features", "infonce-features"
SOURCES = {KSG: "Kraskov et al., Physical Review E 2004, eq. 8", INFONCE: "van den Oord et al., arXiv 1807.03748"}
IMAGES = 2_000
NEAR = 1.0  # nats below its ceiling at which a bound says no more than "at least"


def shared_by_features(
    pair: Pair,
    layer: str,
    split: str,
    view: str,
    asked: Sequence[str],
    components: int,
    confidence: float,
    images: int = IMAGES,
) -> Iterator[Result]:
    """Nats between `layer` of a and of b, on at most `images` images, by each estimator asked; floor: shuffled images.

    None for an ensemble, and for a network before training that is not known.

    Raises:
        KDScopeError: a layer that one of them does not have, features that are no vectors, too few images.
    """
    if len(pair.a.subjects) > 1:
        return
    a, of_b = pair.a.subjects[0].cache(split, view), pair.b.subjects[0]
    b = of_b.random_init(split, view) if pair.b.kind == "random-init" else of_b.cache(split, view)
    if b is None:
        return
    a.check_compatible(b)
    x, y = (_vectors(cache, layer, images) for cache in (a, b))
    for name in asked:
        yield (_by_neighbours(x, y, components, confidence) if name == "ksg" else _by_contrast(x, y, confidence))


def _by_neighbours(x: np.ndarray, y: np.ndarray, components: int, confidence: float) -> Result:
    found = reduced_ksg(x, y, components)
    low, high = ksg_interval(x, y, components, confidence=confidence)
    shuffled = reduced_ksg(x, y[derangement(len(y))], components).value
    shares = " and ".join(f"{share:.0%}" for share in found.shares[::-1])
    parts = f"{found.components} component{'s' * (found.components > 1)}"
    words = f"floor: shuffled images; {parts} with {shares} of the variance"
    result = Result(KSG, found.value, None, len(x), low, high, source=SOURCES[KSG])
    return result.with_frame(floor=shuffled, control=words)


def _by_contrast(x: np.ndarray, y: np.ndarray, confidence: float) -> Result:
    found = info_nce(x, y)
    low, high = bootstrap_mean(found.per_sample, confidence=confidence)
    shuffled = exact_mean(info_nce(x, y[derangement(len(y))]).per_sample)
    words = f"floor: shuffled images; ceiling: the ln of {found.candidates} candidates"
    value = exact_mean(found.per_sample)
    result = Result(INFONCE, value, found.per_sample, len(x), low, high, source=SOURCES[INFONCE])
    return result.with_frame(floor=shuffled, ceiling=found.ceiling, control=words)


def warning(result: Result) -> str:
    """What must be known of such a number, in a word or three; empty where there is nothing."""
    if result.measure == KSG:
        return "components alone"
    return "near its ceiling" if result.value > result.ceiling - NEAR else ""


def _vectors(cache: FeatureCache, layer: str, images: int) -> np.ndarray:
    rows = np.unique(np.linspace(0, len(cache.labels) - 1, min(images, len(cache.labels))).astype(int))
    z = np.asarray(cache.feature(layer)[rows], dtype=np.float64)
    if z.ndim != 2:
        raise KDScopeError(f"layer {layer!r} of {cache.path} is {list(z.shape[1:])}; both estimators read vectors")
    return z
