"""Teacher-free KD with a designed teacher: Yuan, Tay, Li, Wang & Feng, "Revisiting Knowledge Distillation via Label
Smoothing Regularization", CVPR 2020, section 5 (Tf-KD_reg).

The virtual teacher is always right: p^d(c) = a for the right class and (1 - a) / (C - 1) for each other, a = 0.99.
L = (1 - l) CE(z_s, y) + l KL(p^d_tau || p_s), l = 0.1, tau = 20. A control for what KD owes to softness alone: the
target knows nothing of which classes are alike.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact
from kdscope.methods.term import Term

VARIANTS = ("authors-code", "paper-text")


def virtual_teacher_loss(
    student_logits: Tensor,
    label: Tensor,
    temperature: float = 20.0,
    correct: float = 0.99,
    variant: str = "authors-code",
) -> Tensor:
    """KL(p^d_tau || p_s), averaged over images; in nats, >= 0.

    Args:
        student_logits: z_s [B, C], C >= 2.
        label: right classes [B], int64.
        temperature: tau > 0.
        correct: a in (0, 1), the virtual teacher's probability of the right class.
        variant: "authors-code", what the published numbers were trained with, is p^d_tau = softmax(p^d / tau), as if
            probabilities were logits, against softmax(z_s); nearly uniform at tau = 20. "paper-text" tempers both
            distributions: p^d_tau proportional to p^d to the power 1 / tau, against softmax(z_s / tau).

    >>> z_s, y = torch.tensor([[math.log(99), 0.0]]), torch.tensor([0])
    >>> abs(round(float(virtual_teacher_loss(z_s, y, variant="paper-text")), 6))  # z_s is the virtual teacher
    0.0
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'tf-kd-reg'")
    classes = student_logits.shape[1]
    others = (1 - correct) / (classes - 1)
    right = torch.arange(classes, device=label.device) == label.unsqueeze(1)
    if variant == "authors-code":
        student, high, low = student_logits, correct, others
    else:
        student, high, low = student_logits / temperature, math.log(correct), math.log(others)
    teacher = (low + (high - low) * right.to(student.dtype)) / temperature
    return kl_div(log_softmax(student, 1), log_softmax(teacher, 1), reduction="batchmean", log_target=True)


class VirtualTeacher(Term):
    """A teacher made from the labels alone."""

    name = "tf-kd-reg"
    reads = "labels"
    summary = "a virtual teacher"

    def __init__(self, temperature: float = 20.0, correct: float = 0.99, variant: str = "authors-code"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'tf-kd-reg'")
        if isinstance(correct, bool) or not isinstance(correct, int | float) or not 0 < correct < 1:
            raise KDScopeError(f"term 'tf-kd-reg': correct must be a probability in (0, 1), not {correct!r}")
        self.temperature = positive("tf-kd-reg", "temperature", temperature)
        self.correct, self.variant = float(correct), variant

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        return virtual_teacher_loss(exact(student.logits), batch.label, self.temperature, self.correct, self.variant)


METHODS.register("tf-kd-reg")(
    Method(
        terms={CrossEntropy: 0.9, VirtualTeacher: 0.1},
        title="Teacher-free KD with a designed teacher",
        citation="Yuan, Tay, Li, Wang & Feng, CVPR 2020, arXiv:1909.11723",
        family="baseline",
        transfers="nothing: the soft target is made from the label (a control for what soft targets alone do)",
        equation="0.9 CE(z_s, y) + 0.1 KL(softmax(p^d / tau) || softmax(z_s)), p^d(y) = 0.99, tau = 20",
        reference="CIFAR-100, 200 epochs, networks alone: ResNet-18 75.87, MobileNetV2 68.38, ShuffleNetV2 70.34 (the "
        "authors' README); ImageNet: up to 0.65 above training alone (abstract)",
        departures="KL is averaged over images; the authors' code averages over classes too and multiplies by 100 for "
        "ResNet-18, which is the same at 100 classes, but by 1 for MobileNetV2 (with weight 0.95, tau = 40). The "
        "virtual teacher is softened as in that code, not as in the paper's equation (variant paper-text)",
    )
)
