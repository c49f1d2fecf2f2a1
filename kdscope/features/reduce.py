"""What is kept of a feature map: its average over positions, its attention map, or all of it.

A transformer's tokens [B, T, D] are read as a square grid of patches after a few leading tokens (class, registers).
"""

from collections.abc import Callable

from torch import Tensor

from kdscope.attention.activation import activation_map
from kdscope.attention.tokens import leading_tokens, patches
from kdscope.errors import unknown

__all__ = ["REDUCTIONS", "attention", "full", "leading_tokens", "patches", "pool", "reduction"]


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
