"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017) on the levels of a detector, with the loss of classifiers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.methods.levels import check_strides, pairs
from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import unknown
from kdscope.methods.at import VARIANTS, attention_transfer_loss
from kdscope.methods.checks import positive


class DetectionAttentionTransfer(DetectionTerm):
    """The sum over the levels of the transfer losses; it sees neither widths nor scales, so there is no adapter.

    Args:
        p, variant: of `attention_transfer_loss`.
        strides: of the levels; none is all.
    """

    name = "at"
    summary = "activation attention maps"

    def __init__(self, p: float = 2.0, variant: str = "authors-code", strides: Sequence[int] = ()):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS, f"term {self.name!r}")
        self.p, self.variant = positive(self.name, "p", p), variant
        self.strides = check_strides(self.name, strides)

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures) -> None:
        pairs(self.name, student.maps, teacher.maps, self.strides)

    def forward(self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch) -> Tensor:
        maps = pairs(self.name, student.maps, teacher.maps, self.strides).values()
        return torch.stack([attention_transfer_loss(s, t, self.p, self.variant) for s, t in maps]).sum()
