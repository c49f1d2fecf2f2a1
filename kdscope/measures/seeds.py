"""Several trainings of one recipe as one number: its interval is for another training and other images."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import t as student_t

from kdscope.errors import KDScopeError
from kdscope.measures.result import Result
from kdscope.measures.statistics import two_level_bootstrap


def over_seeds(results: Sequence[Result], *, confidence: float = 0.95, seed: int = 0) -> Result:
    """The mean of one measure over trainings that differ in their seeds, on the same images.

    The interval resamples seeds and images (Owen 2007; `kdscope.measures.statistics.two_level_bootstrap`). Where a
    measure is no mean over images, it is the t interval of the seeds' values, widened by their mean interval over
    images: the two variances are added. With less than five seeds either is a rough one.

    Args:
        results: two or more of the same measure, definition and images. Those with n = 0 are left out; n and excluded
            are the means of the others'.

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
    samples = [result.per_sample for result in results]
    if np.isnan(values).all():  # no image counts for any of them
        value = low = high = math.nan
    elif len(results) == 1:  # and how another training would do is not known
        value, low, high = float(values[0]), math.nan, math.nan
    elif any(each is None for each in samples):
        value = float(values.mean())
        low, high = _added(value, values, results, confidence)
    else:
        value = float(values.mean())
        low, high = two_level_bootstrap(np.stack(samples), confidence=confidence, seed=seed)
        # A definition that weighs images unequally has its centre elsewhere than the plain means.
        plain = float(np.mean([np.nanmean(each) for each in samples]))
        low, high = low + value - plain, high + value - plain
    return replace(
        results[0],
        value=value,
        per_sample=None,
        n=round(float(np.mean([result.n for result in results]))),
        excluded=round(float(np.mean([result.excluded for result in results]))),
        ci_low=low,
        ci_high=high,
    )


def _added(value: float, values: np.ndarray, results: Sequence[Result], confidence: float) -> tuple[float, float]:
    between = float(student_t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    below = float(np.mean([result.value - result.ci_low for result in results]))
    above = float(np.mean([result.ci_high - result.value for result in results]))
    return value - math.hypot(between, below), value + math.hypot(between, above)
