"""What features tell a linear probe: of labels, of a teacher's soft labels, and of these beyond the label."""

from collections.abc import Iterator

import numpy as np

from kdscope.analyses.cast import TAUGHT, Pair, Party
from kdscope.errors import KDScopeError
from kdscope.measures.ensemble import combine_logits
from kdscope.measures.pair import log_softmax
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean
from kdscope.measures.usable import usable_information

KINDS = {"usable-labels": "of labels", "usable-soft": "of soft labels", "usable-beyond": "of soft labels beyond labels"}
PAIRS = (*TAUGHT, "floor:independent-student", "floor:random-init")
SOURCE = "Xu et al., ICLR 2020"
IMAGES = 4_000


def usable_of_pair(
    pair: Pair, layer: str, split: str, view: str, confidence: float, images: int = IMAGES
) -> Iterator[Result]:
    """The three numbers of `KINDS` for the features of b and the soft labels of a, of at most `images` images.

    Raises:
        KDScopeError: a layer that b does not have, or features that are no vectors.
    """
    caches = [subject.cache(split, view) for subject in pair.a.subjects]
    b = _cache(pair.b, split, view)
    if b is None:
        return
    for cache in (*caches[1:], b):
        caches[0].check_compatible(cache)
    rows = np.unique(np.linspace(0, len(b.labels) - 1, min(images, len(b.labels))).astype(int))
    z = np.asarray(b.feature(layer)[rows], dtype=np.float64)
    if z.ndim != 2:
        raise KDScopeError(
            f"layer {layer!r} of {pair.b.subjects[0].name} is {list(z.shape[1:])}; a probe reads vectors"
        )
    logits = [cache.logits[rows] for cache in caches]
    joined = logits[0] if len(logits) == 1 else combine_logits(logits, pair.a.ensemble)
    soft, labels = np.exp(log_softmax(joined)), b.labels[rows]
    hard = np.eye(len(b.classes))[labels]
    for name, target, given in zip(KINDS, (hard, soft, soft), (None, None, hard), strict=True):
        gained = usable_information(z, target, given)
        low, high = bootstrap_mean(gained, confidence=confidence)
        yield Result(name, exact_mean(gained), gained, len(gained), low, high, source=SOURCE)


def _cache(party: Party, split: str, view: str):
    subject = party.subjects[0]
    return subject.random_init(split, view) if party.kind == "random-init" else subject.cache(split, view)
