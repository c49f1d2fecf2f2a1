"""Orthogonal Procrustes: by what angle do two layers differ when the one is turned so as to fit the other best?

Williams et al., "Generalized Shape Metrics on Neural Representations", NeurIPS 2021; Ding et al., "Grounding
Representation Similarity with Statistical Testing", NeurIPS 2021. The second opinion beside CKA: it counts all
principal axes alike, where CKA weighs them by their squared variances. It is biased like the biased CKA: independent
layers come nearer as dimensions near the number of images, so read it against its shuffled floor.
"""

from typing import Any

import numpy as np

from kdscope.measures.base import Card, measure
from kdscope.measures.cka import Spread, undefined
from kdscope.measures.features import REACH, SumsMeasure
from kdscope.measures.hsic import Sums
from kdscope.measures.result import Result
from kdscope.measures.statistics import jackknife_interval

CARD = Card(
    *("procrustes", "Angular Procrustes distance", "rad", (0, np.pi / 2), "lower", "Williams et al., NeurIPS 2021"),
    REACH,
    resampling="jackknife",
    family="similarity",
)


def procrustes_distance(x: Any, y: Any) -> float:
    """arccos(|X^T Y|_* / (|X| |Y|)) of centred features [N, d1] and [N, d2]: 0 for a rotation, pi / 2 at most.

    >>> x = np.random.default_rng(0).normal(size=(30, 3))
    >>> round(procrustes_distance(x, 2 * x[:, [1, 2, 0]] + 7), 6)
    0.0
    """
    return Procrustes(groups=1).update(x, y).estimate()


def procrustes_of(cross: Sums, a: Spread, b: Spread, confidence: float = 0.95) -> Result:
    """The distance from the sums of two layers.

    With a group left out the best rotation is taken to be that of all images, which is right to first order, so that
    one decomposition serves the whole interval.
    """
    if a.constant or b.constant:
        return undefined(CARD.name, cross.n)
    u, fit, v = np.linalg.svd(cross.whole().centred(), full_matrices=False)
    rotation = u @ v
    shared = np.array([fit.sum(), *((rotation * m.centred()).sum() for m in cross.left_out())])
    angles = np.arccos(np.clip(shared / np.sqrt((a.variance * b.variance)[: len(shared)]), 0.0, 1.0))
    low, high = (
        float(np.clip(end, *CARD.range)) for end in jackknife_interval(angles[0], angles[1:], confidence=confidence)
    )
    return Result(CARD.name, float(angles[0]), None, cross.n, low, high, source=CARD.citation)


@measure
class Procrustes(SumsMeasure):
    """Angular Procrustes distance of two layers, from sums.

    Args:
        groups: of images, left out in turn for the interval.

    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> Procrustes().update(x, x).compute().value < 1e-6
    True
    """

    card = CARD

    def finish(self, confidence: float, seed: int) -> Result:
        cross, a, b = self.sums
        return procrustes_of(cross, Spread.of(a), Spread.of(b), confidence)
