"""Small pictures of the images as they were shown: what a figure lays maps over, without the dataset at hand."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL = "meta/image"
SIDE = 64


def thumbnails(images: Tensor, mean: Sequence[float], std: Sequence[float], side: int = SIDE) -> Tensor:
    """Normalised images as colours again, averaged over area where they are larger than `side`.

    Args:
        images: [B, 3, H, W], normalised with `mean` and `std` of each channel.

    Returns:
        uint8 [B, 3, h, w]; h and w are at most `side`, in the proportion of H and W.

    >>> thumbnails(torch.zeros(1, 3, 128, 64), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).shape
    torch.Size([1, 3, 64, 32])
    """
    mean, std = (torch.as_tensor(each, dtype=torch.float32, device=images.device).view(3, 1, 1) for each in (mean, std))
    colours = images.detach().float() * std + mean
    shrink = max(images.shape[-2:]) / side
    if shrink > 1:
        colours = F.adaptive_avg_pool2d(colours, [max(1, round(length / shrink)) for length in images.shape[-2:]])
    return (colours * 255).round().clamp(0, 255).to(torch.uint8)
