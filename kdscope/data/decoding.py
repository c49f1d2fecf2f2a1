"""A file to pixels: any image as uint8, scaled to its short side (bicubic) and cut at the centre."""

from typing import Any

import numpy as np

from kdscope.errors import KDScopeError


def read_image(path: str, size: int | tuple[int, int], short: int | None = None) -> np.ndarray:
    """One image as uint8 [3, H, W]: scaled to the short side and cut at the centre, or of exactly (height, width).

    White is 255, whether the file has 8 bits a channel or 16 (grey: v / 257, rounded).

    Args:
        path: of the file.
        size: side of the square that is cut out, or the (height, width) that the image must have.
        short: what the short side is scaled to before, at least `size` [`size`].

    Raises:
        KDScopeError: an image that cannot be read or has another size, or pixels without a known white (32 bits).
    """
    image = rgb(path)
    if isinstance(size, int):
        image = _scale_and_cut(image, size, short or size)
    elif (image.height, image.width) != size:
        found, usual = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
        raise KDScopeError(
            f"{path} has {found} pixels and others have {usual}; "
            "scale all by image_size (--set data.image_size=N, --image-size N)"
        )
    return np.asarray(image).transpose(2, 0, 1)


def rgb(path: str) -> Any:
    """An image as Pillow's RGB of 8 bits a channel, in the size that it has.

    Raises:
        KDScopeError: an image that cannot be read, or pixels without a known white (32 bits).
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            return _eight_bits(file).convert("RGB")
    except Exception as error:  # Pillow's decoders raise errors of many classes for broken files
        raise KDScopeError(f"{path} is not an image that can be read: {' '.join(str(error).split())}") from None


def _eight_bits(image: Any) -> Any:
    """A grey image of 16 bits a pixel in 8, which Pillow itself would clip at 255; any other as it is."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    # Where Pillow has no mode of 16 bits for a format of at most 16, it gives 32.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        raise ValueError(f"its pixels are numbers of 32 bits ({image.mode}), of which none is known to be white")
    pixels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _scale_and_cut(image: Any, size: int, short: int) -> Any:
    from PIL import Image

    found = min(image.size)
    if found != short:
        sides = [max(short, round(side * short / found)) for side in image.size]
        image = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def image_size(path: str) -> tuple[int, int]:
    """(height, width) of an image, its pixels left undecoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise KDScopeError(f"{path} is not an image that can be read: {' '.join(str(error).split())}") from None
