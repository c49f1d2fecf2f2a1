"""Intervals: how far a number may lie from the one that infinitely many images, or trainings, would give.

What is resampled are images. A number over several trainings of one recipe, and a gain, has Student's t over their
seeds besides (`kdscope.measures.seeds`, which names the exceptions). Measures whose images enter in pairs (debiased
CKA, nearest neighbours) must not be bootstrapped, for a duplicate is its own neighbour: `subsample_interval` and
`jackknife_interval` are for those. No loop here runs over images.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import t as student_t

from kdscope.errors import KDScopeError

BUDGET = 2**21  # random numbers drawn at once
KEPT = 2 * 10**7  # random numbers kept at most: an analysis asks for the same ones for each of its measures


def exact_mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean of values [N], NaN of none; summed without rounding, so that no order of the values changes it.

    >>> exact_mean(np.array([1e16, 1.0, -1e16]))
    0.3333333333333333
    """
    if not len(values):
        return math.nan
    if weights is None:
        return math.fsum(values) / len(values)
    return math.fsum(values * weights) / math.fsum(weights)


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` images (Wilson, JASA 1927); the whole [0, 1] where n is 0.

    >>> [round(x, 4) for x in wilson(0.85, 10_000)]
    [0.8429, 0.8569]
    """
    if not n > 0:
        return 0.0, 1.0
    z = _z(confidence)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At shares of 0 and 1 the bound is exactly that; rounding must not put the value outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bootstrap_mean(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    method: str = "bca",
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the (weighted) mean of values [N] over images (Efron, JASA 1987).

    Args:
        values: one number an image, without NaN.
        weights: positive [N]; a weight stays with its image. None: all equal.
        method: "bca" (corrected for bias and skewness, which per-image KL has) or "percentile".

    Returns:
        (low, high); NaN where N < 2, for one image says nothing about another.

    >>> low, high = bootstrap_mean(np.arange(100.0))
    >>> low < 49.5 < high, round((high - low) / 2 / 2.887)
    (True, 2)
    """
    if method not in ("bca", "percentile"):
        raise KDScopeError(f"unknown bootstrap {method!r}; it is bca or percentile")
    if len(values) < 2:
        return math.nan, math.nan
    values = np.asarray(values, dtype=np.float64)
    weighted = values if weights is None else values * weights
    parts = []
    for index in _indices(len(values), resamples, seed):
        below = index.shape[1] if weights is None else weights[index].sum(axis=1)
        parts.append(weighted[index].sum(axis=1) / below)
    draws = np.concatenate(parts)
    value = exact_mean(values, weights)
    if method == "percentile":
        return _quantiles(draws, np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    influence = values - value if weights is None else weights * (values - value)
    return bca(draws, value, influence, confidence)


def bca(draws: np.ndarray, value: float, influence: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Bias-corrected and accelerated interval from bootstrap draws [R] (Efron & Tibshirani 1993, eqs. 14.9-14.15).

    Args:
        value: the number on the whole sample.
        influence: [N], what each image adds to it, up to scale; its skewness gives the acceleration.
    """
    spread = math.sqrt(float(np.square(influence).sum()))
    if spread == 0 or draws.min() == draws.max():
        return value, value
    below = (np.count_nonzero(draws < value) + 0.5 * np.count_nonzero(draws == value)) / len(draws)
    bias = float(ndtri(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws))))
    acceleration = float(((influence / spread) ** 3).sum()) / 6
    shifted = bias + np.array([-1.0, 1.0]) * _z(confidence)
    return _quantiles(draws, ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-9)))


def paired_bootstrap(a: np.ndarray, b: np.ndarray, **options) -> tuple[float, float, float]:
    """Mean of a - b over the same images [N], with its bootstrap interval: (difference, low, high).

    Images where either is NaN are left out. Options as those of `bootstrap_mean`.

    >>> paired_bootstrap(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    (1.0, 1.0, 1.0)
    """
    if np.shape(a) != np.shape(b):
        raise KDScopeError(f"paired values of {np.shape(a)} and {np.shape(b)} images; they must be of the same images")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    difference = difference[~np.isnan(difference)]
    return (exact_mean(difference), *bootstrap_mean(difference, **options))


def centred_interval(value: float, draws: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentiles of draws [R], moved so that they lie around the value; NaN of fewer than two.

    Average precision of a set with duplicates is a little larger than that of the set.

    >>> [round(end, 3) for end in centred_interval(0.5, np.linspace(0.1, 1.1, 1001), 0.9)]
    [0.05, 0.95]
    """
    known = draws[~np.isnan(draws)]
    if len(known) < 2:
        return math.nan, math.nan
    return _quantiles(known + value - known.mean(), np.array([(1 - confidence) / 2, (1 + confidence) / 2]))


def over_images(
    values: np.ndarray, means: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Interval of the mean of the seeds' means [S] of values [S, N], of these trainings on other images."""
    if not np.isnan(values).any():
        return bootstrap_mean(values.mean(axis=0), confidence=confidence, resamples=resamples, seed=seed)
    parts = [
        np.stack([_mean_of_known(row[index]) for row in values]).mean(axis=0)
        for index in _indices(values.shape[1], resamples, seed)
    ]
    draws = np.concatenate(parts)
    draws = draws[~np.isnan(draws)]  # no image counts for one of the seeds
    known = ~np.isnan(values)
    influence = np.where(known, (values - means[:, None]) / known.sum(axis=1, keepdims=True), 0.0).sum(axis=0)
    return bca(draws, float(means.mean()), influence, confidence) if len(draws) > 1 else (math.nan, math.nan)


def subsample_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    size: int | None = None,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval from subsamples without replacement (Politis & Romano 1994), for what cannot be bootstrapped.

    Args:
        statistic: takes indices [size] of images and gives the number on them.
        n: how many images there are.
        size: images in a subsample; half of them by default.

    The deviations of the subsamples are scaled by sqrt(size / (n - size)), which makes their variance that of the whole
    sample (delete-d jackknife: Shao & Wu 1989) for any statistic whose variance goes as 1/n.

    >>> x = np.random.default_rng(0).normal(size=400)
    >>> low, high = subsample_interval(lambda i: x[i].mean(), 400)
    >>> bool(low < x.mean() < high)
    True
    """
    size = n // 2 if size is None else size
    if not 2 <= size < n:
        raise KDScopeError(f"a subsample of {size} of {n} images; it must have at least 2 and fewer than all")
    rng = np.random.default_rng(seed)
    value = statistic(np.arange(n))
    draws = np.array([statistic(rng.permutation(n)[:size]) for _ in range(resamples)])
    scaled = (draws - draws.mean()) * math.sqrt(size / (n - size))
    low, high = _quantiles(scaled, np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    return float(value - high), float(value - low)


def jackknife_interval(value: float, left_out: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval from the numbers [G] got with each of G equal blocks of images left out in turn (Tukey 1958).

    G is the number of images for the plain jackknife; 20 to 50 blocks of a random order serve as well.

    >>> x = np.array([1.0, 2.0, 3.0, 6.0])
    >>> [round(float(bound), 3) for bound in jackknife_interval(x.mean(), (x.sum() - x) / 3)]
    [-0.437, 6.437]
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    groups = len(left_out)
    if groups < 2:
        return math.nan, math.nan
    error = math.sqrt((groups - 1) / groups * float(np.square(left_out - left_out.mean()).sum()))
    half = float(student_t.ppf((1 + confidence) / 2, groups - 1)) * error
    return value - half, value + half


def student_interval(value: float, error: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The t interval of a value from `n` images with that standard error; NaN where n < 2.

    >>> [round(bound, 2) for bound in student_interval(1.0, 0.1, 10_000)]
    [0.8, 1.2]
    """
    if n < 2:
        return math.nan, math.nan
    half = float(student_t.ppf((1 + confidence) / 2, n - 1)) * error
    return value - half, value + half


def _mean_of_known(drawn: np.ndarray) -> np.ndarray:
    """Means [R] of drawn values [R, N] without the NaN among them."""
    means = drawn.mean(axis=1)
    if not np.isnan(means).any():
        return means
    known = (~np.isnan(drawn)).sum(axis=1)
    return np.where(known, np.nansum(drawn, axis=1) / np.maximum(known, 1), np.nan)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise KDScopeError(f"the confidence is {confidence}; it must be between 0 and 1")
    return float(ndtri((1 + confidence) / 2))


def _quantiles(draws: np.ndarray, at: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, at)
    return float(low), float(high)


def _indices(n: int, count: int, seed: int) -> Iterable[np.ndarray]:
    """`_resamples` of a fresh generator; those last asked for are kept, where they are not many."""
    small = n * count <= KEPT and isinstance(seed, int)
    return _kept(n, count, seed) if small else _resamples(n, count, np.random.default_rng(seed))


@functools.lru_cache(maxsize=2)
def _kept(n: int, count: int, seed: int) -> tuple[np.ndarray, ...]:
    blocks = tuple(_resamples(n, count, np.random.default_rng(seed)))
    for block in blocks:
        block.flags.writeable = False
    return blocks


def _resamples(n: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`count` draws of n of n images with replacement, as index blocks [rows, n] of bounded size."""
    rows = max(1, BUDGET // n)
    kind = np.uint16 if n <= 2**16 else np.uint32
    for start in range(0, count, rows):
        yield rng.integers(0, n, size=(min(rows, count - start), n), dtype=kind)
