"""The overhaul of feature distillation: Heo, Kim, Yun, Park, Kwak & Choi, "A Comprehensive Overhaul of Feature
Distillation", ICCV 2019.

The teacher's map before the ReLU goes through a margin ReLU, max(t, m_c), whose margin is the expected negative
response of the channel, m_c = E[t_c | t_c < 0] (equation 2); the student's, through a 1x1 convolution and batch norm.
Their distance is partial (equation 4): (t - s)^2, but 0 where s <= t <= 0, since a ReLU tells no two negatives apart.
"""

import math

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact, same_grid
from kdscope.methods.term import Layers, Term

VARIANTS = ("paper", "authors-code")
RARE = 1e-3  # probability of a negative response below which the authors' code takes -3 sigma
BATCH_NORM = (nn.BatchNorm2d, nn.SyncBatchNorm)


def partial_loss(student_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    """Partial squared distance to the teacher's map behind its margin ReLU, summed, and averaged over images; >= 0.

    Args:
        student_map: s [B, C, H, W], the connector's output.
        teacher_map: t [B, C, H, W], before the ReLU.
        margin: m [C], <= 0.

    >>> s, t = torch.tensor([-3.0, 0.0, 1.0]), torch.tensor([-1.0, -9.0, 3.0])
    >>> shape = (1, 1, 1, 3)
    >>> float(partial_loss(s.reshape(shape), t.reshape(shape), torch.tensor([-2.0])))  # 0, (0 + 2)^2, (1 - 3)^2
    8.0
    """
    student = exact(student_map)
    target = torch.maximum(exact(teacher_map), margin.reshape(1, -1, 1, 1).to(student.dtype))
    counts = (student > target) | (target > 0)
    return torch.where(counts, student - target, 0).square().flatten(1).sum(dim=1).mean()


def expected_negative(mean: Tensor, std: Tensor, variant: str = "paper") -> Tensor:
    """E[x | x < 0] of x ~ N(mean, std^2), <= 0: the margin of a channel behind a batch norm with beta and |gamma|.

    mean - std phi(z) / Phi(-z) with z = mean / std, in float64 and by erfcx, so that no tail under- or overflows.

    Args:
        mean, std: [C]; a std of 0 gives min(mean, 0).
        variant: "authors-code" gives -3 std where Phi(-z) < 0.001, which is far below the expectation there.

    >>> standard = expected_negative(torch.zeros(1), torch.ones(1))
    >>> round(float(standard), 6), round(-math.sqrt(2 / math.pi), 6)
    (-0.797885, -0.797885)
    """
    mean, std = mean.double(), std.double().abs().clamp_min(1e-300)
    z = (mean / std).clamp(-1e150, 1e150)
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(z / math.sqrt(2))
    # Far above zero the hazard is z + 1 / z, and the difference would be rounding alone.
    margin = torch.where(z < 1e4, mean - std * hazard, -std / z.clamp_min(1))
    if variant == "authors-code":
        margin = torch.where(torch.special.ndtr(-z) > RARE, margin, -3 * std)
    return margin.clamp_max(0)


def batch_norm_before(network: nn.Module, layer: str) -> nn.Module | None:
    """The batch norm whose output, alone or added to a shortcut, is the map of `layer`; None where none is found.

    `layer` may be the batch norm itself, or the input of an activation (`<NAME`): then it is the one right before it in
    an `nn.Sequential`, or the last one of a residual block's main branch, as in the authors' code.

    >>> from kdscope.models import build
    >>> resnet = build("resnet8", num_classes=10)
    >>> batch_norm_before(resnet, "<layer3.0.relu#1") is resnet.layer3[0].bn2
    True
    """
    name = layer.removeprefix("<").partition("#")[0]
    modules = dict(network.named_modules())
    module = modules.get(name)
    if isinstance(module, BATCH_NORM) and not layer.startswith("<"):
        return module
    if module is None or not layer.startswith("<"):
        return None
    parent = modules[name.rpartition(".")[0]]
    children = list(parent.children())
    if isinstance(parent, nn.Sequential):
        position = children.index(module)
        children = children[position - 1 : position] if position else []
    norms = [child for child in children if isinstance(child, BATCH_NORM)]
    return norms[-1] if norms else None


class Margin(nn.Module):
    """m [C] of one layer: from the batch norm before it, or else the mean of all negative responses seen in training.

    The paper allows both (section 3.1). No negative response yet is a margin of 0.
    """

    def __init__(self, channels: int, norm: nn.Module | None, variant: str):
        super().__init__()
        self.measured = norm is None or norm.num_features != channels
        value = torch.zeros(channels)
        if not self.measured and norm.affine:
            value = expected_negative(norm.bias.detach(), norm.weight.detach(), variant).float()
        elif not self.measured:
            value = expected_negative(torch.zeros(channels), torch.ones(channels), variant).float()
        self.register_buffer("value", value)
        if self.measured:
            self.register_buffer("total", torch.zeros(channels, dtype=torch.float64))
            self.register_buffer("count", torch.zeros(channels, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, teacher_map: Tensor) -> Tensor:
        if not self.measured:
            return self.value
        total = self.total + teacher_map.clamp_max(0).double().sum(dim=(0, 2, 3))
        count = self.count + (teacher_map < 0).double().sum(dim=(0, 2, 3))
        if self.training:
            self.total.copy_(total)
            self.count.copy_(count)
        return (total / count.clamp_min(1)).float()


class Overhaul(Term):
    """sum_l 2^-l of the partial losses, l counting from the deepest layer.

    Args:
        variant: of the margins, see `expected_negative`.
        layers: of both networks, before the ReLU. The authors' positions in a wide ResNet are the batch norms behind
            the stages, such as [layer2.0.bn1, layer3.0.bn1, bn1]; "preactivations" are the sums before these there.
    """

    name = "ofd"
    reads = "features"
    summary = "maps before the ReLU, behind a margin ReLU"
    maps_only = True
    least_images = 2

    def __init__(self, variant: str = "paper", layers: Layers = "preactivations"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'ofd'")
        self.variant, self.layers = variant, layers
        self.connectors, self.margins = nn.ModuleList(), nn.ModuleList()
        self._teacher: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no part of the term

    def look(self, student: nn.Module, teacher: nn.Module) -> None:
        self._teacher = (teacher,)

    def build(self, student: Features, teacher: Features) -> None:
        for s, (layer, t) in zip(student.maps.values(), teacher.maps.items(), strict=True):
            self.connectors.append(conv1x1(s.shape[1], t.shape[1]))
            norms = [batch_norm_before(network, layer) for network in self._teacher]
            self.margins.append(Margin(t.shape[1], norms[0] if norms else None, self.variant))
        self._teacher = ()

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        each = zip(self.connectors, self.margins, student.maps.values(), teacher.maps.values(), strict=True)
        total, weight = 0.0, 2.0 ** (1 - len(self.connectors))
        for connect, margin, s, t in each:  # shallow to deep
            ours, theirs = same_grid(connect(exact(s)), exact(t))
            total = total + weight * partial_loss(ours, theirs, margin(theirs))
            weight *= 2
        return total


METHODS.register("ofd")(
    Method(
        terms={CrossEntropy: 1.0, Overhaul: 1e-3},
        title="Comprehensive overhaul of feature distillation",
        citation="Heo, Kim, Yun, Park, Kwak & Choi, ICCV 2019, arXiv:1904.01866",
        transfers="maps before the ReLU, less what a ReLU cannot tell apart",
        equation="L = CE + 0.001 sum_l 2^-l mean_B sum d_p(r(s), max(t, m)), d_p = 0 if s <= t <= 0 else (s - t)^2",
        reference="CIFAR-100 (Zhao et al., CVPR 2022): resnet56 -> resnet20 70.98 (student 69.06, KD 70.66), "
        "resnet32x4 -> resnet8x4 74.95 (student 72.50), vgg13 -> vgg8 73.95 (student 70.36)",
        departures="The margin is the expectation that the paper defines in every channel; the authors' code takes -3 "
        "sigma where a negative response is rarer than 0.001 (variant=authors-code). Of a residual sum it takes the "
        "batch norm of the main branch, and leaves the shortcut out, as that code does. Where no batch norm comes "
        "before (VGG without it, the sums of a wide ResNet) the margin is the mean of the negative responses seen so "
        "far in training. The weight 1 / 1000 is the code's for CIFAR; for ImageNet it has 1 / 10000.",
    )
)
