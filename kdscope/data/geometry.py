"""Geometric operations on batches of uint8 images [B, C, H, W], each image with its own parameters.

They follow Pillow's transforms, whose nearest-neighbour affine is fixed-point arithmetic and so the same on every
device.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdscope.data.chance import Chance


def resize(images: Tensor, size: int) -> Tensor:
    """Scale uint8 [N, C, H, W] to [N, C, size, size]: bicubic, anti-aliased where it shrinks.

    >>> resize(torch.full((2, 3, 8, 8), 7, dtype=torch.uint8), 16).unique()
    tensor([7], dtype=torch.uint8)
    """
    if images.shape[-2:] == (size, size):
        return images
    step = max(1, 2**22 // max(1, images[0].numel()))
    parts = [
        F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)
        for part in images.split(step)
    ]
    return torch.cat(parts)


def windows(store: Tensor, index: Tensor, dy: Tensor, dx: Tensor, height: int, width: int) -> Tensor:
    """Cut one window out of each of some images: [B, C, height, width], window b from store[index[b]] at (dy[b],
    dx[b]).

    Args:
        store: [N, C, H, W], contiguous.
        index, dy, dx: int64 [B] on the store's device; every window must lie inside.

    The store is seen as all runs of `width` pixels that it holds, overlapping (a stride of 1), so that a window is rows
    of
    that view: an `index_select` of whole rows, several times as fast as indexing pixel by pixel.
    """
    _, channels, full_height, full_width = store.shape
    runs = store.as_strided((store.numel() - width + 1, width), (1, 1))
    inside = torch.arange(channels, device=store.device)[:, None] * (full_height * full_width)
    inside = inside + torch.arange(height, device=store.device) * full_width
    start = index * (channels * full_height * full_width) + dy * full_width + dx
    rows = (start[:, None, None] + inside).flatten()
    return runs.index_select(0, rows).view(len(index), channels, height, width)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror, left to right, the images [B, C, H, W] for which `chosen` (bool [B]) is true.

    >>> flip(torch.tensor([[[[1, 2]]], [[[3, 4]]]]), torch.tensor([True, False])).flatten().tolist()
    [2, 1, 3, 4]
    """
    # Choosing whole images among both versions is several times as fast as choosing pixel by pixel.
    pick = torch.arange(len(images)) + len(images) * chosen
    return torch.cat([images, images.flip(-1)]).index_select(0, pick.to(images.device, non_blocking=True))


def affine(images: Tensor, matrix: Tensor, fill: int) -> Tensor:
    """Nearest-neighbour affine map: the pixel at (x, y) is taken from (a x + b y + c, d x + e y + f) of the image.

    Args:
        images: uint8 [B, C, H, W], sides below 32,768.
        matrix: float64 [B, 6], rows (a, b, c, d, e, f) in pixels; coordinates of pixel centres are whole numbers plus
            1/2.
        fill: level of what comes from outside.

    >>> image = torch.arange(3, dtype=torch.uint8).view(1, 1, 1, 3)
    >>> affine(image, torch.tensor([[1.0, 0, -1, 0, 1, 0]]), fill=9).flatten().tolist()
    [9, 0, 1]
    """
    height, width = images.shape[-2:]
    a, b, c, d, e, f = matrix.double().unbind(1)
    corner_x, corner_y = c + (a + b) / 2, f + (d + e) / 2
    fixed = torch.stack([a, b, corner_x, d, e, corner_y]).mul_(65536).add_(0.5).floor_().long()
    a, b, c, d, e, f = fixed.to(images.device, non_blocking=True)[..., None, None]
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    from_x, from_y = (c + x * a + y * b) >> 16, (f + x * d + y * e) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    source = (from_y * width + from_x).where(inside, 0).flatten(1)
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return moved.where(inside[:, None], fill)


