"""Attention transfer: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1, equation 2.

Q = sum_c A_c^2 is the attention map of a layer, q = vec(Q) / ||vec(Q)||_2; the student is drawn to the teacher's q.
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from kdscope.attention.activation import activation_map
from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Layers, Term

VARIANTS = ("authors-code", "paper-text")


def attention_transfer_loss(
    student_map: Tensor, teacher_map: Tensor, p: float = 2.0, variant: str = "authors-code"
) -> Tensor:
    """Distance of two normalised attention maps; >= 0, and 0 where one feature map is a multiple of the other.

    Args:
        student_map: feature map [B, C_s, H_s, W_s]; channels may differ from the teacher's.
        teacher_map: feature map [B, C_t, H_t, W_t]. Where the grids differ, the finer attention map is averaged to the
            coarser grid (section 3.1 resizes the maps, not the features).
        p: exponent of the activation map.
        variant: "authors-code" is mean_{B,HW} (q_s - q_t)^2, which is what the released code minimises with weight
            1000; "paper-text" is mean_B ||q_s - q_t||_2, the printed equation without its beta / 2.

    >>> F_s, F_t = torch.ones(1, 1, 2, 2), torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    >>> float(attention_transfer_loss(F_s, F_t)), float(attention_transfer_loss(F_s, F_t, variant="paper-text"))
    (0.25, 1.0)
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'at'")
    student, teacher = activation_map(student_map, p), activation_map(teacher_map, p)
    grid = tuple(min(sizes) for sizes in zip(student.shape[1:], teacher.shape[1:], strict=True))
    difference = _unit(student, grid) - _unit(teacher, grid)
    if variant == "paper-text":
        return difference.norm(dim=1).mean()
    return difference.square().mean()


def _unit(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """The map [B, H, W] on `grid`, as unit vectors [B, h * w]."""
    if tuple(attention.shape[1:]) != grid:
        attention = adaptive_avg_pool2d(attention.unsqueeze(1), grid)
    return normalize(attention.flatten(1), dim=1)


class AttentionTransfer(Term):
    """The sum of the transfer losses over the pairs of layers: by default the stages of both networks."""

    name = "at"
    reads = "features"
    summary = "activation attention maps"
    maps_only = True

    def __init__(self, p: float = 2.0, variant: str = "authors-code", layers: Layers = "stages"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'at'")
        self.p = positive("at", "p", p)
        self.variant, self.layers = variant, layers

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        return torch.stack([attention_transfer_loss(s, t, self.p, self.variant) for s, t in pairs]).sum()


METHODS.register("at")(
    Method(
        terms={CrossEntropy: 1.0, AttentionTransfer: 1000.0},
        title="Attention transfer",
        citation="Zagoruyko & Komodakis, ICLR 2017, arXiv:1612.03928",
        transfers="activation-based attention maps of the stages",
        equation="L = CE + 1000 sum_l mean_{B,HW} (q_s,l - q_t,l)^2 with Q = sum_c A_c^2, q = vec(Q) / ||vec(Q)||_2",
        reference="CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 70.55 (student 69.06, KD "
        "70.66), resnet32x4 -> resnet8x4 73.44 (student 72.50), vgg13 -> vgg8 71.43 (student 70.36)",
        departures="The printed equation has the unsquared norm and beta / 2; the released code, which gave the "
        "published numbers, has the mean of squares, and 1000 is its weight: that is the default, and the printed "
        "form is variant 'paper-text'. Where the grids differ, the finer attention map is averaged, as in the paper; "
        "RepDistiller and mdistiller average the features before they are squared. The exponent is the setting p. "
        "Public code that sums where this takes a mean, or adds 1e-6 to the norm, differs by a constant factor and by "
        "nothing visible.",
    )
)
