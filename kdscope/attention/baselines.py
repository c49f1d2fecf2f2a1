"""Where the path of an attribution begins: pictures that say nothing, each in its own way.

After normalisation, zero is the mean colour, not black. For two networks, path and baseline are the same pictures.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdscope.attention.imputation import blur
from kdscope.errors import KDScopeError, unknown

BASELINES = ("mean", "black", "blur", "train")


def baseline(
    name: str, mean: Sequence[float], std: Sequence[float], training: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from normalised images [B, 3, H, W] to baselines [B, 3, H, W], or [K, B, 3, H, W] for `train`.

    Args:
        name: `mean` (the mean colour of train), `black`, `blur` (Gaussian, sigma a quarter of the side), `train` (the
            given training images, the same for all).
        mean, std: of each channel, with which images are normalised.
        training: [K, 3, H, W], normalised; for `train`.

    Raises:
        KDScopeError: an unknown name, or `train` without training images.

    >>> make = baseline("black", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> make(torch.zeros(1, 3, 1, 1)).flatten().tolist()
    [-2.0, -2.0, -2.0]
    """
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    if name == "mean":
        return torch.zeros_like
    if name == "black":
        black = -torch.tensor(mean) / torch.tensor(std)
        return lambda images: black.to(images)[:, None, None].expand_as(images).clone()
    if name == "blur":
        return lambda images: blur(images, max(images.shape[-2:]) / 4)
    if training is None or not len(training):
        raise KDScopeError("the baseline 'train' needs training images")
    return lambda images: training.to(images)[:, None].expand(len(training), *images.shape)
