"""Does a network look at the object? Its map against the true mask of the image.

The pointing game (Zhang et al., IJCV 2018) and the energy inside the mask (Wang et al., CVPR workshops 2020). The mask
is averaged over area to the cells of the map; the chance level of both is the mask's share of the image.
"""

from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.grids import as_maps, is_flat, pool_area


def pointing_game(maps: Any, masks: Any) -> np.ndarray:
    """The mask's share of the map's highest cell, for each image [N]: does the map point at the object?

    Args:
        maps: [N, h, w].
        masks: true foreground [N, H, W], bool or 0 and 1, on a grid at least as fine.

    Returns:
        [N] in [0, 1]: that a point in the highest cell lies on the object (the mean over cells that tie). NaN where the
        map is flat or the mask empty.

    >>> pointing_game([[[0.0, 1.0]]], [[[0, 0, 1, 1], [0, 0, 1, 0]]])
    array([0.75])
    """
    maps, inside, known = _checked(maps, masks)
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    hit = (highest * inside).sum(axis=(1, 2)) / highest.sum(axis=(1, 2))
    return np.where(known, hit, np.nan)


def energy_inside(maps: Any, masks: Any) -> np.ndarray:
    """The share of the map's positive part that lies inside the mask, for each image [N]; arguments as `pointing_game`.

    NaN where the map is flat or nowhere positive, or the mask empty.

    >>> energy_inside([[[1.0, 3.0]]], [[[0, 1]]])
    array([0.75])
    """
    maps, inside, known = _checked(maps, masks)
    positive = np.clip(maps, 0, None)
    total = positive.sum(axis=(1, 2))
    known &= total > 0
    return np.where(known, (positive * inside).sum(axis=(1, 2)) / np.where(known, total, 1), np.nan)


def mask_share(masks: Any) -> np.ndarray:
    """The mask's share of the image [N]: what a map that knows nothing scores; NaN for an empty mask.

    >>> mask_share([[[0, 1], [0, 0]]])
    array([0.25])
    """
    share = as_maps(masks, "the masks").mean(axis=(1, 2))
    return np.where(share > 0, share, np.nan)


def left_out(maps: Any, masks: Any, incomplete: np.ndarray | None = None, *, energy: bool = True) -> str:
    """Why images do not count, and how many: in words, empty where all count.

    Args:
        incomplete: bool [N], attributions that are not complete, where maps are such.
        energy: for the energy inside the mask, which needs a positive part; else for the pointing game.

    Returns:
        Counts, each image once, by the first reason that it has.

    >>> left_out([[[0.0, -1.0]], [[1.0, 2.0]], [[1.0, 1.0]]], [[[1, 1]], [[1, 1]], [[1, 1]]])
    '1 flat, 1 nowhere positive'
    """
    maps, masks = as_maps(maps), as_maps(masks, "the masks")
    reasons = {
        "not complete": np.zeros(len(maps), dtype=bool) if incomplete is None else incomplete,
        "without a mask": ~masks.any(axis=(1, 2)),
        "flat": is_flat(maps),
        "nowhere positive": (maps.max(axis=(1, 2)) <= 0) & energy,
    }
    said, named = [], np.zeros(len(maps), dtype=bool)
    for reason, holds in reasons.items():
        if count := int((holds & ~named).sum()):
            said.append(f"{count} {reason}")
        named |= holds
    return ", ".join(said)


def _checked(maps: Any, masks: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps, the mask's share of each of their cells, and which images count."""
    maps, masks = as_maps(maps), as_maps(masks, "the masks")
    if len(maps) != len(masks) or any(
        small > large for small, large in zip(maps.shape[1:], masks.shape[1:], strict=True)
    ):
        raise KDScopeError(f"masks {list(masks.shape)} do not fit maps {list(maps.shape)}")
    inside = pool_area(masks, maps.shape[1:])
    return maps, inside, ~is_flat(maps) & masks.any(axis=(1, 2))
