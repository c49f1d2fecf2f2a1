"""Several trainings of one recipe as one number: its interval is for another training and other images."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.result import Result
from kdscope.measures.statistics import centred_interval, seeds_and_images, two_level_interval

EVERYTHING = (-math.inf, math.inf)


def over_seeds(
    results: Sequence[Result],
    *,
    confidence: float = 0.95,
    within: tuple[float, float] = EVERYTHING,
    seed: int = 0,
    ring: bool = False,
) -> Result:
    """The mean of one measure over trainings that differ in their seeds, on the same images.

    The interval is Student's t of the seeds' values with the interval over images added to it
    (`kdscope.measures.statistics.seeds_and_images`), which is that of the mean where images can be resampled for all
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
        low, high = two_level_interval(np.stack(samples), confidence=confidence, seed=seed, ring=ring)
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
