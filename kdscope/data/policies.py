"""The views under which Stanton et al. distil: pad-crop-flip, and one thing more.

S. Stanton, P. Izmailov, P. Kirichenko, A. Alemi & A. Wilson, "Does knowledge distillation really work?", NeurIPS 2021
(arXiv 2106.05945), figure 3. What a GAN made and images of SVHN, which they also distil on, are not views of an image.
"""

import torch
from torch import Tensor

from kdscope.data import colour
from kdscope.data.augment import AUGMENTATIONS, Parameters
from kdscope.data.chance import Chance, bits
from kdscope.data.geometry import affine, rotation
from kdscope.data.standard import Standard
from kdscope.errors import KDScopeError


def number(name: str, text: str, most: float) -> float:
    """The number behind an augmentation's colon: above 0, at most `most`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= most:
        raise KDScopeError(f"augmentation '{name}:{text}' is out of range; give a number above 0, at most {most:g}")
    return value


class OneMore(Standard):
    """Pad, crop, mirror, and then `change`."""

    def change(self, images: Tensor, parameters: Parameters) -> Tensor:
        raise NotImplementedError

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return self.change(super().apply(images, parameters), parameters)


@AUGMENTATIONS.register("rotation")
class Rotation(OneMore):
    """`rotation:20`: pad, crop, mirror, then a rotation by at most so many degrees (nearest-neighbour, on black)."""

    def __init__(self, degrees: str):
        self.name, self.most = f"rotation:{degrees}", number("rotation", degrees, 180)

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        turned = {"degrees": chance.uniform("degrees", -self.most, self.most)}
        return super().draw(chance, height, width) | turned

    def change(self, images: Tensor, parameters: Parameters) -> Tensor:
        return affine(images, rotation(parameters["degrees"], *images.shape[-2:]), fill=0)


@AUGMENTATIONS.register("vertical-flip")
class VerticalFlip(OneMore):
    """Pad, crop, mirror, then turn upside down with probability 1/2."""

    name = "vertical-flip"

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        return super().draw(chance, height, width) | {"upside-down": chance.coin("upside-down")}

    def change(self, images: Tensor, parameters: Parameters) -> Tensor:
        chosen = parameters["upside-down"].to(images.device, non_blocking=True)
        return torch.where(chosen[:, None, None, None], images.flip(-2), images)


@AUGMENTATIONS.register("jitter")
class Jitter(OneMore):
    """`jitter:0.2`: pad, crop, mirror, then brightness, contrast, saturation and hue, changed in this order.

    The first three by factors from 1 - x to 1 + x, the hue by -x to x of the whole circle.
    """

    def __init__(self, strength: str):
        self.name, self.strength = f"jitter:{strength}", number("jitter", strength, 0.5)

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        x, drawn = self.strength, super().draw(chance, height, width)
        factors = {name: chance.uniform(name, 1 - x, 1 + x) for name in ("brightness", "contrast", "colour")}
        return drawn | factors | {"hue": chance.uniform("hue", -x, x)}

    def change(self, images: Tensor, parameters: Parameters) -> Tensor:
        for name in ("brightness", "contrast", "colour", "hue"):
            images = getattr(colour, name)(images, parameters[name])
        return images


@AUGMENTATIONS.register("combined")
class Combined(OneMore):
    """Pad, crop, mirror, then all of `jitter:0.2`, `vertical-flip` and `rotation:20`."""

    name = "combined"
    parts = (Jitter("0.2"), VerticalFlip(), Rotation("20"))

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        drawn = {}
        for part in self.parts:  # the crop and the mirror of all are the same
            drawn |= part.draw(chance, height, width)
        return drawn

    def change(self, images: Tensor, parameters: Parameters) -> Tensor:
        for part in self.parts:
            images = part.change(images, parameters)
        return images


@AUGMENTATIONS.register("noise")
class Noise(OneMore):
    """`noise:0.2`: pad, crop, mirror; with that probability noise instead of the image, each value uniform by itself.

    The label stays, and means nothing then: for distillation without labels.
    """

    def __init__(self, probability: str):
        self.name, self.probability = f"noise:{probability}", number("noise", probability, 1)

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        drawn = super().draw(chance, height, width) | {"noisy": chance.coin("noisy", self.probability)}
        return drawn | {"noise": bits(chance.seed, chance.epoch, chance.index, "noise")}

    def change(self, images: Tensor, parameters: Parameters) -> Tensor:
        rows = parameters["noisy"].nonzero()[:, 0]  # on the CPU: the device is not waited for
        if not len(rows):
            return images
        place = torch.arange(images[0].numel())
        noise = bits(0, 0, parameters["noise"][rows, None] + place, "level") & 255
        noise = noise.to(torch.uint8).view(-1, *images.shape[1:]).to(images.device, non_blocking=True)
        return images.index_copy(0, rows.to(images.device, non_blocking=True), noise)


@AUGMENTATIONS.register("mixup")
class MixUp(Standard):
    """Pad, crop, mirror, then a mean with another image of the split (with its own crop and mirror).

    H. Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018, with weights uniform in 0 to 1: here in 1/2
    to 1, which makes the same pairs, named by the image that has the larger part. The label is that image's, unmixed:
    for distillation without labels.
    """

    name = "mixup"
    partners = True

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        return super().draw(chance, height, width) | {"share": chance.uniform("share", 0.5, 1.0)}

    def mix(self, images: Tensor, others: Tensor, parameters: Parameters) -> Tensor:
        return colour.blend(others, images, parameters["share"])
