"""Pixels of a report as text: maps as bytes scaled by image, and images side by side in one picture."""

import base64
import io
import math

import numpy as np

from kdscope.errors import KDScopeError

TILES = 4_000_000  # pixels of all images together, beyond which they are made smaller
EXACT = 700_000  # pixels up to which the picture loses nothing
QUALITY = 82


def encode(values: np.ndarray, kind: str) -> str:
    """An array as base64 of its bytes, little endian, row by row.

    >>> encode(np.array([1, 258]), "uint16")
    'AQACAQ=='
    """
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()).decode("ascii")


def decode(text: str, kind: str, *shape: int) -> np.ndarray:
    """What `encode` made, in the shape that it had.

    >>> decode("AQACAQ==", "uint16", 2).tolist()
    [1, 258]
    """
    return np.frombuffer(base64.b64decode(text), np.dtype(kind).newbyteorder("<")).reshape(shape)


def as_bytes(maps: np.ndarray) -> np.ndarray:
    """Maps [N, h, w] without signs as uint8: 0 for the least and 255 for the greatest value of each; all 0 if constant.

    Rounding moves a value by at most 1/510 of the range of its map.

    >>> as_bytes(np.array([[[1.0, 3.0]], [[2.0, 2.0]]])).tolist()
    [[[0, 255]], [[0, 0]]]
    """
    maps = _finite(maps)
    low, high = (extreme(maps, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    return np.round(255 * (maps - low) / np.where(high > low, high - low, 1)).astype(np.uint8)


def as_signed_bytes(maps: np.ndarray) -> np.ndarray:
    """Maps [N, h, w] with signs as uint8: 128 + 127 v / max|v| of each, so that 128 is zero.

    >>> as_signed_bytes(np.array([[[-1.0, 0.0, 2.0]]])).tolist()
    [[[64, 128, 255]]]
    """
    maps = _finite(maps)
    top = np.abs(maps).max(axis=(1, 2), keepdims=True)
    return np.round(128 + 127 * maps / np.where(top > 0, top, 1)).astype(np.uint8)


def _finite(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float64)
    if not np.isfinite(maps).all():
        raise KDScopeError("maps have values that are not finite: extract them again, and look at the network")
    return maps


def sprite(images: np.ndarray, most: int = TILES) -> tuple[str, int, int]:
    """Images uint8 [N, 3, h, w] in one picture, row by row, each in a square of its own.

    Returns:
        The picture as a data URI, the side of a square in pixels, and how many squares stand in a row.

    Small sets are kept exactly. Others are compressed, and made smaller beyond `most` pixels in all.
    """
    from PIL import Image, features

    count, _, height, width = images.shape
    side = max(height, width)
    columns = max(1, math.ceil(math.sqrt(count)))
    smaller = min(side, max(8, math.isqrt(most // max(1, count))))
    whole = np.zeros((math.ceil(count / columns) * side, columns * side, 3), np.uint8)
    grid = whole.reshape(-1, side, columns, side, 3)
    top, left = (side - height) // 2, (side - width) // 2
    places = np.arange(count)
    tiles = np.zeros((count, side, side, 3), np.uint8)
    tiles[:, top : top + height, left : left + width] = images.transpose(0, 2, 3, 1)
    grid[places // columns, :, places % columns] = tiles
    picture = Image.fromarray(whole)
    if smaller < side:
        picture = picture.resize((columns * smaller, grid.shape[0] * smaller), Image.Resampling.BOX)
    exact = count * smaller**2 <= EXACT
    text = io.BytesIO()
    if features.check("webp"):
        picture.save(text, "WEBP", lossless=exact, quality=100 if exact else QUALITY, method=4, exact=True)
        kind = "webp"
    else:
        picture.save(text, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(text.getvalue()).decode('ascii')}", smaller, columns
