"""Probabilistic knowledge transfer: Passalis & Tefas, "Learning Deep Representations with Probabilistic Knowledge
Transfer", ECCV 2018, section 3.

K(i, j) = (cos(f_i, f_j) + 1) / 2, p(j | i) = K(i, j) / sum_k K(i, k); the student is drawn to the teacher's p by KL.
"""

import torch
from torch import Tensor

from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.gram import cosines, like
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import vector
from kdscope.methods.term import Layers, Term

VARIANTS = ("authors-code", "paper-text")
SMALL = 1e-7  # within the logarithm, as in the authors' code: opposite vectors have probability 0


def pkt_loss(student: Tensor, teacher: Tensor, variant: str = "authors-code") -> Tensor:
    """KL of the students' conditional probabilities from the teacher's; float32 (float64 of float64).

    Args:
        student: vectors [B, D_s]; the length of each changes nothing.
        teacher: vectors [B, D_t].
        variant: "authors-code" is the mean over all B^2 pairs, an image with itself among them, which is what the
            released code minimises with weight 30,000; "paper-text" is the printed sum over i != j.

    >>> round(float(pkt_loss(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))), 6)
    0.029446
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'pkt'")
    alone = variant == "paper-text"
    ours, theirs = _probabilities(student, alone), _probabilities(teacher, alone)
    divergence = theirs * ((theirs + SMALL) / (ours + SMALL)).log()
    return like(divergence.sum() if alone else divergence.mean(), student)


def _probabilities(features: Tensor, alone: bool) -> Tensor:
    """p(j | i) [B, B]; `alone` leaves each image itself out."""
    kernel = (cosines(features) + 1) / 2
    if alone:
        kernel = kernel.clone().fill_diagonal_(0)
    return kernel / kernel.sum(1, keepdim=True).clamp_min(SMALL)


class PKT(Term):
    """Who is whose neighbour in a batch, by default in the vectors that enter the classifiers."""

    name = "pkt"
    reads = "features"
    summary = "probabilities of neighbours"
    least_images = 2

    def __init__(self, variant: str = "authors-code", layers: Layers = "penultimate"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'pkt'")
        self.variant, self.layers = variant, layers

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        return torch.stack([pkt_loss(vector(s), vector(t), self.variant) for s, t in pairs]).sum()


METHODS.register("pkt")(
    Method(
        terms={CrossEntropy: 1.0, PKT: 30000.0},
        title="Probabilistic knowledge transfer",
        citation="Passalis & Tefas, ECCV 2018, arXiv:1803.10837",
        family="relations",
        transfers="the probability with which each image of a batch is another's neighbour",
        equation="CE + 30000 mean_ij p_t(j|i) ln(p_t(j|i) / p_s(j|i)), p(j|i) = K_ij / sum_k K_ik, K = (cos + 1) / 2",
        reference="CIFAR-100, last epoch, student alone -> PKT: ResNet-56 -> ResNet-20 69.06 -> 70.34, ResNet-110 -> "
        "ResNet-32 71.14 -> 72.61, ResNet-32x4 -> ResNet-8x4 72.50 -> 73.64, WRN-40-2 -> WRN-16-2 73.26 -> 74.54, "
        "VGG-13 -> VGG-8 70.36 -> 72.88 (Tian et al., ICLR 2020)",
        departures="The default is the authors' code, whose weight is 30,000; the printed equation is `variant: "
        "paper-text`, about B^2 times larger (30,000 of the mean are 7.3 of the sum over 64 images). Worked out in "
        "float64: the logarithms of nearly equal probabilities cancel",
    )
)
