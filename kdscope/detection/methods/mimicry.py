"""Plain mimicry of feature maps: the hints of Chen et al. (NeurIPS 2017), and the control that FGD needs.

A squared difference of all places alike, without masks or attention, did better than full FGD in small trials of a
student with few images; what masks and attention earn shows only beside it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.methods.levels import Levels, check_reduction, squared_difference
from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import unknown
from kdscope.methods.checks import flag

NORMS = ("l2", "l1")


def hint_loss(guided: Tensor, hint: Tensor, norm: str = "l2") -> Tensor:
    """The mean of (V - Z)^2 or |V - Z| over all elements of two maps [N, C, H, W]; >= 0, and 0 where they are equal.

    >>> v, z = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 3.0)
    >>> float(hint_loss(v, z)), float(hint_loss(v, z, norm="l1"))
    (9.0, 3.0)
    """
    difference = guided - hint
    return (difference.square() if norm == "l2" else difference.abs()).mean()


class Hint(DetectionTerm):
    """The sum over the levels of the hint losses. The student's map goes through a 1x1 convolution of its own on each
    level, learned with it, even where the widths are equal: "Hints-A" of the paper's ablation, above its "Hints".

    Args:
        norm: "l2" or "l1"; the paper has both.
        adapter: "always", or "needed", which has one only where the widths differ.
        strides: of the levels; none is all.
        normalize: divide both maps of a level by the teacher's root mean square.
    """

    name = "hint"
    summary = "maps, by an adapter"

    def __init__(self, norm: str = "l2", adapter: str = "always", strides: Sequence[int] = (), normalize: bool = False):
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", str(norm), NORMS, f"term {self.name!r}")
        self.norm, self.observes = norm, flag(self.name, "normalize", normalize)
        self.levels = Levels(self.name, strides, normalize, adapter)

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures) -> None:
        self.levels.build(student, teacher)

    def observe(self, teacher: DetectionFeatures, batch: DetectionBatch) -> None:
        self.levels.observe(teacher)

    def forward(self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch) -> Tensor:
        maps = self.levels(student, teacher).values()
        return torch.stack([hint_loss(s, t, self.norm) for s, t in maps]).sum()


class Mimicry(DetectionTerm):
    """sum (F^T - f(F^S))^2 / N over all levels: FGD's global loss without its context blocks, the rest being the same.

    Args:
        strides, normalize, reduction: as of FGD, whose control this is; the adapter is the same too.
    """

    name = "mimicry"
    summary = "maps, all places alike"

    def __init__(self, strides: Sequence[int] = (), normalize: bool = True, reduction: str = "mean"):
        super().__init__()
        self.reduction = check_reduction(self.name, reduction)
        self.observes = flag(self.name, "normalize", normalize)
        self.levels = Levels(self.name, strides, normalize)

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures) -> None:
        self.levels.build(student, teacher)

    def observe(self, teacher: DetectionFeatures, batch: DetectionBatch) -> None:
        self.levels.observe(teacher)

    def forward(self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch) -> Tensor:
        maps = self.levels(student, teacher).values()
        total = torch.stack([squared_difference(s, t) for s, t in maps]).sum()
        return total / sum(t[0].numel() for _, t in maps) if self.reduction == "mean" else total
