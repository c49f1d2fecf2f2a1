"""Several trainings of one recipe as one number: its interval is for another training and other images.

The rule is `seeds_and_images`. The exceptions: differences of accuracy of `compare`, and the test of the gain of which
`kdscope.measures.explained` tells a share, have the analysis of variance of `kdscope.measures.crossed`, which gives a
p-value and is narrower for few seeds; tables of a study and averages of correlations (`kdscope.measures.claim`) are
over seeds alone, on the same images.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import t as student_t

from kdscope.errors import KDScopeError
from kdscope.measures.result import Result
from kdscope.measures.statistics import centred_interval, over_images

EVERYTHING = (-math.inf, math.inf)


def two_level_interval(
    values: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, ring: bool = False
) -> tuple[float, float]:
    """Interval of the mean of values [S, N], S trainings of one recipe on the same N images, for others of both.

    Student's t over the seeds' means and a bootstrap over images of their mean, as `seeds_and_images` adds them. To
    resample the seeds as well (Owen's pigeonhole bootstrap) is no interval where they are few: of two seeds, half of
    the draws are one of them twice, and what is meant for 95 % holds 80. NaN marks an image that does not count for a
    seed (the mean is that of the seeds' means); a seed with no other is left out. `ring`: as for `seeds_and_images`.

    Returns:
        (low, high); NaN where S < 2.

    >>> low, high = two_level_interval(np.random.default_rng(0).normal(size=(5, 200)))
    >>> low < 0 < high
    True
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise KDScopeError(f"the two-level interval needs values [seeds, images], not {list(values.shape)}")
    values = values[~np.isnan(values).all(axis=1)]
    if len(values) < 2:
        return math.nan, math.nan
    means = np.nanmean(values, axis=1)
    ends = over_images(values, means, confidence, resamples, seed=0)
    return seeds_and_images(float(means.mean()), means, ends, confidence, ring)


def seeds_and_images(
    value: float,
    by_seed: Sequence[float] | np.ndarray,
    images: tuple[float, float],
    confidence: float = 0.95,
    ring: bool = False,
) -> tuple[float, float]:
    """The interval of the mean over trainings that holds for other trainings and other images.

    Either side is sqrt(t^2 s^2 / S + side^2): Student's t with S - 1 degrees of freedom, the standard deviation s of
    the S values, and that side of the interval over images. What seeds and images do together is in both, so that the
    interval is rather too wide than too narrow: it holds 95 to 99 % where 95 are meant, for two seeds as well.

    Args:
        value: the mean. by_seed: [S], S of at least 2. images: interval of it over images, of these trainings.
        ring: whether the values are of pairs of neighbours in a ring of S seeds, so that each seed is in two of them.
            What a seed does to both makes these alike: their mean then varies 2 (S - 1) / (S - 2) times as much as that
            of S single ones that are as far apart.

    >>> [round(end, 3) for end in seeds_and_images(0.5, [0.4, 0.5, 0.6], (0.48, 0.53))]
    [0.251, 0.75]
    """
    low, high = images
    count = len(by_seed)
    alike = 2 * (count - 1) / max(1, count - 2) if ring else 1.0
    error = float(np.std(by_seed, ddof=1)) * math.sqrt(alike / count)
    return widened(value, error, count - 1, (low, high), confidence)


def widened(
    value: float, error: float, freedom: float, images: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float]:
    """An interval over images with the error over trainings added to it: `seeds_and_images` of any error and freedom.

    >>> widened(0.5, 0.0, math.inf, (0.4, 0.7))
    (0.4, 0.7)
    """
    low, high = images
    between = float(student_t.ppf((1 + confidence) / 2, freedom)) * error
    return value - math.hypot(between, value - low), value + math.hypot(between, high - value)


def over_seeds(
    results: Sequence[Result],
    *,
    confidence: float = 0.95,
    within: tuple[float, float] = EVERYTHING,
    ring: bool = False,
) -> Result:
    """The mean of one measure over trainings that differ in their seeds, on the same images.

    The interval is Student's t of the seeds' values with the interval over images added to it
    (`seeds_and_images`), which is that of the mean where images can be resampled for all
    seeds at once (by their values, or by draws), and else the mean of the seeds' own.

    Args:
        results: two or more of the same measure, definition and images. Those with n = 0 are left out; n and excluded
            are the means of the others'.
        within: what the number can be, where the interval ends: a t interval over few seeds knows nothing of that.
        ring: whether the results are of pairs of neighbours in a ring of seeds, and no independent ones.

    Raises:
        KDScopeError: fewer than two results, or different measures.

    >>> a, b = (Result("agreement", m, np.array(x), 4, 0, 1) for m, x in [(0.5, [0.0, 1, 0, 1]), (1.0, [1.0] * 4)])
    >>> over_seeds([a, b]).value
    0.75
    """
    if len(results) < 2:
        raise KDScopeError(f"{len(results)} training; a number over seeds needs at least 2")
    kinds = {(result.measure, result.definition) for result in results}
    if len(kinds) > 1:
        raise KDScopeError(f"numbers of different measures cannot be one over seeds: {sorted(kinds)}")
    # A training for which no image counts says nothing: not of the value, and not of how many images are behind it.
    results = [result for result in results if result.n] or results
    values = np.array([result.value for result in results])
    samples, draws = ([getattr(result, name) for result in results] for name in ("per_sample", "draws"))
    value = float(values.mean())
    low = high = math.nan
    if np.isnan(value) or len(results) == 1:  # no image counts, or how another training would do is not known
        pass
    elif all(each is not None for each in samples):
        low, high = two_level_interval(np.stack(samples), confidence=confidence, ring=ring)
        # A definition that weighs images unequally has its centre elsewhere than the plain means.
        plain = float(np.mean([np.nanmean(each) for each in samples]))
        low, high = low + value - plain, high + value - plain
    elif all(each is not None for each in draws):
        ends = centred_interval(value, np.mean(draws, axis=0), confidence)
        low, high = seeds_and_images(value, values, ends, confidence, ring)
    else:
        ends = [(result.ci_low - result.value, result.ci_high - result.value) for result in results]
        below, above = np.mean(ends, axis=0)
        low, high = seeds_and_images(value, values, (value + below, value + above), confidence, ring)
    low, high = (float(np.clip(end, *within)) for end in (low, high))
    return replace(
        results[0],
        value=value,
        per_sample=None,
        draws=None,
        n=round(float(np.mean([result.n for result in results]))),
        excluded=round(float(np.mean([result.excluded for result in results]))),
        ci_low=low,
        ci_high=high,
    )


def differences(within: tuple[float, float]) -> tuple[float, float]:
    """What the difference of two numbers can be that are both `within` a range.

    >>> differences((0.0, 1.0))
    (-1.0, 1.0)
    """
    return within[0] - within[1], within[1] - within[0]
