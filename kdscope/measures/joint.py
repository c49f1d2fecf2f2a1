"""Bootstrap intervals of many means over the same images at once: the draws of images are shared, and so made once."""

import numpy as np

from kdscope.measures.statistics import bca

ROWS = 64  # resamples counted at a time


def bootstrap_columns(
    values: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and BCa bootstrap interval of each column of values [N, K] over images: three arrays [K].

    NaN marks an image that does not count for a column. The interval is NaN where fewer than two count.

    >>> mean, low, high = bootstrap_columns(np.random.default_rng(0).normal(size=(200, 3)))
    >>> bool(((low < mean) & (mean < high)).all()), mean.shape
    (True, (3,))
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    filled, n = np.where(known, values, 0.0), len(values)
    counts_known, rng = known.astype(np.float64), np.random.default_rng(seed)
    draws = np.empty((resamples, values.shape[1]))
    complete = bool(known.all())
    for start in range(0, resamples, ROWS):
        index = rng.integers(0, n, size=(min(ROWS, resamples - start), n), dtype=np.uint32)
        drawn = np.stack([np.bincount(row, minlength=n) for row in index]).astype(np.float64)
        below = n if complete else drawn @ counts_known
        with np.errstate(invalid="ignore", divide="ignore"):
            draws[start : start + len(index)] = drawn @ filled / below
    mean, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    for k in range(values.shape[1]):
        kept, own = values[known[:, k], k], draws[~np.isnan(draws[:, k]), k]
        if len(kept):
            mean[k] = kept.mean()
        if len(kept) > 1 and len(own):
            low[k], high[k] = bca(own, mean[k], kept - mean[k], confidence)
    return mean, low, high
