"""Activation-based attention maps: where the energy of a feature map lies (Zagoruyko & Komodakis, ICLR 2017)."""

from torch import Tensor

from kdscope.errors import KDScopeError


def activation_map(feature: Tensor, p: float = 2.0) -> Tensor:
    """F_sum^p(A) = sum_c |A_c|^p: the attention map that the AT loss transfers and that the analyses draw.

    Args:
        feature: feature map [B, C, H, W], any floating dtype; computed in float32 (float64 stays float64).
        p: exponent, > 0.

    Returns:
        Map [B, H, W], non-negative. It does not change when a classifier's head does (it is gauge-free), nor under a
        permutation or rotation (p = 2) of the channels.

    Raises:
        KDScopeError: if `feature` is not a map of four dimensions.

    >>> import torch
    >>> activation_map(torch.full((1, 3, 1, 2), -2.0))
    tensor([[[12., 12.]]])
    """
    if feature.dim() != 4:
        raise KDScopeError(
            f"an activation map needs a feature map [B, C, H, W], not one of shape {tuple(feature.shape)}"
        )
    if feature.dtype.itemsize < 4:
        feature = feature.float()
    return feature.square().sum(1) if p == 2 else feature.abs().pow(p).sum(1)
