"""A graded strength of augmentation: RandAugment on top of `standard`.

E. Cubuk, B. Zoph, J. Shlens & Q. Le, "RandAugment: practical automated data augmentation with a reduced search space",
NeurIPS 2020: two operations of fourteen, one strength for all. Levels 0 to 30 and operations as in torchvision.
"""

from torch import Tensor

from kdscope.data.augment import AUGMENTATIONS, Parameters
from kdscope.data.chance import Chance
from kdscope.data.operations import NAMES, operate, signed, strengths
from kdscope.data.standard import Standard
from kdscope.errors import KDScopeError

CHOICES = len(NAMES) - 1  # all but "invert", which is the last
LEVELS = 31


@AUGMENTATIONS.register("randaugment")
class RandAugment(Standard):
    """`randaugment:M`: pad, crop, mirror, then two operations at level M, 0 to 30, which bring in black.

    Level 0 is not `standard`: autocontrast and equalize have no strength, and act at every level.
    """

    def __init__(self, level: str):
        if not level.isdecimal() or int(level) >= LEVELS:
            raise KDScopeError(f"augmentation 'randaugment:{level}' is out of range; give a level 0 to {LEVELS - 1}")
        self.name = f"randaugment:{level}"
        self.level = int(level)

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        drawn = super().draw(chance, height, width)
        strength = strengths(LEVELS, height, width)[:, self.level]
        for slot in (1, 2):
            operation = chance.integers(f"operation-{slot}", CHOICES)
            drawn |= signed(chance, slot, operation, strength[operation])
        return drawn

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = super().apply(images, parameters)
        for slot in (1, 2):
            images = operate(images, parameters[f"operation-{slot}"], parameters[f"strength-{slot}"], fill=0)
        return images
