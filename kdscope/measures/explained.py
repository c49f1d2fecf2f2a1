"""Of what a method gains over a reference, the share that a control arm gains too: (arm - alone) / (method - alone)."""

import math
from dataclasses import dataclass

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.crossed import crossed_mean
from kdscope.measures.seeds import two_level_interval


@dataclass(frozen=True)
class Share:
    """A ratio of two gains over the same seeds and images.

    Attributes:
        value: the share; 0 is the reference, 1 the method; NaN where the method's own gain is not beyond chance.
        ci_low, ci_high: interval for other seeds and other images.
        gain: the method's gain, in the unit of the values. p_value: of that gain being 0.
    """

    value: float
    ci_low: float
    ci_high: float
    gain: float
    p_value: float


def share_explained(
    alone: np.ndarray, arm: np.ndarray, method: np.ndarray, *, confidence: float = 0.95, resamples: int = 2000
) -> Share:
    """How much of a method's gain an arm explains, where there is a gain.

    A ratio whose denominator may be zero says nothing, so that there is a share only where the method differs from the
    reference beyond chance (`kdscope.measures.crossed`). Its interval, for other seeds and other images, is that of the
    linearised ratio: of the mean of (arm - alone) - share (method - alone), over the gain.

    Args:
        alone, arm, method: [S, N], one number for each seed and image, the same ones in the three.

    >>> rng = np.random.default_rng(0)
    >>> alone = (rng.random((5, 400)) < 0.6) * 1.0
    >>> method = np.maximum(alone, rng.random((5, 400)) < 0.5)
    >>> found = share_explained(alone, (alone + method) / 2, method)
    >>> round(found.value, 6), round(found.ci_low, 6), round(found.ci_high, 6)
    (0.5, 0.5, 0.5)
    """
    if not alone.shape == arm.shape == method.shape:
        raise KDScopeError(f"gains over other seeds or images: {alone.shape}, {arm.shape} and {method.shape}")
    gain = crossed_mean(method - alone, confidence=confidence)
    if not gain.p_value < 1 - confidence or not gain.value:
        return Share(math.nan, math.nan, math.nan, gain.value, gain.p_value)
    value = float((arm - alone).mean() / gain.value)
    if len(alone) < 2:
        return Share(value, math.nan, math.nan, gain.value, gain.p_value)
    # What an arm gains beyond its share has the mean 0; the ratio errs by the error of that mean, over the gain.
    rest = (arm - alone) - value * (method - alone)
    ends = np.array(two_level_interval(rest, confidence=confidence, resamples=resamples)) / gain.value
    return Share(value, value + float(ends.min()), value + float(ends.max()), gain.value, gain.p_value)
