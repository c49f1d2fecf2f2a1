"""Colour operations on batches of uint8 images [B, 3, H, W], each image with its own strength.

They follow Pillow (ImageEnhance, ImageOps) to the level, rounding included, because that is what the published
augmentation policies were searched and trained with.
"""

import torch
from torch import Tensor


def grey(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma, int32 [B, 1, H, W], in Pillow's fixed point.

    >>> grey(torch.tensor([255, 255, 255], dtype=torch.uint8).view(1, 3, 1, 1)).item()
    255
    """
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """degenerate + factor * (images - degenerate), cut to 0 .. 255 and truncated; `factor` is float [B]."""
    base = degenerate.float()
    mixed = (images.float() - base).mul_(_column(factor.float(), images)).add_(base)
    return mixed.clamp_(0, 255).to(torch.uint8)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards black (0) or away from it; `factor` >= 0.

    >>> brightness(torch.full((1, 3, 1, 1), 100, dtype=torch.uint8), torch.tensor([1.5])).flatten().tolist()
    [150, 150, 150]
    """
    return blend(torch.zeros((), device=images.device), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the mean grey of the image (0) or away from it."""
    luma = grey(images)
    pixels = luma[0].numel()
    mean = (2 * luma.sum((1, 2, 3), dtype=torch.int64) + pixels) // (2 * pixels)  # rounded to the nearest level
    return blend(_column(mean, images), images, factor)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Towards grey (0) or away from it."""
    return blend(grey(images), images, factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle by `turn` (float [B], share of the whole): red by 1/3 is green. Grey stays.

    As torchvision does with tensors (Pillow's own is of 256 hues); the lightest and the darkest channel keep their
    levels, and the third follows.

    >>> hue(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten().tolist()
    [0, 255, 0]
    """
    low, high = torch.aminmax(images.float(), dim=1, keepdim=True)
    red, green, blue = images.float().split(1, dim=1)
    span = (high - low).clamp(min=1)
    sixth = torch.where(high == red, (green - blue) / span, 2 + (blue - red) / span)
    sixth = torch.where((high == blue) & (high != red) & (high != green), 4 + (red - green) / span, sixth)
    sixth = (sixth + 6 * _column(turn.float(), images)) % 6
    # Each channel is at its lightest within 1/6 of its own hue (0, 2, 4 sixths), at its darkest from 2/6 on.
    away = (sixth - torch.tensor([0.0, 2.0, 4.0], device=images.device).view(3, 1, 1)).abs()
    share = (2 - torch.minimum(away, 6 - away)).clamp(0, 1)
    return (low + share * (high - low)).round().clamp(0, 255).to(torch.uint8)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards a 3 x 3 smoothing (0; weight 5 at the centre, 1 around, the border kept) or away from it."""
    wide = images.short()
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = ((2 * total + 13) // 26).to(torch.uint8)  # total / 13, rounded
    return blend(smooth, images, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (integer [B], 0 to 8) of each value.

    >>> posterize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.tensor([4])).unique().item()
    240
    """
    return images & _column((256 - 2 ** (8 - bits.long())).to(torch.uint8), images)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at or above `threshold` (float [B])."""
    return torch.where(images.float() < _column(threshold.float(), images), images, 255 - images)


def invert(images: Tensor) -> Tensor:
    """255 - x."""
    return 255 - images


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to 0 .. 255; a constant channel stays."""
    low, high = torch.aminmax(images.flatten(2), dim=2)
    low, span = low.double()[..., None], (high - low).double()[..., None]
    scale = torch.full_like(span, 255) / span.clamp(min=1)  # one division, where `255 / span` is two roundings
    level = torch.arange(256, device=images.device, dtype=torch.float64)
    table = (level * scale - low * scale).trunc().clamp_(0, 255)
    return look_up(torch.where(span > 0, table, level), images)


def equalize(images: Tensor) -> Tensor:
    """Make the histogram of each channel of each image as flat as a monotone map of levels can."""
    batch, channels = images.shape[:2]
    values = images.flatten(2).long()
    counts = torch.zeros(batch, channels, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    # The step leaves out the count of the highest level that occurs, which is mapped to white.
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return look_up(torch.where(step > 0, table, torch.arange(256, device=images.device)), images)


def look_up(table: Tensor, images: Tensor) -> Tensor:
    """Map each value through the table [B, C, 256] of its image and channel."""
    return table.to(torch.uint8).gather(2, images.flatten(2).long()).view_as(images)


def _column(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device, non_blocking=True).view(-1, 1, 1, 1)
