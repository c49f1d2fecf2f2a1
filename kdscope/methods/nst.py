"""Neuron selectivity transfer: Huang & Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
2017, section 4.1.

Each channel of a map, as a unit vector over its places, is a sample of what neurons of this layer select. The squared
maximum mean discrepancy between the student's and the teacher's samples, with the kernel k(x, y) = (x . y)^2, is

L = mean k(x_t, x_t') + mean k(x_s, x_s') - 2 mean k(x_s, x_t) = ||G_s - G_t||_F^2,   G = 1/C sum_c x_c x_c^T.
"""

import torch
from torch import Tensor

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact, same_grid
from kdscope.methods.term import Layers, Term

DEAD = 1e-20  # mean square of a channel below which it has no direction; its unit vector is zero


def neuron_selectivity_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared MMD of the channels under the kernel (x . y)^2, averaged over images; in [0, 2].

    Zero where the channels of both are the same directions equally often: for a permutation of the channels, or
    positive and negative multiples of them.

    The pairs of channels are never made. With HW places and C_s + C_t channels, either the Gram matrices of places
    [B, HW, HW] are compared, or one of channels [B, C_s + C_t, C_s + C_t] is summed, whichever is smaller. Both work
    with d = x - u, where u is the constant unit vector: channels behind a ReLU are near to u, and the loss is a small
    difference of numbers near one, which float32 would lose.

    Args:
        student_map: [B, C_s, H_s, W_s].
        teacher_map: [B, C_t, H_t, W_t]; where the grids differ, the finer map is averaged to the coarser grid.

    >>> s, t = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> round(float(neuron_selectivity_loss(s, t)), 6)  # 1 + 1/2 - 2 * 1/2
    0.5
    """
    student, teacher = same_grid(exact(student_map), exact(teacher_map))
    d_s, a_s = _selectivity(student)
    d_t, a_t = _selectivity(teacher)
    drift = d_s.mean(1) - d_t.mean(1)
    places, channels = d_s.shape[2], d_s.shape[1] + d_t.shape[1]
    if places <= channels:
        gram = _gram(d_s) - _gram(d_t) + (drift.unsqueeze(1) + drift.unsqueeze(2)) / places**0.5
        return gram.square().sum((1, 2)).mean()
    # x . y = 1 + a_x + a_y + d_x . d_y, and the shares of all channels sum to zero: most of (x . y)^2 drops out.
    share = torch.cat(
        [d_s.new_full((d_s.shape[1],), 1 / d_s.shape[1]), d_t.new_full((d_t.shape[1],), -1 / d_t.shape[1])]
    )
    d, a = torch.cat([d_s, d_t], 1), torch.cat([a_s, a_t], 1)
    rest = a.unsqueeze(1) + a.unsqueeze(2) + d @ d.mT
    return (2 * drift.square().sum(1) + torch.einsum("bij,i,j->b", rest.square(), share, share)).mean()


def _gram(d: Tensor) -> Tensor:
    """1/C sum_c d_c d_c^T [B, HW, HW]."""
    return d.mT @ d / d.shape[1]


def _selectivity(feature_map: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel x / ||x||: its difference d from the constant unit vector u [B, C, HW], and u . d [B, C].

    With the mean m and variance v over places, and n^2 = m^2 + v, the length is sqrt(HW) n, and n - m is v / (m + n)
    without cancellation.
    """
    x = feature_map.flatten(2)
    m = x.mean(2, keepdim=True)
    e = x - m
    v = e.square().mean(2, keepdim=True)
    live = m.square() + v > DEAD
    n = torch.where(live, m.square() + v, 1.0).sqrt()
    short = torch.where(m > 0, -v / (m.abs() + n), m - n)
    d = torch.where(live, (e + short) / n, -1.0) / x.shape[2] ** 0.5
    return d, torch.where(live, short / n, -1.0).squeeze(2)


class NeuronSelectivity(Term):
    """The sum of the losses over the pairs of layers: by default the stages of both networks."""

    name = "nst"
    reads = "features"
    summary = "distribution of the channels' spatial patterns"
    maps_only = True

    def __init__(self, layers: Layers = "stages"):
        super().__init__()
        self.layers = layers

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        return torch.stack([neuron_selectivity_loss(s, t) for s, t in pairs]).sum()


METHODS.register("nst")(
    Method(
        terms={CrossEntropy: 1.0, NeuronSelectivity: 50.0},
        title="Neuron selectivity transfer",
        citation="Huang & Wang, 2017, arXiv:1707.01219",
        transfers="the distribution of what the channels of a stage select",
        equation="L = CE + 50 sum_l mean_B ||G_s,l - G_t,l||_F^2 with G = 1/C sum_c x_c x_c^T, x_c = F_c / ||F_c||_2",
        reference="CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 69.60 (student 69.06, KD "
        "70.66), resnet32x4 -> resnet8x4 73.30 (student 72.50), wrn-40-2 -> ShuffleNetV1 74.89 (student 70.50)",
        departures="Stages and weight are those of the comparison of Tian et al.; the paper transfers one layer, which "
        "is layers: 'stages:-1'. Public code makes all C_s x C_t x HW products; the Gram matrices here give the same "
        "number from a fraction of the memory.",
    )
)
