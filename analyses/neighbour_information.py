"""What the features of two networks tell of each other, by nearest neighbours in few dimensions."""

import numpy as np

from kdscope.analyses.cast import Pair
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.controls import derangement
from kdscope.measures.ksg import ksg_interval, reduced_ksg
from kdscope.measures.result import Result

KSG = "ksg-features"
SOURCE = "Kraskov et al., Physical Review E 2004, eq. 8"
IMAGES = 2_000


def ksg_of_pair(
    pair: Pair, layer: str, split: str, view: str, components: int, confidence: float, images: int = IMAGES
) -> Result | None:
    """Nats between the first components of `layer` of a and of b, on at most `images` images; the floor: shuffled ones.

    None for an ensemble, and for a network before training that is not known.

    Raises:
        KDScopeError: a layer that one of them does not have, features that are no vectors, too few images.
    """
    if len(pair.a.subjects) > 1:
        return None
    a, of_b = pair.a.subjects[0].cache(split, view), pair.b.subjects[0]
    b = of_b.random_init(split, view) if pair.b.kind == "random-init" else of_b.cache(split, view)
    if b is None:
        return None
    a.check_compatible(b)
    x, y = (_vectors(cache, layer, images) for cache in (a, b))
    found = reduced_ksg(x, y, components)
    low, high = ksg_interval(x, y, components, confidence=confidence)
    shuffled = reduced_ksg(x, y[derangement(len(y))], components).value
    shares = " and ".join(f"{share:.0%}" for share in found.shares[::-1])
    words = f"floor: shuffled images; {found.components} components with {shares} of the variance"
    result = Result(KSG, found.value, None, len(x), low, high, source=SOURCE)
    return result.with_frame(floor=shuffled, control=words)


def _vectors(cache: FeatureCache, layer: str, images: int) -> np.ndarray:
    rows = np.unique(np.linspace(0, len(cache.labels) - 1, min(images, len(cache.labels))).astype(int))
    z = np.asarray(cache.feature(layer)[rows], dtype=np.float64)
    if z.ndim != 2:
        raise KDScopeError(f"layer {layer!r} of {cache.path} is {list(z.shape[1:])}; neighbours are found of vectors")
    return z
