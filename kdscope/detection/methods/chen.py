"""Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS 2017.

L = L_RPN + L_RCN + gamma L_Hint, where each of the first two is 1/N sum L_cls + lambda / N sum L_reg:
L_cls = mu L_hard(P_s, y) + (1 - mu) L_soft(P_s, P_t), L_soft = -sum_c w_c P_t,c log P_s,c
L_reg = smoothL1(R_s, y) + nu L_b, L_b = ||R_s - y||^2 where ||R_s - y||^2 + m > ||R_t - y||^2, else 0
Here mu is `classification` of the term "detection", 1 - mu the weight of "soft-class", lambda nu that of "bounded-box",
and gamma that of "hint" (mimicry.py), so that each part can be switched off by itself. The paper is of Faster R-CNN;
what its L_b is on FCOS, whose regression is not of anchors, is in kdscope/detection/box_errors.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.box_errors import RAW, in_boxes, worse_than_teacher
from kdscope.detection.methods.rows import RowTerm, background_of, class_deltas, row_weights
from kdscope.errors import unknown
from kdscope.methods.checks import positive, weight
from kdscope.methods.shapes import exact

KINDS = ("bounded", "mimic")


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, background: float = 1.5, scores: str = "softmax"
) -> Tensor:
    """-sum_c w_c P_t,c log P_s,c of each row [R], in nats; w_0 = `background`, all other weights 1.

    With w_0 other than 1 the smallest loss is not at P_s = P_t but at `soft_optimum(P_t)`, and it is never 0.

    Args:
        student_logits, teacher_logits: [R, K]. With "softmax" the background comes first; with "sigmoid" (one-stage
            heads, and the one logit of a region proposal network) every class is a choice of its own between itself and
            the background: -sum_c w_0 (1 - p_t) log(1 - p_s) + p_t log p_s.
        background: w_0 > 0.
        scores: "softmax" or "sigmoid".

    >>> p_t, p_s = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.5, 0.3, 0.2]])
    >>> round(float(soft_cross_entropy(p_s.log(), p_t.log())), 6)
    1.129543
    """
    student, teacher = exact(student_logits), exact(teacher_logits)
    if scores == "sigmoid":
        inverse = torch.full((), 1 / background, dtype=student.dtype, device=student.device)
        each = binary_cross_entropy_with_logits(student, teacher.sigmoid(), pos_weight=inverse, reduction="none")
        return background * each.sum(1)
    weights = torch.ones(student.shape[1], dtype=student.dtype, device=student.device)
    weights[0] = background
    return -(weights * teacher.softmax(1) * student.log_softmax(1)).sum(1)


def soft_optimum(teacher_probabilities: Tensor, background: float = 1.5) -> Tensor:
    """The P_s [R, K] at which `soft_cross_entropy` is smallest: w P_t, normalised. With the background first.

    >>> soft_optimum(torch.tensor([[0.4, 0.6]]))
    tensor([[0.5000, 0.5000]])
    """
    tilted = teacher_probabilities.clone()
    tilted[:, 0] *= background
    return tilted / tilted.sum(1, keepdim=True)


def bounded_regression(
    student: Tensor, teacher: Tensor, target: Tensor, margin: float = 0.0, units: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """L_b of each box [R]: ||R_s - y||^2 where the student is worse than the teacher less a margin.

    The teacher appears in the condition alone: the gradient is 2 (R_s - y) where ||R_s - y||^2 + m > ||R_t - y||^2, and
    0 elsewhere. A tie at m = 0 is not worse.

    Args:
        student, teacher, target: R_s, R_t and y [R, 4].
        margin: m >= 0, in squared raw deltas (fractions of the anchor's own size): the condition is on deltas / units.
        units: weights of the box coder, by which R_s, R_t and y are multiplied: (10, 10, 5, 5) of the box head and
            (1, 1, 1, 1) of the proposals. The loss itself is in the head's own units, as its smooth L1 is. Where the
            units differ, the condition even at m = 0 is not that of the head's own units: there a shift of a fraction
            of the anchor would count four times as much as a change of size by the same fraction.

    >>> y, r_s, r_t = torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 4)
    >>> r_s[:, 0], r_t[:, 0] = torch.tensor([0.3, 0.2]), torch.tensor([0.1, 0.3])
    >>> bounded_regression(r_s, r_t, y), bounded_regression(r_s, r_t, y, margin=0.06)
    (tensor([0.0900, 0.0000]), tensor([0.0900, 0.0400]))
    """
    student, target = exact(student), exact(target)
    with torch.no_grad():
        worse = worse_than_teacher(student, exact(teacher), target, margin, units)
    return torch.where(worse, (student - target).square().sum(1), 0.0)


class SoftClass(RowTerm):
    """The soft cross-entropy of each head, averaged over the rows that the detector's own loss counts.

    Args:
        background_weight: w_0; 1 is the ablation "CLS" of the paper, 1.5 its "CLS-W".
        heads, proposals: of `RowTerm`.
        background_rows: of one-stage heads alone, background rows for each with an object (`row_weights`).
    """

    name = "soft-class"
    summary = "class probabilities, the background weighed"

    def __init__(
        self,
        background_weight: float = 1.5,
        heads: Sequence[str] = (),
        background_rows: float = 3.0,
        proposals: str = "student",
    ):
        super().__init__(heads, proposals)
        self.background_weight = positive(self.name, "background_weight", background_weight)
        self.background_rows = positive(self.name, "background_rows", background_rows)

    def forward(
        self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch
    ) -> dict[str, Tensor]:
        losses = {}
        for head, ours, theirs, targets in self.compared(student, teacher, batch):
            loss = soft_cross_entropy(ours.logits, theirs.logits, self.background_weight, targets.scores)
            losses[head] = (row_weights(targets, background_of(head, self.background_rows)) * loss).sum()
        return losses


class BoundedBox(RowTerm):
    """The teacher-bounded regression of each head: the sum over rows with an object, over the detector's own number.

    On FCOS all of it is of distances as fractions of the target's size (`in_boxes`); in strides it would be ten
    times the detector's own loss of boxes, which is an IoU, and grow with the square of an object's size.

    Args:
        margin: m, in squared raw deltas. The paper gives none.
        kind: "bounded" is L_b; "mimic" is ||R_s - R_t||^2, the ablation "L2" of the paper.
        heads, proposals: of `RowTerm`.
    """

    name = "bounded-box"
    summary = "box regression, as far as the teacher is better"
    in_own_units = True

    def __init__(
        self, margin: float = 0.0, kind: str = "bounded", heads: Sequence[str] = (), proposals: str = "student"
    ):
        super().__init__(heads, proposals)
        if kind not in KINDS:
            raise unknown("kind", str(kind), KINDS, f"term {self.name!r}")
        self.margin, self.kind = weight(self.name, "margin", margin), kind

    def forward(
        self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch
    ) -> dict[str, Tensor]:
        losses = {}
        for head, *rows, targets in self.compared(student, teacher, batch):
            counted = (targets.sampled & (targets.labels > 0))[:, None]
            said = (class_deltas(each, targets.labels) for each in rows)
            # What does not count is zero before the loss: the target of a row without an object may be anything.
            ours, theirs, target = (torch.where(counted, exact(each), 0.0) for each in (*said, targets.deltas))
            if targets.delta_weights is None:
                ours, theirs, target = (in_boxes(each, target) for each in (ours, theirs, target))
            if self.kind == "bounded":
                loss = bounded_regression(ours, theirs, target, self.margin, targets.delta_weights or RAW)
            else:
                loss = (ours - theirs).square().sum(1)
            losses[head] = (loss / targets.normaliser).sum()
        return losses
