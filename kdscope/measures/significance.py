"""Is a difference more than chance, how large is it, and how small a one could have been seen?

For paired values: two methods on the same images, or on the same seeds.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student_t

from kdscope.errors import KDScopeError

EXACT = 14  # up to so many pairs all 2^n sign patterns are tried
BUDGET = 2**22


def sign_flip_test(differences: np.ndarray, *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences [N], by flipping their signs at random (Fisher 1935).

    If the two of each pair could be exchanged, every pattern of signs is as likely as the one seen. All 2^N patterns
    are tried where N <= 14; else `resamples` random ones, the one seen included, so that p is never 0.

    Args:
        differences: a - b on the same images or seeds; NaN is left out.

    >>> sign_flip_test(np.array([1.0, 2.0, 3.0, 4.0]))
    0.125
    """
    differences = _clean(differences)
    n = len(differences)
    total = abs(differences.sum())
    # Patterns that give the same sum must not be told apart by rounding.
    threshold = total - 1e-12 * np.abs(differences).sum()
    if n <= EXACT:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * patterns) @ differences) >= threshold))
    rng = np.random.default_rng(seed)
    rows = max(1, BUDGET // n)
    extreme = 0
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        flips = rng.integers(0, 2, size=(size, n), dtype=np.int8)
        sums = differences.sum() - 2.0 * (flips @ differences)
        extreme += int(np.count_nonzero(np.abs(sums) >= threshold))
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979), in the order given: reject where <= alpha.

    They hold the chance of any false rejection at alpha, whatever the tests have to do with each other.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not np.all((p_values >= 0) & (p_values <= 1)):
        raise KDScopeError("p-values to adjust must be a list of numbers from 0 to 1")
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def cohen_dz(differences: np.ndarray) -> float:
    """Effect size of paired differences: mean / standard deviation (Cohen 1988, section 2.3.5); NaN of fewer than two.

    0.2 is called small, 0.5 middling, 0.8 large. Where all are equal it is infinite, or 0 where all are 0.

    >>> cohen_dz(np.array([1.0, 2.0, 3.0]))
    2.0
    """
    differences = _clean(differences)
    if len(differences) < 2:
        return math.nan
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation > 1e-12 * abs(mean):
        return mean / deviation
    return math.copysign(math.inf, mean) if mean else 0.0


def minimal_detectable_effect(n: int, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest mean difference that a two-sided paired t-test on n pairs finds with that power.

    Args:
        n: pairs (images or seeds), at least 2.
        deviation: standard deviation of the differences, in the unit of the measure (which the result is in).

    What lies below cannot be told from nothing at this n. Exact by the noncentral t distribution (a rejection with the
    wrong sign is no finding); for large n it is (z_{1 - alpha/2} + z_power) deviation / sqrt(n).

    >>> round(minimal_detectable_effect(5, 1.0), 2), round(minimal_detectable_effect(10_000, 1.0), 3)
    (1.68, 0.028)
    """
    if n < 2:
        raise KDScopeError(f"no effect can be detected with {n} pairs; at least 2 are needed")
    if not 0 < alpha < power < 1:
        raise KDScopeError(f"alpha is {alpha} and power {power}; they must be 0 < alpha < power < 1")
    critical = float(student_t.ppf(1 - alpha / 2, n - 1))

    def gain(shift: float) -> float:
        return float(nct.sf(critical, n - 1, shift)) - power

    ample = critical + 1
    while gain(ample) < 0:
        ample *= 2
    return float(brentq(gain, 0.0, ample)) * deviation / math.sqrt(n)


def _clean(differences: np.ndarray) -> np.ndarray:
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 1:
        raise KDScopeError(f"paired differences have shape {list(differences.shape)}; they must be one for each pair")
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        raise KDScopeError("there are no paired differences to test")
    return differences
