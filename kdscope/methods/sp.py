"""Similarity-preserving distillation: Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.

Q = vec(F) (B rows), G = Q Q^T with each row divided by its length; L = ||G_t - G_s||_F^2 / B^2.
"""

import torch
from torch import Tensor

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.gram import gram, like, unit
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Layers, Term


def similarity_preserving_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared distance of the two matrices of similarities over B^2; in [0, 4 / B], float32 (float64 of float64).

    Args:
        student_map: [B, C_s, H_s, W_s], or vectors [B, D_s]; scaling all, or rearranging places, changes nothing.
        teacher_map: the same of the teacher, of any other width and grid.

    >>> round(float(similarity_preserving_loss(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))), 6)  # 1 - 1 / √2
    0.292893
    """
    ours, theirs = unit(gram(student_map)), unit(gram(teacher_map))
    return like((ours - theirs).square().mean(), student_map)


class SimilarityPreserving(Term):
    """Which images of a batch excite a layer alike; by default the last stage of both networks."""

    name = "sp"
    reads = "features"
    summary = "similarities of images"
    least_images = 2

    def __init__(self, layers: Layers = "stages:-1"):
        super().__init__()
        self.layers = layers

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        return torch.stack([similarity_preserving_loss(s, t) for s, t in pairs]).sum()


METHODS.register("sp")(
    Method(
        terms={CrossEntropy: 1.0, SimilarityPreserving: 3000.0},
        title="Similarity-preserving distillation",
        citation="Tung & Mori, ICCV 2019, arXiv:1907.09682",
        family="relations",
        transfers="which images of a batch excite the last stage alike",
        equation="CE + 3000 ||G_t - G_s||_F^2 / B^2, G = rows of vec(F) vec(F)^T at length 1",
        reference="CIFAR-100, last epoch, student alone -> SP: ResNet-56 -> ResNet-20 69.06 -> 69.67, ResNet-110 -> "
        "ResNet-32 71.14 -> 72.69, ResNet-32x4 -> ResNet-8x4 72.50 -> 72.94, WRN-40-2 -> WRN-16-2 73.26 -> 73.83, "
        "VGG-13 -> VGG-8 70.36 -> 72.68 (Tian et al., ICLR 2020)",
        departures="None from the paper; 3000 is the weight of RepDistiller and mdistiller. Worked out "
        "in float64. Public code that departs: torchdistill divides rows by their L1 norm (0.25 for 0.292893 on two "
        "images); views fail on channels-last maps in RepDistiller and mdistiller",
    )
)
