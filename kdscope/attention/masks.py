"""What an attribution is compared by: masks, soft and of the top share, and maps brought to the grid of the image."""

import torch.nn.functional as F
from torch import Tensor

from kdscope.errors import KDScopeError, unknown

SIGNS = {
    "positive": lambda attribution: attribution.clamp(min=0),
    "absolute": lambda attribution: attribution.abs(),
    "signed": lambda attribution: attribution,
}


def signed(attribution: Tensor, sign: str = "positive") -> Tensor:
    """The part of an attribution [B, H, W] that counts: `positive` (what speaks for the class), `absolute`, `signed`.

    >>> import torch
    >>> signed(torch.tensor([[[-1.0, 2.0]]])).tolist()
    [[[0.0, 2.0]]]
    """
    if sign not in SIGNS:
        raise unknown("sign", sign, SIGNS)
    return SIGNS[sign](attribution)


def soft_mask(attribution: Tensor) -> Tensor:
    """The positive part [B, H, W] over its largest value: [0, 1]; all ones where nothing is positive (below 1e-12).

    >>> import torch
    >>> soft_mask(torch.tensor([[[1.0, 2.0]], [[-1.0, 0.0]]])).tolist()
    [[[0.5, 1.0]], [[1.0, 1.0]]]
    """
    positive = attribution.clamp(min=0)
    largest = positive.amax((1, 2), keepdim=True)
    return (positive / largest.clamp(min=1e-12)).where(largest >= 1e-12, 1.0)


def top_mask(attribution: Tensor, share: float = 0.15) -> Tensor:
    """bool [B, H, W]: exactly round(share * H * W) positions, at least one, of the greatest value.

    A quantile of the values would take more where they tie (a map with many zeros: all of them).

    >>> import torch
    >>> top_mask(torch.tensor([[[0.0, 3.0], [0.0, 1.0]]]), 0.5).tolist()
    [[[False, True], [False, True]]]
    """
    if not 0 < share <= 1:
        raise KDScopeError(f"a mask of the share {share:g} of an image; it must be above 0 and at most 1")
    flat = attribution.flatten(1)
    kept = flat.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(share * flat.shape[1]))]
    return flat.new_zeros(flat.shape).bool().scatter(1, kept, True).view(attribution.shape)


def to_grid(attribution: Tensor, height: int, width: int) -> Tensor:
    """A map [B, h, w] on another grid, bilinear where it grows, averaged over areas where it shrinks.

    >>> import torch
    >>> to_grid(torch.arange(4.0).view(1, 2, 2), 1, 1).item()
    1.5
    """
    if attribution.shape[1:] == (height, width):
        return attribution
    if height <= attribution.shape[1] and width <= attribution.shape[2]:
        return F.adaptive_avg_pool2d(attribution[:, None], (height, width))[:, 0]
    return F.interpolate(attribution[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
