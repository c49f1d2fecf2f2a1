"""What is kept of a feature map: its average over positions, its attention map, or all of it.

A transformer's tokens [B, T, D] are read as a square grid of patches after a few leading tokens (class, registers).
"""

import math
from collections.abc import Callable

from torch import Tensor

from kdscope.attention.activation import activation_map
from kdscope.errors import KDScopeError, unknown


def pool(feature: Tensor) -> Tensor:
    """The average over positions: [B, C, H, W] or [B, T, D] to [B, C]; a vector [B, C] stays as it is.

    Of tokens, the patches are averaged and the leading tokens left out. Computed in float32 for half precision.

    >>> import torch
    >>> pool(torch.arange(8.0).view(1, 2, 2, 2))
    tensor([[1.5000, 5.5000]])
    """
    if feature.dim() == 2:
        return feature
    wide = feature.float() if feature.dtype.itemsize < 4 else feature
    if feature.dim() == 3:
        return wide[:, leading_tokens(feature.shape[1]) :].mean(1)
    return wide.flatten(2).mean(2)


def attention(feature: Tensor) -> Tensor:
    """The activation attention map at native resolution: [B, C, H, W] or [B, T, D] to [B, H, W].

    A vector [B, C] has no positions, and stays as it is.

    >>> import torch
    >>> attention(torch.ones(1, 5, 8)).shape     # four patches and a class token
    torch.Size([1, 2, 2])
    """
    if feature.dim() == 2:
        return feature
    return activation_map(patches(feature) if feature.dim() == 3 else feature)


def full(feature: Tensor) -> Tensor:
    """All of it."""
    return feature


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"pool": pool, "attention": attention, "full": full}


def reduction(name: str) -> Callable[[Tensor], Tensor]:
    """The reduction of that name; an unknown one is a KDScopeError."""
    if name not in REDUCTIONS:
        raise unknown("reduction", name, REDUCTIONS)
    return REDUCTIONS[name]


def patches(tokens: Tensor) -> Tensor:
    """The patch tokens of [B, T, D] as a map [B, D, side, side], row by row.

    Raises:
        KDScopeError: if T is no square, nor a square with up to eight leading tokens.
    """
    count = tokens.shape[1]
    leading = leading_tokens(count)
    side = math.isqrt(count - leading)
    if side * side != count - leading:
        raise KDScopeError(f"{count} tokens are no square grid of patches; keep them with the reduction 'full'")
    return tokens[:, leading:].transpose(1, 2).unflatten(2, (side, side))


def leading_tokens(count: int) -> int:
    """How many of `count` tokens come before the patches: the fewest (at most 8) that leave a square grid; else 0.

    A grid has at least 2x2 patches.

    >>> leading_tokens(197), leading_tokens(196), leading_tokens(201), leading_tokens(3)
    (1, 0, 5, 0)
    """
    for leading in range(9):
        if count - leading >= 4 and math.isqrt(count - leading) ** 2 == count - leading:
            return leading
    return 0
