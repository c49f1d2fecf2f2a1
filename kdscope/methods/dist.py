"""DIST: Huang, You, Wang, Qian & Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.

With Y = softmax(z / tau) [B, C], the student is asked for correlation, not for equality: with the teacher's row of each
image (inter-class relation) and with its column of each class (intra-class relation).
L = CE + 2 tau^2 (beta mean_i (1 - rho(Y_s[i, :], Y_t[i, :])) + gamma mean_c (1 - rho(Y_s[:, c], Y_t[:, c]))).
"""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import log_softmax

from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive, weights
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Term

VARIANTS = ("paper-text", "authors-code")
EPSILON = 1e-8  # what the authors' code adds to the product of the norms


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    variant: str = "paper-text",
) -> Tensor:
    """tau^2 (beta inter + gamma intra), each relation in [0, 2]; zero where the two agree and nothing is constant.

    Args:
        student_logits, teacher_logits: [B, C].
        temperature: tau > 0.
        beta, gamma: weights of the relation within an image and of that within a class, >= 0.
        variant: "paper-text" is Pearson's correlation; a row or column without variance has correlation 0.
            "authors-code" adds 1e-8 to the product of the norms, which damps classes whose probability stays below
            about 1e-4 in all images of the batch.

    >>> P_s, P_t = torch.tensor([[0.8, 0.2], [0.3, 0.7]]), torch.tensor([[0.4, 0.6], [0.1, 0.9]])
    >>> round(float(dist_loss(P_s.log(), P_t.log(), temperature=1.0)), 5)  # rows -1 and 1, columns 1 and 1
    1.0
    """
    student = log_softmax(student_logits / temperature, dim=1)
    inter, intra = relations(student, log_softmax(teacher_logits / temperature, dim=1), variant)
    return temperature**2 * (beta * inter + gamma * intra)


def relations(student_log_probs: Tensor, teacher_log_probs: Tensor, variant: str) -> tuple[Tensor, Tensor]:
    """One less the mean correlation of the rows, and of the columns, of probabilities given by their logs [B, C]."""
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'dist'")
    correlation = _correlation if variant == "paper-text" else _damped_correlation
    inter, intra = (1 - correlation(student_log_probs, teacher_log_probs, dim).mean() for dim in (1, 0))
    return inter, intra


def _correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    return (_unit(student, dim) * _unit(teacher, dim)).sum(dim)


def _unit(log_probs: Tensor, dim: int) -> Tensor:
    """Centred probabilities of length 1, or zeros where they are constant but for rounding.

    Correlation does not see scale: they are first divided by their largest, which keeps those of 1e-30 from underflow.
    """
    probs = (log_probs - log_probs.detach().amax(dim, keepdim=True)).exp()
    centred = probs - probs.mean(dim, keepdim=True)
    norm = vector_norm(centred, dim=dim, keepdim=True)
    rounding = 4 * torch.finfo(probs.dtype).eps * math.sqrt(probs.shape[dim])
    return torch.where(norm > rounding, centred / norm.clamp_min(rounding), 0.0)


def _damped_correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    a, b = (probs - probs.mean(dim, keepdim=True) for probs in (student.exp(), teacher.exp()))
    return (a * b).sum(dim) / (vector_norm(a, dim=dim) * vector_norm(b, dim=dim) + EPSILON)


class DIST(Term):
    """Correlation with the teacher's probabilities, within images and within classes of the batch."""

    name = "dist"
    reads = "logits"
    summary = "correlations of probabilities"
    least_images = 2  # a column of one image is constant

    def __init__(self, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0, variant: str = "paper-text"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'dist'")
        self.temperature = positive("dist", "temperature", temperature)
        self.beta, self.gamma = weights("dist", beta=beta, gamma=gamma)
        self.variant = variant

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        views = (view.log_probs(self.temperature) for view in (student, teacher))
        inter, intra = relations(*views, self.variant)
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


_ABOUT = {
    "citation": "Huang, You, Wang, Qian & Xu, NeurIPS 2022, arXiv:2205.10536",
    "family": "relations",
    "transfers": "the order of classes within an image, and of images within a class",
}

METHODS.register("dist")(
    Method(
        terms={CrossEntropy: 1.0, DIST: 2.0},
        title="DIST: relations instead of equality",
        equation="CE(z_s, y) + 2 tau^2 (inter + intra), one less the mean Pearson correlation of the rows and of the "
        "columns of softmax(z / tau), tau = 4",
        reference="CIFAR-100, KD -> DIST: ResNet-56 -> ResNet-20 70.66 -> 71.75 (sd 0.30), ResNet-32x4 -> ResNet-8x4 "
        "73.33 -> 76.31 (0.19), WRN-40-2 -> WRN-40-1 73.54 -> 74.43 (0.24), ResNet-32x4 -> ShuffleNetV1 74.07 -> 76.34",
        departures="The correlation is exact; the authors' code adds 1e-8 to the product of norms (variant "
        "authors-code), which hardly matters at tau = 4 and 100 classes. torchdistill clamps the norms instead",
        **_ABOUT,
    )
)

METHODS.register("dist-imagenet")(
    Method(
        terms={CrossEntropy: 1.0, DIST: 2.0},
        settings={"dist": {"temperature": 1.0, "variant": "authors-code"}},
        title="DIST with the ImageNet temperature",
        equation="CE(z_s, y) + 2 (inter + intra), one less the mean Pearson correlation of the rows and of the columns "
        "of softmax(z)",
        reference="ImageNet, student alone -> DIST: ResNet-34 -> ResNet-18 69.76 -> 72.07, ResNet-50 -> MobileNetV1 "
        "70.13 -> 73.24 (the authors' README)",
        departures="None from the authors' code: the 1e-8 that it adds to the product of norms counts at tau = 1: on "
        "simulated logits of 256 images and 1000 classes it damps the mean intra-class correlation by factors of "
        "1.00 to 0.24, the more the surer both networks are",
        **_ABOUT,
    )
)
