"""A random mask that is as smooth as a map: what is left of a map when it no longer says where.

Random pixels are rougher than any map, and deleting them one here and one there hurts a network less, or more, for that
alone. A surrogate keeps the autocorrelation of a map and draws the rest anew: its Fourier amplitudes with random phases
(Theiler et al., Physica D 1992). An intervention sees the order of the pixels alone, so the amplitudes are those of the
map's normal scores; and an image has no neighbour beyond its edge, so they are those of the map and its mirror images.
"""

import torch
from torch import Tensor

from kdscope.attention.intervention import ranks


def smooth_surrogate(maps: Tensor, noise: Tensor) -> Tensor:
    """Random maps with the autocorrelation of the ranks of given ones.

    Args:
        maps: [B, h, w]. noise: [B, 2h, 2w], independent and uniform in (0, 1).

    Returns:
        float32 [B, h, w], normal; only their order means anything.

    >>> smooth_surrogate(torch.rand(2, 4, 4), torch.rand(2, 8, 8)).shape
    torch.Size([2, 4, 4])
    """
    _, height, width = maps.shape
    share = 1 - ranks(maps) - 0.5 / (height * width)
    scores = torch.special.ndtri(share.double())
    scores = torch.cat([scores, scores.flip(1)], dim=1)
    scores = torch.cat([scores, scores.flip(2)], dim=2)
    tiny = torch.finfo(torch.float64).tiny
    phases = torch.fft.rfft2(torch.special.ndtri(noise.double().clamp(1e-12, 1 - 1e-12)))
    phases = phases / phases.abs().clamp(min=tiny)
    field = torch.fft.irfft2(torch.fft.rfft2(scores).abs() * phases, s=scores.shape[1:])
    return field[:, :height, :width].float()
