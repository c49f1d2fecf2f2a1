"""The operations of AutoAugment, as one function of (images, which operation, how strong), for a batch of mixed
ones.

E. Cubuk et al., "AutoAugment: learning augmentation policies from data", CVPR 2019, table 6; strengths and signs as in
torchvision. Strengths are in each operation's own unit: shear as a slope, translation in pixels, rotation in degrees,
blends as the change of the factor from 1, posterize in bits kept, solarize as the threshold.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kdscope.data import colour, geometry
from kdscope.data.augment import Parameters
from kdscope.data.chance import Chance


def shear_x(images: Tensor, slope: Tensor, fill: int) -> Tensor:
    """Row y moves by slope * y to the left; about the upper left corner."""
    matrix = geometry.identity_rows(len(slope))
    matrix[:, 1] = slope
    return geometry.affine(images, matrix, fill)


def shear_y(images: Tensor, slope: Tensor, fill: int) -> Tensor:
    """Column x moves by slope * x up; about the upper left corner."""
    matrix = geometry.identity_rows(len(slope))
    matrix[:, 3] = slope
    return geometry.affine(images, matrix, fill)


def translate_x(images: Tensor, pixels: Tensor, fill: int) -> Tensor:
    """To the right by the whole part of `pixels`."""
    matrix = geometry.identity_rows(len(pixels))
    matrix[:, 2] = -pixels.trunc()
    return geometry.affine(images, matrix, fill)


def translate_y(images: Tensor, pixels: Tensor, fill: int) -> Tensor:
    """Down by the whole part of `pixels`."""
    matrix = geometry.identity_rows(len(pixels))
    matrix[:, 5] = -pixels.trunc()
    return geometry.affine(images, matrix, fill)


def rotate(images: Tensor, degrees: Tensor, fill: int) -> Tensor:
    """Counter-clockwise about the centre."""
    return geometry.affine(images, geometry.rotation(degrees, *images.shape[-2:]), fill)


OPERATIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "identity": lambda images, strength, fill: images,
    "shear-x": shear_x,
    "shear-y": shear_y,
    "translate-x": translate_x,
    "translate-y": translate_y,
    "rotate": rotate,
    "brightness": lambda images, strength, fill: colour.brightness(images, 1 + strength),
    "colour": lambda images, strength, fill: colour.colour(images, 1 + strength),
    "contrast": lambda images, strength, fill: colour.contrast(images, 1 + strength),
    "sharpness": lambda images, strength, fill: colour.sharpness(images, 1 + strength),
    "posterize": lambda images, strength, fill: colour.posterize(images, strength),
    "solarize": lambda images, strength, fill: colour.solarize(images, strength),
    "autocontrast": lambda images, strength, fill: colour.autocontrast(images),
    "equalize": lambda images, strength, fill: colour.equalize(images),
    "invert": lambda images, strength, fill: colour.invert(images),
}
NAMES = tuple(OPERATIONS)
SIGNED = ("shear-x", "shear-y", "translate-x", "translate-y", "rotate", "brightness", "colour", "contrast", "sharpness")


def strengths(levels: int, height: int, width: int) -> Tensor:
    """How strong each operation is at each of `levels` levels, without sign: float64 [position in NAMES, level].

    >>> strengths(31, 32, 32)[NAMES.index("rotate"), [0, 30]].tolist()
    [0.0, 30.0]
    """
    grade = torch.linspace(0, 1, levels, dtype=torch.float64)
    top = {
        "shear-x": 0.3,
        "shear-y": 0.3,
        "translate-x": 150 / 331 * width,
        "translate-y": 150 / 331 * height,
        "rotate": 30.0,
        "brightness": 0.9,
        "colour": 0.9,
        "contrast": 0.9,
        "sharpness": 0.9,
    }
    table = torch.stack([grade * top.get(name, 0.0) for name in NAMES])
    table[NAMES.index("posterize")] = 8 - (4 * grade).round()
    table[NAMES.index("solarize")] = 255 * (1 - grade)
    return table


def signed(chance: Chance, slot: int, operation: Tensor, strength: Tensor) -> Parameters:
    """The parameters of one slot of a policy, "operation-1" and "strength-1", with a random sign where one fits."""
    has_sign = torch.tensor([name in SIGNED for name in NAMES])[operation]
    negative = has_sign & chance.coin(f"sign-{slot}")
    return {f"operation-{slot}": operation, f"strength-{slot}": torch.where(negative, -strength, strength)}


def operate(images: Tensor, operation: Tensor, strength: Tensor, fill: int) -> Tensor:
    """Do to each image its own operation; in place.

    Args:
        images: uint8 [B, 3, H, W], on any device.
        operation: int64 [B], positions in NAMES, on the CPU, so that the device is never asked who drew what.
        strength: float64 [B], on the CPU.
        fill: level of what a geometric operation brings in from outside.

    >>> images = torch.full((2, 3, 4, 4), 55, dtype=torch.uint8)
    >>> operate(images, torch.tensor([0, NAMES.index("invert")]), torch.zeros(2), fill=0)[:, 0, 0, 0].tolist()
    [55, 200]
    """
    order = operation.argsort(stable=True)
    counts = torch.bincount(operation, minlength=len(NAMES)).tolist()
    for name, rows in zip(NAMES, order.split(counts), strict=True):
        if name != "identity" and len(rows):
            there = rows.to(images.device, non_blocking=True)
            changed = OPERATIONS[name](images.index_select(0, there), strength[rows], fill)
            images.index_copy_(0, there, changed)
    return images
