"""Is a published relation more than a difference between groups? A correlation within groups, with its p-value.

Runs of a paper often come in groups that differ in one setting, and two numbers that both depend on the setting go
together over all runs whether or not one has to do with the other (Simpson's paradox).
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t


def centred_p(r: float, n: int, groups: int) -> float:
    """Two-sided p-value of the correlation `r` of n values from which the means of `groups` groups were taken.

    That is a partial correlation given the group: r sqrt(d / (1 - r^2)) follows Student's t with d = n - groups - 1
    degrees of freedom where the values are normal and independent (R. A. Fisher, "The distribution of the partial
    correlation coefficient", Metron 3, 1924). NaN where d < 1.

    >>> round(centred_p(-0.5, n=8, groups=2), 3)
    0.253
    """
    degrees = n - groups - 1
    if degrees < 1 or math.isnan(r):
        return math.nan
    if abs(r) >= 1:
        return 0.0
    return float(2 * t.sf(abs(r) * math.sqrt(degrees / (1 - r * r)), degrees))


def average_centred(r: Sequence[float], degrees: Sequence[int]) -> tuple[float, float]:
    """The average of centred correlations of several independent sets of runs, and its two-sided p-value.

    On Fisher's scale atanh(r), whose variance is 1 / (d - 1) with d degrees of freedom (Fisher 1921), weighted by its
    inverse. Sets with fewer than 2 degrees of freedom do not count; NaN where none does.

    >>> mean, p = average_centred([-0.5, -0.36, -0.49], [5, 5, 5])
    >>> round(mean, 2), round(p, 2)
    (-0.45, 0.09)
    """
    r, weight = np.asarray(r, dtype=np.float64), np.asarray(degrees, dtype=np.float64) - 1
    known = ~np.isnan(r) & (weight > 0)
    if not known.any():
        return math.nan, math.nan
    weight = weight[known]
    z = float(weight @ np.arctanh(np.clip(r[known], -1 + 1e-12, 1 - 1e-12)) / weight.sum())
    return math.tanh(z), float(2 * norm.sf(abs(z) * math.sqrt(weight.sum())))


def verdict(claimed: int, r: float, p: float, level: float = 0.05) -> str:
    """What is left within groups of a relation that was claimed positive (1) or negative (-1).

    Args:
        claimed: the sign.
        r, p: the correlation within groups and its p-value.

    >>> verdict(-1, -0.45, 0.09), verdict(1, 0.9, 0.001), verdict(1, -0.8, 0.01)
    ('the claim is not shown', 'the claim survives', 'the claim is reversed')
    """
    if math.isnan(r):
        return "not known"
    if p >= level:
        return "the claim is not shown"
    return "the claim survives" if claimed * r > 0 else "the claim is reversed"
