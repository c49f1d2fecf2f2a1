"""The views that small-image networks are usually trained on: none, and pad-crop-flip.

K. He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
"""

from torch import Tensor

from kdscope.data.augment import AUGMENTATIONS, Augmentation, Parameters
from kdscope.data.chance import Chance


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror, left to right, the images [B, C, H, W] for which `chosen` (bool [B], on the CPU) is true; in place.

    >>> import torch
    >>> flip(torch.tensor([[[[1, 2]]], [[[3, 4]]]]), torch.tensor([True, False])).flatten().tolist()
    [2, 1, 3, 4]
    """
    rows = chosen.nonzero().flatten().to(images.device)
    return images.index_copy_(0, rows, images.index_select(0, rows).flip(-1))


@AUGMENTATIONS.register("none")
class Plain(Augmentation):
    """The image itself."""

    name = "none"

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return images


@AUGMENTATIONS.register("standard")
class Standard(Augmentation):
    """Pad with 4 zero pixels (before normalisation: black), cut a window at random, mirror with probability 1/2."""

    name = "standard"
    margin = 4

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        choices = 2 * self.margin + 1
        return {
            "dy": chance.integers("crop-y", choices),
            "dx": chance.integers("crop-x", choices),
            "flip": chance.coin("flip"),
        }

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return flip(images, parameters["flip"])
