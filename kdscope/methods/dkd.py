"""Decoupled knowledge distillation: Zhao, Cui, Song, Qiu & Liang, CVPR 2022, equation 7.

With b = [p_y, 1 - p_y] the probability of the right class and of all others, and p^ the softmax over the others alone,
KL(p_t || p_s) = KL(b_t || b_s) + (1 - p_t,y) KL(p^_t || p^_s). A sure teacher therefore silences the second part; DKD
weighs the two by themselves:
L = CE + min(epoch / 20, 1) T^2 (alpha KL(b_t || b_s) + beta KL(p^_t || p^_s)).

All is computed from log-probabilities. The public code takes log(softmax(.)) and becomes inf or NaN once two logits are
104 T apart in float32, or 20 T in float16.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.checks import positive, weights
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Term


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    label: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), averaged over images; in nats, >= 0, zero where the two agree.

    Args:
        student_logits, teacher_logits: [B, C], C >= 2; with two classes NCKD is zero.
        label: right classes y [B], int64.
        alpha, beta: weights of the part of the right class and of that of the others, >= 0.
        temperature: T > 0.

    >>> p_s, p_t = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])
    >>> loss = dkd_loss(p_s.log(), p_t.log(), torch.tensor([0]), temperature=1.0)
    >>> round(float(loss), 6)  # (1/4 ln 1/2 + 3/4 ln 3/2) + 8 (2/3 ln 4/3 + 1/3 ln 2/3)
    0.583876
    """
    student = log_softmax(student_logits / temperature, dim=1)
    target, others = decoupled(student, log_softmax(teacher_logits / temperature, dim=1), label)
    return temperature**2 * (alpha * target + beta * others).mean()


def decoupled(student_log_probs: Tensor, teacher_log_probs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """KL(b_t || b_s) and KL(p^_t || p^_s) of each image [B] from log-probabilities [B, C]."""
    (student, student_others), (teacher, teacher_others) = (
        _parts(log_probs, label) for log_probs in (student_log_probs, teacher_log_probs)
    )
    return _kl(teacher, student), _kl(teacher_others, student_others)


def _parts(log_probs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """log b [B, 2] and log p^ [B, C - 1]."""
    label = label.unsqueeze(1)
    column = torch.arange(log_probs.shape[1] - 1, device=label.device)
    others = log_probs.gather(1, column + (column >= label))  # every column but the label's
    binary = torch.cat([log_probs.gather(1, label), others.logsumexp(1, keepdim=True)], dim=1)
    return binary, log_softmax(others, dim=1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(1)


class DecoupledKD(Term):
    """Both parts of KD, weighed by themselves; its weight rises over the first twelfth of the epochs."""

    name = "dkd"
    reads = "logits"
    summary = "logits of the right class and of the others"
    warmup = 20 / 240

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0):
        super().__init__()
        self.alpha, self.beta = weights("dkd", alpha=alpha, beta=beta)
        self.temperature = positive("dkd", "temperature", temperature)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        views = (view.log_probs(self.temperature) for view in (student, teacher))
        target, others = decoupled(*views, batch.label)
        return self.temperature**2 * (self.alpha * target + self.beta * others).mean()


METHODS.register("dkd")(
    Method(
        terms={CrossEntropy: 1.0, DecoupledKD: 1.0},
        title="Decoupled knowledge distillation",
        citation="Zhao, Cui, Song, Qiu & Liang, CVPR 2022, arXiv:2203.08679",
        family="logits",
        transfers="how sure the teacher is of the right class, and its probabilities among the others",
        equation="CE(z_s, y) + min(epoch / 20, 1) T^2 (alpha KL(b_t || b_s) + beta KL(p^_t || p^_s)), "
        "alpha = 1, beta = 8, T = 4",
        reference="CIFAR-100, KD -> DKD: ResNet-56 -> ResNet-20 70.66 -> 71.97, ResNet-110 -> ResNet-32 73.08 -> "
        "74.11, ResNet-32x4 -> ResNet-8x4 73.33 -> 76.32 (users reach 75.8-76.2), WRN-40-2 -> WRN-16-2 74.92 -> "
        "76.23, WRN-40-2 -> WRN-40-1 73.54 -> 74.81, VGG-13 -> VGG-8 72.98 -> 74.68; ImageNet ResNet-34 -> "
        "ResNet-18 71.03 -> 71.70",
        departures="beta is a setting of the pair, not found by kdscope: 2 for ResNet-56 -> ResNet-20 and ResNet-110 "
        "-> ResNet-32, 6 for WRN-40-2 and VGG-13 teachers of CIFAR-100, 8 (default) for the others. Computed from "
        "log-probabilities: the authors' log(softmax) is infinite once logits are 104 T apart. The published numbers "
        "are of the best epoch on the test images",
    )
)
