"""The views that small-image networks are usually trained on: none, and pad-crop-flip.

K. He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
"""

from torch import Tensor

from kdscope.data.augment import AUGMENTATIONS, Augmentation, Parameters
from kdscope.data.chance import Chance
from kdscope.data.geometry import flip


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