def identity_rows(count: int) -> Tensor:
    """float64 [count, 6]: the affine map that moves nothing."""
    return torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(count, 1)


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """The matrix of `affine` that turns an image counter-clockwise about its centre: float64 [B, 6] of float [B]."""
    angle = degrees.double() * (-math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return torch.stack([cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y], dim=1)


@functools.lru_cache(maxsize=4)
def crop_weights(size: int, device: torch.device) -> Tensor:
    """Bicubic weights (a = -1/2) that scale the first 1, 2, .. `size` pixels of a row of `size` up to the whole row.

    Returns:
        float32 [size, 1, size, 2 size], length by output by input; the left half of the input is zero, so that a window
        that starts at column size - s holds the weights of a crop that starts at pixel s. They are multiples of 2^-15,
        so
        that a weighted sum of levels is exact in float32 in any order: the same on every device and in every batch.
    """
    table = torch.zeros(size, 1, size, 2 * size)
    position = torch.arange(size, dtype=torch.float64)
    for length in range(1, size + 1):
        distance = (position[:length] + 0.5 - ((position + 0.5) * (length / size))[:, None]).abs()
        near = (1.5 * distance - 2.5) * distance.square() + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, near, far.where(distance < 2, 0.0))
        weight = (weight / weight.sum(1, keepdim=True) * 2**15).round() * 2.0**-15
        table[length - 1, 0, :, size : size + length] = weight
    return table.to(device)


def crop_and_scale(images: Tensor, box: Tensor) -> Tensor:
    """Cut a box out of each image and scale it (bicubic) to the image's size.

    Args:
        images: uint8 [B, C, H, W].
        box: (top, left, height, width), int64 [B, 4], inside the image.

    >>> images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    >>> torch.equal(crop_and_scale(images, torch.tensor([[0, 0, 4, 4]])), images)
    True
    """
    height, width = images.shape[-2:]
    top, left, tall, wide = box.to(images.device, non_blocking=True).unbind(1)
    zero = torch.zeros_like(top)
    down = windows(crop_weights(height, images.device), tall - 1, zero, height - top, height, height)
    across = windows(crop_weights(width, images.device), wide - 1, zero, width - left, width, width)
    rows = images.float().flatten(1, 2) @ across[:, 0].transpose(1, 2)  # [B, C H, W]
    rows = rows.round_().clamp_(0, 255).view(images.shape)
    return (down @ rows).round_().clamp_(0, 255).to(torch.uint8)


def draw_box(chance: Chance, height: int, width: int, scale: tuple[float, float] = (0.2, 1.0)) -> Tensor:
    """Box (top, left, height, width) of a random resized crop, int64 [B, 4].

    C. Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6: a share of the area drawn from `scale`,
    an aspect ratio between 3/4 and 4/3 (log-uniform); of ten tries the first that fits, or else the whole image's
    centre.
    """
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    tall, wide = min(height, round(width / ratio)), min(width, round(height * ratio))
    high = torch.full((len(chance.index),), tall)
    broad = torch.full_like(high, wide)
    found = torch.zeros_like(high, dtype=torch.bool)
    for attempt in range(10):
        area = chance.uniform(f"area-{attempt}", *scale) * (height * width)
        aspect = chance.uniform(f"ratio-{attempt}", math.log(3 / 4), math.log(4 / 3)).exp()
        w, h = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = ~found & (w > 0) & (w <= width) & (h > 0) & (h <= height)
        high, broad, found = high.where(~fits, h), broad.where(~fits, w), found | fits
    # Where none fits, the box is central; otherwise anywhere.
    top = (chance.uniform("box-top") * (height - high + 1)).long().where(found, (height - high) // 2)
    left = (chance.uniform("box-left") * (width - broad + 1)).long().where(found, (width - broad) // 2)
    return torch.stack([top, left, high, broad], dim=1)


def cutout(images: Tensor, centre: Tensor, side: int) -> Tensor:
    """Black out a square of `side` pixels about `centre` (y, x), int64 [B, 2]; what lies outside the image is cut off.

    T. DeVries & G. Taylor, "Improved regularization of convolutional neural networks with Cutout", arXiv 1708.04552.

    >>> cutout(torch.ones(1, 1, 3, 3, dtype=torch.uint8), torch.tensor([[0, 0]]), side=2).flatten().tolist()
    [0, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    height, width = images.shape[-2:]
    first = (centre - side // 2).to(images.device, non_blocking=True)[..., None]
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = (y >= first[:, 0]) & (y < first[:, 0] + side)
    columns = (x >= first[:, 1]) & (x < first[:, 1] + side)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)
