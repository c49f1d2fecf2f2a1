"""Knowledge distillation of logits (Hinton et al., 2015) on the rows of detectors' heads, which are the same rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.methods.rows import RowTerm, background_of, row_weights
from kdscope.methods.checks import positive
from kdscope.methods.kd import kd_loss
from kdscope.methods.shapes import exact


def row_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, counted: Tensor, temperature: float = 1.0, scores: str = "softmax"
) -> Tensor:
    """The sum of `kdscope.methods.kd.kd_loss` over the rows that count, one scalar in nats; >= 0.

    Args:
        student_logits, teacher_logits: [R, K].
        counted: [R] bool.
        temperature: T > 0.
        scores: "softmax", or "sigmoid", where each of the K classes is a pair of itself and the background, and the
            divergences of the classes are summed.

    >>> import math
    >>> z_t = torch.tensor([[math.log(3.0)], [0.0]])
    >>> counted = torch.tensor([True, True])
    >>> round(float(row_kd_loss(0 * z_t, z_t, counted, scores="sigmoid")), 6)  # 3/4 ln 3/2 + 1/4 ln 1/2
    0.130812
    """
    if not len(student_logits):  # of which there is no mean
        return exact(student_logits).sum()
    # Rows that do not count are made equal, and say nothing: no list of rows is made, which would wait for the device.
    student, teacher = (torch.where(counted[:, None], exact(z), 0.0) for z in (student_logits, teacher_logits))
    if scores == "sigmoid":
        student, teacher = (torch.stack([torch.zeros_like(z), z], dim=2).flatten(0, 1) for z in (student, teacher))
    return len(student) * kd_loss(student, teacher, temperature)


class DetectionKD(RowTerm):
    """The soft loss of each head, averaged over the rows that the detector's own loss counts.

    At T = 1 it has the gradient of Chen's soft cross-entropy with w_0 = 1.

    Args:
        temperature: T > 0.
        heads, proposals: of `RowTerm`.
        background_rows: of one-stage heads alone, background rows for each with an object (`row_weights`).
    """

    name = "kd"
    summary = "logits of shared rows"

    def __init__(
        self,
        temperature: float = 1.0,
        heads: Sequence[str] = (),
        background_rows: float = 3.0,
        proposals: str = "student",
    ):
        super().__init__(heads, proposals)
        self.temperature = positive(self.name, "temperature", temperature)
        self.background_rows = positive(self.name, "background_rows", background_rows)

    def forward(
        self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch
    ) -> dict[str, Tensor]:
        losses = {}
        for head, ours, theirs, targets in self.compared(student, teacher, batch):
            shares = row_weights(targets, background_of(head, self.background_rows))
            losses[head] = 0.0
            for counted in (shares.gt(0) & (targets.labels > 0), shares.gt(0) & (targets.labels == 0)):
                share = torch.where(counted, shares, 0.0).sum() / counted.sum().clamp(
                    min=1
                )  # the same for all of a kind
                loss = row_kd_loss(ours.logits, theirs.logits, counted, self.temperature, targets.scores)
                losses[head] = losses[head] + share * loss
        return losses
