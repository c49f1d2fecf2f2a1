"""What an augmentation is, the registry of them, and the record of what one did to a batch."""

import inspect
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from kdscope.data.chance import Chance
from kdscope.errors import KDScopeError
from kdscope.registry import Registry

Parameters = dict[str, Tensor]


class Augmentation:
    """A way to make views of images: `draw` decides, for each image by itself, and `apply` does it to a batch.

    Attributes:
        name: as `augmentation` takes it.
        margin: zero pixels around each image. Where it is not 0, `draw` gives "dy" and "dx", int64 [B] in 0 .. 2 *
            margin, and `apply` is handed the windows that start there, as high and wide as the image was.
        partners: whether each view is then mixed with that of another image of the split, "partner" in the parameters.
    """

    name: str
    margin: ClassVar[int] = 0
    partners: ClassVar[bool] = False

    def draw(self, chance: Chance, height: int, width: int) -> Parameters:
        """Parameters of each image of `chance`, tensors whose first dimension is B, on the CPU."""
        raise NotImplementedError

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """The views, uint8 [B, 3, H, W], of `images` (the same shape, on any device); `images` may be overwritten."""
        raise NotImplementedError

    def mix(self, images: Tensor, others: Tensor, parameters: Parameters) -> Tensor:
        """The views of `images` and those of their partners as one, where the augmentation has partners."""
        raise NotImplementedError


AUGMENTATIONS: Registry[type[Augmentation]] = Registry("augmentation", "kdscope.data", "kdscope.augmentations")


def augmentation(name: str) -> Augmentation:
    """The augmentation `name`: "none", "standard", "weak", "strong", "randaugment:9"; see `AUGMENTATIONS`.

    Raises:
        KDScopeError: unknown name (with the nearest), or an argument that the augmentation does not take.

    >>> augmentation("standard").margin
    4
    """
    kind, colon, argument = name.partition(":")
    factory = AUGMENTATIONS[kind]
    takes = bool(inspect.signature(factory).parameters)
    if takes != bool(colon):
        example = f"write {kind}:VALUE" if takes else f"write {kind}"
        raise KDScopeError(f"augmentation {name!r} is not understood; {example}")
    return factory(argument) if takes else factory()


@dataclass(frozen=True, eq=False)
class View:
    """What augmentation did to each image of a batch. (augment, seed, epoch, index) alone are enough to do it again.

    Attributes:
        augment: name of the augmentation.
        seed, epoch: what the parameters were drawn by, with the index; epoch -1 where they were chosen.
        index: int64 [B], positions in the unshuffled split.
        parameters: what was drawn ("dy", "dx", "flip", ...): tensors on the CPU whose first dimension is B.
    """

    augment: str
    seed: int
    epoch: int
    index: Tensor
    parameters: Parameters = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, str | int]:
        """What, with the index, says which view this is; fit for JSON."""
        return {"augment": self.augment, "seed": self.seed, "epoch": self.epoch}
