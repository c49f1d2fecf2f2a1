"""The two strengths of augmentation whose permutations over teachers and student Guo et al. compare.

C. Guo, S. Zhong, X. Liu, Q. Feng & Y. Ma, "Why does knowledge distillation work? Rethink its attention and fidelity
mechanism", Expert Systems with Applications 262:125579, 2025 (arXiv 2405.00739), the CIFAR settings of the released
code, but at the images' own resolution: no scaling to 224 px, and Cutout's 16 px of 224 are 1/14 of the side.
"""

import torch
from torch import Tensor

from kdscope.data.augment import AUGMENTATIONS, Augmentation, Parameters
from kdscope.data.chance import Chance
from kdscope.data.geometry import affine, crop_and_scale, cutout, draw_box, flip, rotation
from kdscope.data.operations import NAMES, operate, signed, strengths

# The policy that was found for CIFAR-10 (Cubuk et al., CVPR 2019, table 7): 25 pairs of (operation, probability, level
# 0 to 9).
POLICY = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("colour", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate-y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
FILL = 128


@AUGMENTATIONS.register("weak")
class Weak(Augmentation):
    """Random resized crop (share of the area 0.2 to 1, bicubic), mirror with probability 1/2, rotation by up to 15
    degrees.

    The rotation is nearest-neighbour and brings in black. The paper speaks of colour jitter here; the code has none.
    """

    name = "weak"

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        return {
            "box": draw_box(chance, height, width),
            "flip": chance.coin("flip"),
            "degrees": chance.uniform("degrees", -15, 15),
        }

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = flip(crop_and_scale(images, parameters["box"]), parameters["flip"])
        return affine(images, rotation(parameters["degrees"], *images.shape[-2:]), fill=0)


@AUGMENTATIONS.register("strong")
class Strong(Augmentation):
    """The crop and mirror of `weak`, then AutoAugment's CIFAR-10 policy (filling with grey 128), then Cutout.

    Cutout blacks out one square of 1/14 of the side (rounded, at least 1 px): 16 px at 224, 2 px at 32. That is the
    published setting's share, far less than the half of the side with which Cutout is used alone on CIFAR.
    """

    name = "strong"

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        drawn = {"box": draw_box(chance, height, width), "flip": chance.coin("flip")}
        pair = chance.integers("policy", len(POLICY))
        table = strengths(10, height, width)
        for slot in (1, 2):
            names, probabilities, levels = zip(*(pairs[slot - 1] for pairs in POLICY), strict=True)
            operation = torch.tensor([NAMES.index(name) for name in names])[pair]
            strength = table[operation, torch.tensor(levels)[pair]]
            acts = chance.uniform(f"act-{slot}") < torch.tensor(probabilities, dtype=torch.float64)[pair]
            drawn |= signed(chance, slot, operation.where(acts, NAMES.index("identity")), strength)
        y, x = chance.integers("cutout-y", height), chance.integers("cutout-x", width)
        return drawn | {"cutout": torch.stack([y, x], dim=1)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = flip(crop_and_scale(images, parameters["box"]), parameters["flip"])
        for slot in (1, 2):
            images = operate(images, parameters[f"operation-{slot}"], parameters[f"strength-{slot}"], FILL)
        return cutout(images, parameters["cutout"], max(1, round(min(images.shape[-2:]) / 14)))
