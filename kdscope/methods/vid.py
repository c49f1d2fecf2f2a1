"""Variational information distillation: Ahn et al., "Variational Information Distillation for Knowledge Transfer",
CVPR 2019, equations 4 to 6.

I(t; s) >= H(t) + E log q(t | s): a Gaussian q whose mean mu(s) is a small network and whose variance is one number for
each channel, both learnt with the student. L = mean [(t - mu(s))^2 / (2 sigma_c^2) + 1/2 log sigma_c^2].
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact, same_grid
from kdscope.methods.term import Layers, Term

LEAST_VARIANCE = 1e-5


def variational_information_loss(mean: Tensor, teacher_map: Tensor, raw_variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map under the Gaussian, per element, less the constant 1/2 ln 2 pi.

    In nats; unbounded below as the variance shrinks, down to 1/2 ln 1e-5, so that it can be negative.

    Args:
        mean: mu(s) [B, C, H, W].
        teacher_map: t [B, C, H, W].
        raw_variance: alpha [C]; the variance is softplus(alpha) + 1e-5 (equation 6).

    >>> one, five = torch.ones(1, 1, 2, 2), torch.tensor([raw_of(5.0)])
    >>> round(float(variational_information_loss(one, 0 * one, five)), 6)  # (1/5 + ln 5) / 2
    0.904719
    """
    variance = (softplus(raw_variance) + LEAST_VARIANCE).reshape(1, -1, 1, 1)
    difference = exact(mean) - exact(teacher_map)
    return 0.5 * (difference.square() / variance + variance.log()).mean()


def raw_of(variance: float) -> float:
    """The alpha whose softplus, with the least variance, is `variance`."""
    return math.log(math.expm1(variance - LEAST_VARIANCE))


class Gaussian(nn.Module):
    """q(t | s) of one layer: three 1x1 convolutions give the mean, one parameter for each channel the variance."""

    def __init__(self, student_channels: int, teacher_channels: int, variance: float):
        super().__init__()
        wide = teacher_channels
        self.mean = nn.Sequential(
            conv1x1(student_channels, wide, norm=False),
            nn.ReLU(),
            conv1x1(wide, wide, norm=False),
            nn.ReLU(),
            conv1x1(wide, wide, norm=False),
        )
        self.raw_variance = nn.Parameter(torch.full((wide,), raw_of(variance)))

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        student, teacher = same_grid(exact(student_map), exact(teacher_map))
        return variational_information_loss(self.mean(student), teacher, self.raw_variance)


class VariationalInformation(Term):
    """The sum of the losses over the pairs of layers; where the grids differ, the finer map is averaged."""

    name = "vid"
    reads = "features"
    summary = "information about the teacher's maps, by a Gaussian"
    maps_only = True

    def __init__(self, variance: float = 5.0, layers: Layers = "stages"):
        super().__init__()
        if isinstance(variance, bool) or not isinstance(variance, int | float) or not LEAST_VARIANCE < variance < 100:
            raise KDScopeError(f"term 'vid': variance must be a number between 1e-5 and 100, not {variance!r}")
        self.variance, self.layers = variance, layers

    def build(self, student: Features, teacher: Features) -> None:
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        self.posteriors = nn.ModuleList(Gaussian(s.shape[1], t.shape[1], self.variance) for s, t in pairs)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        each = zip(self.posteriors, student.maps.values(), teacher.maps.values(), strict=True)
        return torch.stack([posterior(s, t) for posterior, s, t in each]).sum()


METHODS.register("vid")(
    Method(
        terms={CrossEntropy: 1.0, VariationalInformation: 1.0},
        title="Variational information distillation",
        citation="Ahn, Hu, Damianou, Lawrence & Dai, CVPR 2019, arXiv:1904.05835",
        transfers="a lower bound of the mutual information between the stages' maps",
        equation="L = CE + sum_l mean [(F_t,l - mu_l(F_s,l))^2 / (2 sigma_l^2) + ln(sigma_l^2) / 2]",
        reference="CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 70.38 (student 69.06, KD "
        "70.66), wrn-40-2 -> wrn-16-2 74.11 (student 73.26), resnet32x4 -> resnet8x4 73.09 (student 72.50)",
        departures="The regressor (three 1x1 convolutions without bias or batch norm), the start at a variance of 5 "
        "and the weight are those of the comparison of Tian et al. The variances are parameters: one popular toolkit "
        "keeps them in a plain list, where they neither learn nor are saved. Weight decay acts on them as on all "
        "else, as it does there: it pulls the variance to softplus(0) = 0.69. softplus does not overflow where log(1 "
        "+ exp) does.",
        cost="three 1x1 convolutions at the teacher's width for each stage, with their gradients",
    )
)
