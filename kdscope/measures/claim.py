"""Is a published relation more than a difference between groups? A correlation within groups, with its p-value.

Runs of a paper often come in groups that differ in one setting, and two numbers that both depend on the setting go
together over all runs whether or not one has to do with the other (Simpson's paradox).
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

from kdscope.measures.correlation import FEWEST
from kdscope.measures.statistics import student_interval


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


def average_centred(
    r: Sequence[float], degrees: Sequence[int], confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """The average of centred correlations of several independent sets of runs: (r, p, low, high).

    On Fisher's scale atanh(r), whose variance is 1 / (d - 1) with d degrees of freedom (Fisher 1921), weighted by its
    inverse; p is two-sided. Sets with fewer than 2 degrees of freedom do not count; NaN where none does.

    >>> [round(value, 2) for value in average_centred([-0.5, -0.36, -0.49], [5, 5, 5])]
    [-0.45, 0.09, -0.78, 0.08]
    """
    r, weight = np.asarray(r, dtype=np.float64), np.asarray(degrees, dtype=np.float64) - 1
    known = ~np.isnan(r) & (weight > 0)
    if not known.any():
        return (math.nan,) * 4
    weight = weight[known]
    z = float(weight @ np.arctanh(np.clip(r[known], -1 + 1e-12, 1 - 1e-12)) / weight.sum())
    root = math.sqrt(weight.sum())
    half = float(norm.ppf((1 + confidence) / 2)) / root
    return math.tanh(z), float(2 * norm.sf(abs(z) * root)), math.tanh(z - half), math.tanh(z + half)


def average_over_seeds(r: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float, float]:
    """The average of correlations, one of each of several seeds: (r, p, low, high), by Student's t on Fisher's scale.

    Runs of one seed that share teachers are no independent observations; the seeds are, whatever their runs have in
    common. A NaN does not count; all are NaN where fewer than 3 are left.

    >>> [round(value, 2) for value in average_over_seeds([-0.5, -0.36, -0.49, 0.1])]
    [-0.33, 0.11, -0.68, 0.14]
    """
    z = np.asarray(r, dtype=np.float64)
    z = np.arctanh(np.clip(z[~np.isnan(z)], -1 + 1e-12, 1 - 1e-12))
    if len(z) < FEWEST:
        return (math.nan,) * 4
    mean, error = float(z.mean()), float(z.std(ddof=1)) / math.sqrt(len(z))
    low, high = student_interval(mean, error, len(z), confidence)
    p = float(2 * t.sf(abs(mean) / error, len(z) - 1)) if error > 0 else math.nan
    return math.tanh(mean), p, math.tanh(low), math.tanh(high)


def verdict(claimed: int, low: float, high: float, size: float) -> str:
    """What an interval of an effect says of a claim that the effect is positive (1) or negative (-1).

    It "survives" where the interval lies on the claimed side of 0, "does not survive" where the interval excludes even
    an effect of `size` on that side, and else it "cannot be told": there are too few runs to tell the two apart.

    Args:
        claimed: the sign.
        low, high: the ends of the interval; NaN where nothing is known.
        size: > 0, the effect that was claimed.

    >>> verdict(-1, -0.7, -0.1, 0.5), verdict(-1, -0.4, 0.3, 0.5), verdict(-1, -0.8, 0.1, 0.5)
    ('survives', 'does not survive', 'cannot be told')
    """
    if math.isnan(low) or math.isnan(high):
        return "cannot be told"
    near, far = sorted((claimed * low, claimed * high))
    if near > 0:
        return "survives"
    return "does not survive" if far < size else "cannot be told"
