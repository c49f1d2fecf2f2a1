"""Knowledge review: Chen, Liu, Zhao & Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021.

The student's layers, from the deepest to the shallowest, are each fused with what has been reviewed so far (attention
based fusion, ABF), and the result is compared with the teacher's map of that layer by a pyramid of averages
(hierarchical context loss, HCL): a deep layer of the student helps where a shallow one learns.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact
from kdscope.methods.term import Layers, Term

LEVELS = (4, 2, 1)  # sides of the pooled maps, which weigh 1/2, 1/4, 1/8 beside the map itself
LAYERS = {"student": ["stages", "penultimate"], "teacher": ["preactivations", "penultimate"]}
WIDEST = 512  # channels of a fusion at most


def hierarchical_context_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared errors of two maps on their own grid and averaged to 4 x 4, 2 x 2 and 1 x 1; >= 0, 0 where equal.

    (MSE + 1/2 MSE_4 + 1/4 MSE_2 + 1/8 MSE_1) / (1 + 1/2 + 1/4 + 1/8), without the levels that are no coarser than the
    maps (section 3.4, and the weights of the authors' code).

    Args:
        student_map, teacher_map: [B, C, H, W], of the same shape.

    >>> one = torch.ones(1, 1, 8, 8)
    >>> board = 1 - 2.0 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2).expand(1, 1, 8, 8)  # averages to 0
    >>> float(hierarchical_context_loss(one, 0 * one)), round(float(hierarchical_context_loss(board, 0 * board)), 6)
    (1.0, 0.533333)
    """
    student, teacher = exact(student_map), exact(teacher_map)
    total, weights, weight = mse_loss(student, teacher), 1.0, 1.0
    for side in LEVELS:
        if side < min(student.shape[2:]):
            weight /= 2
            weights += weight
            pooled = adaptive_avg_pool2d(student, side), adaptive_avg_pool2d(teacher, side)
            total = total + weight * mse_loss(*pooled)
    return total / weights


class Fusion(nn.Module):
    """Attention based fusion: a layer's map and what was reviewed of the deeper ones, each by its own attention map.

    Args:
        channels: of the student's map.
        middle: of the reviewed map.
        teacher_channels: of the output.
        deepest: whether there is nothing to fuse with.
    """

    def __init__(self, channels: int, middle: int, teacher_channels: int, deepest: bool):
        super().__init__()
        self.inward = conv1x1(channels, middle)
        self.outward = nn.Sequential(
            nn.Conv2d(middle, teacher_channels, 3, padding=1, bias=False), nn.BatchNorm2d(teacher_channels)
        )
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())
        for conv in (self.inward[0], self.outward[0]):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, reviewed: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The output [B, C_t, *grid] and the reviewed map [B, middle, *grid] for the next layer."""
        x = self.inward(x)
        if self.attention is not None and reviewed is not None:
            reviewed = _resized(reviewed, x.shape[2:])
            share = self.attention(torch.cat([x, reviewed], dim=1))
            x = x * share[:, :1] + reviewed * share[:, 1:]
        x = _resized(x, grid)
        return self.outward(x), x


def _resized(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(grid) else interpolate(x, tuple(grid), mode="nearest")


def _as_map(features: Tensor) -> Tensor:
    """A vector [B, D] as a map [B, D, 1, 1]; a map as it is."""
    return exact(features.reshape(*features.shape, 1, 1) if features.dim() == 2 else features)


class KnowledgeReview(Term):
    """The sum of the context losses over the layers: by default all stages and the pooled vector of both networks.

    `layers` are paired from the deep end; the student's and the teacher's grids and widths are arbitrary. The teacher's
    stages are taken before their ReLU, the student's behind it, as in the authors' code.
    """

    name = "reviewkd"
    reads = "features"
    summary = "all stages, each reviewed with the deeper ones"
    least_images = 2
    warmup = 20 / 240

    def __init__(self, layers: Layers = LAYERS):
        super().__init__()
        self.layers = layers
        self.fusions = nn.ModuleList()  # shallow to deep, as the maps

    def build(self, student: Features, teacher: Features) -> None:
        ours, theirs = ([_as_map(each) for each in one.maps.values()] for one in (student, teacher))
        middle, deepest = min(WIDEST, ours[-1].shape[1]), len(ours) - 1
        for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
            self.fusions.append(Fusion(s.shape[1], middle, t.shape[1], deepest=i == deepest))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        each = list(zip(self.fusions, student.maps.values(), teacher.maps.values(), strict=True))
        reviewed, losses = None, []
        for fuse, s, t in reversed(each):
            target = _as_map(t)
            output, reviewed = fuse(_as_map(s), reviewed, target.shape[2:])
            losses.append(hierarchical_context_loss(output, target))
        return torch.stack(losses).sum()


METHODS.register("reviewkd")(
    Method(
        terms={CrossEntropy: 1.0, KnowledgeReview: 1.0},
        title="Knowledge review",
        citation="Chen, Liu, Zhao & Jia, CVPR 2021, arXiv:2104.09044",
        transfers="all stages, each fused with the deeper ones of the student",
        equation="L = CE + w min(1, epoch / 20) sum_l HCL(ABF(F_s,l, reviewed), F_t,l); HCL a mean of MSEs on 4 grids",
        reference="CIFAR-100 (Zhao et al., CVPR 2022): resnet56 -> resnet20 71.89 (student 69.06, KD 70.66), "
        "resnet32x4 -> resnet8x4 75.63 (student 72.50), wrn-40-2 -> wrn-16-2 76.12 (student 73.26)",
        departures="The weight w depends on the pair in the authors' scripts: 0.6 for resnet56 -> resnet20, 1 for "
        "resnet110 -> resnet32, 5 for resnet32x4 -> resnet8x4, wide ResNets and ShuffleNetV1, 8 for ShuffleNetV2; 1 "
        "here. Shapes are read from the networks, where public code asks for them by hand; the warm-up of 20 of 240 "
        "epochs is a share of the run's. The published numbers belong to the authors' recipe (batch 128, rate 0.1).",
        cost="a fusion with a 3x3 convolution at the teacher's width for each stage, with its gradients",
    )
)
