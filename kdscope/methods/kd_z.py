"""Logit standardisation: Sun, Ren, Li, Wang & Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024.

Z(v; tau) = (v - mean(v)) / (tau std(v)), mean and std over the classes of one image (algorithm 1), and
L = 0.1 CE(z_s, y) + 9 tau^2 KL(softmax(Z(z_t)) || softmax(Z(z_s))), tau = 2: the student need not have the teacher's
logit range, only its order and shape. Every image has its own temperature, and the student another than the teacher.
"""

import math

from torch import Tensor
from torch.linalg import vector_norm

from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Ensemble, Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import kd_loss, soft_loss
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact
from kdscope.methods.term import Term

VARIANTS = ("paper-text", "authors-code")
EPSILON = 1e-7  # what the authors' code adds to the standard deviation


def standardised_logits(logits: Tensor, variant: str = "paper-text") -> Tensor:
    """Logits [B, C] with mean 0 and standard deviation 1 over the classes of each image; all zero where all are equal.

    Args:
        logits: v [B, C]; a v + b with a > 0 gives the same.
        variant: the standard deviation divides by C ("paper-text") or by C - 1 ("authors-code").

    >>> import torch
    >>> standardised_logits(torch.tensor([[1.0, 5.0]])).round(decimals=4).tolist()
    [[-1.0, 1.0]]
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'kd-z'")
    centred = logits - logits.mean(dim=1, keepdim=True)
    count = logits.shape[1] - (variant == "authors-code")
    # A norm, because the gradient of Tensor.std is not a number where all logits are equal.
    return centred / (vector_norm(centred, dim=1, keepdim=True) / math.sqrt(count) + EPSILON)


def standardised_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0, variant: str = "paper-text"
) -> Tensor:
    """tau^2 KL(softmax(Z(z_t) / tau) || softmax(Z(z_s) / tau)), averaged over images; in nats, >= 0.

    Args:
        student_logits, teacher_logits: [B, C]; zero loss where one is a positive affine function of the other.
        temperature: the base temperature tau > 0.

    With two classes only the sign of the difference is left, so that the loss has no gradient.

    >>> import torch
    >>> loss = standardised_kd_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 0.0]]))
    >>> round(float(loss), 4)  # 4 tanh(1/2)
    1.8485
    """
    student, teacher = standardised_logits(student_logits, variant), standardised_logits(teacher_logits, variant)
    return kd_loss(student, teacher, temperature)


class StandardisedKD(Term):
    """KD of standardised logits; each of several teachers is standardised by itself, before they are averaged."""

    name = "kd-z"
    reads = "logits"
    summary = "standardised logits"

    def __init__(self, temperature: float = 2.0, variant: str = "paper-text"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'kd-z'")
        self.temperature = positive("kd-z", "temperature", temperature)
        self.variant = variant

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        views = (self._standardised(view).log_probs(self.temperature) for view in (student, teacher))
        return soft_loss(*views, self.temperature)

    def _standardised(self, view: Features) -> Features:
        if isinstance(view, Ensemble):
            return Ensemble.of([self._standardised(member) for member in view.members], view.weights, view.how)
        return Features(standardised_logits(exact(view.logits), self.variant))


METHODS.register("kd-z")(
    Method(
        terms={CrossEntropy: 0.1, StandardisedKD: 9.0},
        title="Logit standardisation",
        citation="Sun, Ren, Li, Wang & Cao, CVPR 2024, arXiv:2403.01427",
        family="logits",
        transfers="z-scores of the logits: order and shape, not the range",
        equation="0.1 CE(z_s, y) + 9 tau^2 KL(softmax(Z(z_t) / tau) || softmax(Z(z_s) / tau)), "
        "Z(v) = (v - mean v) / std v, tau = 2",
        reference="CIFAR-100, KD -> KD of standardised logits: ResNet-56 -> ResNet-20 70.66 -> 71.43, ResNet-110 -> "
        "ResNet-32 73.08 -> 74.17, ResNet-32x4 -> ResNet-8x4 73.33 -> 76.62, WRN-40-2 -> WRN-16-2 74.92 -> 76.11, "
        "WRN-40-2 -> WRN-40-1 73.54 -> 74.37 (the authors' README); part of the gain is the weight, 90 to 1",
        departures="The standard deviation divides by C as in the paper; the authors' code divides by C - 1 (variant "
        "authors-code): a temperature 0.5 % higher at 100 classes. They used tau = 3 for some pairs (VGG-13 -> VGG-8, "
        "MobileNetV2 students). Their CTKD script turns standardisation on where the flag is off",
    )
)
