"""What stands where pixels of an image are removed: its own blur, or what its neighbours say.

What is left out has to be replaced, and what replaces it must neither be foreign to the network nor show by its edge
what was there (Rong et al., ICML 2022).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W], cut at three sigma, edges weighed by what lies inside: a constant stays one.

    >>> blur(torch.ones(1, 1, 4, 4), 2.0).allclose(torch.ones(1, 1, 4, 4))
    True
    """
    for dim in (-2, -1):
        side = images.shape[dim]
        at = torch.arange(side, device=images.device, dtype=images.dtype)
        distance = (at[:, None] - at).abs()
        weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= math.ceil(3 * sigma))
        weights = weights / weights.sum(1, keepdim=True)
        images = torch.einsum("oi,bciw->bcow" if dim == -2 else "oi,bchi->bcho", weights, images)
    return images


def noisy_linear(images: Tensor, removed: Tensor, noise: Tensor | None = None, tolerance: float = 1e-3) -> Tensor:
    """Removed pixels as weighted means of their eight neighbours, known or removed alike, plus a little noise.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ROAD), ICML 2022, section 4:
    direct neighbours weigh 1/6, diagonal ones 1/12. A copy of the neighbourhood says little about the shape of the
    mask, which a constant or a blur gives away. The linear system of each image is solved by conjugate gradients, all
    images together.

    Args:
        images: [B, C, H, W]. removed: bool [B, H, W].
        noise: [B, C, H, W] or [C, H, W], added where pixels are removed (the paper: normal, sigma 0.2); None for none.
        tolerance: largest residual at the end, in the unit of the images.

    Returns:
        Images with the removed pixels replaced; an image without any known pixel becomes its mean colour.

    >>> x = torch.arange(5.0).expand(1, 1, 5, 5)
    >>> hole = torch.zeros(1, 5, 5, dtype=torch.bool)
    >>> hole[0, 2, 2] = True
    >>> noisy_linear(x, hole).allclose(x, atol=1e-3)
    True
    """
    hole = removed[:, None].to(images)
    kernel = images.new_tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]]).div(12)[None, None]

    def neighbours(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], kernel.to(x), padding=1).view(x.shape)

    degree = neighbours(torch.ones_like(images[:1, :1]))  # less at the edge; this form is symmetric

    def system(x: Tensor) -> Tensor:
        return hole * (degree * x - neighbours(hole * x))

    known = images * (1 - hole)
    x = hole * images.mean((2, 3), keepdim=True)
    residual = hole * neighbours(known) - system(x)
    # Where all is removed the system is singular, and the mean colour its solution already.
    residual = residual * (~removed.flatten(1).all(1)).to(images)[:, None, None, None]
    direction, size = residual, residual.square().sum((2, 3), keepdim=True)
    for step in range(4 * sum(images.shape[2:])):
        if step % 8 == 0 and not residual.abs().amax() > tolerance:
            break
        moved = system(direction)
        length = size / (direction * moved).sum((2, 3), keepdim=True).clamp(min=1e-20)
        x = x + length * direction
        residual = residual - length * moved
        size, before = residual.square().sum((2, 3), keepdim=True), size
        direction = residual + size / before.clamp(min=1e-20) * direction
    return known + x + (0 if noise is None else hole * noise)
