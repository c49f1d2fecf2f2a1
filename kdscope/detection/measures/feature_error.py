"""Where do student and teacher differ? The squared error of features, added up by region of the image.

e(u) = sum_c (F_T - f(F_S))^2 at cell u. The cells of an image are parted into regions (small, medium and large objects,
a ring around objects, the rest). Shares of the error add up to 1 exactly; the density ratio divides a share by the
region's share of the cells (1: as everywhere); the normalised error divides by the energy of the teacher there.
"""

from typing import Any, NamedTuple

import numpy as np

from kdscope.errors import KDScopeError

REGIONS = ("small", "medium", "large", "ring", "far")
PADDING = -1


class FeatureError(NamedTuple):
    """By image and region, [N, R]; NaN where it is not defined."""

    share: np.ndarray
    density: np.ndarray
    normalised: np.ndarray


def feature_error(error: Any, energy: Any, region: Any, regions: int = len(REGIONS)) -> FeatureError:
    """Shares, density ratios and normalised errors of each image.

    Args:
        error: e(u) [N, H, W], not negative. energy: sum_c F_T^2 at each cell [N, H, W].
        region: int [N, H, W], 0 to `regions` - 1, or -1 for padding.

    Returns:
        [N, R] each. A region without cells has share 0 and no density; an image without error has no shares.

    Raises:
        KDScopeError: other shapes, a region that there is not, negative or non-finite values outside the padding.

    >>> found = feature_error([[[3.0, 1.0]]], [[[6.0, 4.0]]], [[[0, 4]]])
    >>> found.share[0].tolist(), float(found.density[0, 0]), float(found.normalised[0, 4])
    ([0.75, 0.0, 0.0, 0.0, 0.25], 1.5, 0.25)
    """
    e, f, r = np.asarray(error, np.float64), np.asarray(energy, np.float64), np.asarray(region)
    if not e.ndim == 3 or not e.shape == f.shape == r.shape:
        raise KDScopeError(f"errors {list(e.shape)}, energies {list(f.shape)} and regions {list(r.shape)} do not fit")
    if r.size and (r.min() < PADDING or r.max() >= regions):
        raise KDScopeError(f"regions go from {r.min()} to {r.max()}; they are 0 to {regions - 1}, or -1 for padding")
    there = r != PADDING
    if not (np.isfinite(e) & np.isfinite(f) & (e >= 0) & (f >= 0))[there].all():
        raise KDScopeError("squared errors and energies must be finite and not negative")
    errors, energies, cells = (by_region(x, r, regions) for x in (e, f, np.ones_like(e)))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = errors / errors.sum(axis=1, keepdims=True)
        density = share / (cells / cells.sum(axis=1, keepdims=True))
        normalised = errors / energies
    undefined = cells == 0
    return FeatureError(share, np.where(undefined, np.nan, density), np.where(undefined, np.nan, normalised))


def by_region(values: np.ndarray, region: np.ndarray, regions: int) -> np.ndarray:
    """The sum of `values` [N, H, W] over each region, [N, R], padding left out."""
    images = len(values)
    image = np.broadcast_to(np.arange(images)[:, None, None], values.shape)
    there = region != PADDING
    flat = image[there] * regions + region[there]
    return np.bincount(flat, values[there], images * regions).reshape(images, regions)
