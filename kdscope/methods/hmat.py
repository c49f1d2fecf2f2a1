"""HMAT, a reconstruction: Gou, Sun, Yu, Wan & Tao, "Hierarchical Multi-Attention Transfer for Knowledge Distillation",
ACM TOMM 20(2), article 51, 2023.

The abstract says what is transferred: position-based attention at the low level, activation-based at the middle and
high, channel-based at the high. The formulas could not be read. Here position and channel attention have their standard
meaning (Fu et al., "Dual Attention Network", CVPR 2019): with X [C, N] the map of a layer on N places,

P = softmax(X^T X / sqrt(C)),   A = softmax(X X^T / sqrt(N)),
L = b_p N mean (P_s - P_t)^2 + b_a sum AT + b_c C mean (A_s - A_t)^2.

What this trains is not known to be the published method, and its numbers are no reproduction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.at import attention_transfer_loss
from kdscope.methods.checks import weights
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact, same_grid, to_grid
from kdscope.methods.term import Layers, Term

LARGEST_SIDE = 16  # position attention has (H W)^2 entries: 1024^2 an image on a map of 32 x 32


def position_attention(feature_map: Tensor) -> Tensor:
    """softmax(X^T X / sqrt(C)): of each place, how it attends to all [B, N, N], from a map [B, C, H, W].

    A permutation of the channels changes nothing.

    >>> position_attention(torch.zeros(1, 3, 1, 2))
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    x = exact(feature_map).flatten(2)
    return (x.mT @ x / x.shape[1] ** 0.5).softmax(dim=2)


def channel_attention(feature_map: Tensor) -> Tensor:
    """softmax(X X^T / sqrt(N)): of each channel, how it attends to all [B, C, C], from a map [B, C, H, W].

    A permutation of the places changes nothing.

    >>> channel_attention(torch.zeros(1, 2, 3, 3))[0, 0]
    tensor([0.5000, 0.5000])
    """
    x = exact(feature_map).flatten(2)
    return (x @ x.mT / x.shape[2] ** 0.5).softmax(dim=2)


def position_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """N mean (P_s - P_t)^2 >= 0, on the coarser grid of the two and on no more than 16 x 16 places.

    >>> one, spot = torch.zeros(1, 1, 1, 2), torch.tensor([[[[4.0, 0.0]]]])
    >>> round(float(position_loss(one, spot)), 6)  # 2 (2 * 0.5^2 + 0) / 4
    0.25
    """
    student, teacher = same_grid(student_map, teacher_map)
    grid = tuple(min(side, LARGEST_SIDE) for side in student.shape[2:])
    difference = position_attention(to_grid(student, grid)) - position_attention(to_grid(teacher, grid))
    return difference.shape[1] * difference.square().mean()


def channel_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """C mean (A_s - A_t)^2 >= 0, between maps of equally many channels; the grids may differ."""
    difference = channel_attention(student_map) - channel_attention(teacher_map)
    return difference.shape[1] * difference.square().mean()


class HierarchicalAttention(Term):
    """Position, activation and channel attention, each of its own group of the pairs of layers.

    `position`, `activation` and `channel` are indices into the pairs, as in Python: 0 is the shallowest, -1 the
    deepest. For channel attention between unequal widths, a learnt 1x1 convolution with batch norm brings the student's
    channels to the teacher's.
    """

    name = "hmat"
    reads = "features"
    summary = "position, activation and channel attention"
    maps_only = True
    least_images = 2

    def __init__(
        self,
        position: Sequence[int] = (0,),
        activation: Sequence[int] = (-2, -1),
        channel: Sequence[int] = (-1,),
        position_weight: float = 1.0,
        activation_weight: float = 1000.0,
        channel_weight: float = 0.5,
        layers: Layers = "stages",
    ):
        super().__init__()
        self.layers = layers
        self.groups = {"position": position, "activation": activation, "channel": channel}
        own = {
            "position_weight": position_weight,
            "activation_weight": activation_weight,
            "channel_weight": channel_weight,
        }
        self.shares = dict(zip(self.groups, weights("hmat", **own), strict=True))
        for name, group in self.groups.items():
            if not isinstance(group, Sequence) or any(type(index) is not int for index in group):
                raise KDScopeError(f"term 'hmat': {name} is a list of indices such as [-2, -1], not {group!r}")

    def build(self, student: Features, teacher: Features) -> None:
        pairs = list(zip(student.maps.values(), teacher.maps.values(), strict=True))
        for name, group in self.groups.items():
            for index in group:
                if not -len(pairs) <= index < len(pairs):
                    raise KDScopeError(
                        f"term 'hmat': {name} asks for pair {index} of {len(pairs)}; "
                        f"they are 0 to {len(pairs) - 1}, or -1 for the deepest"
                    )
        widths = [(pairs[index][0].shape[1], pairs[index][1].shape[1]) for index in self.groups["channel"]]
        self.adapters = nn.ModuleList(nn.Identity() if s == t else conv1x1(s, t) for s, t in widths)

    def parts(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """The three losses, unweighted, each summed over its group."""
        pairs = list(zip(student.maps.values(), teacher.maps.values(), strict=True))
        zero = [torch.zeros((), device=student.logits.device)]
        adapted = zip(self.adapters, self.groups["channel"], strict=True)
        each = {
            "position": [position_loss(*pairs[i]) for i in self.groups["position"]],
            "activation": [attention_transfer_loss(*pairs[i]) for i in self.groups["activation"]],
            "channel": [channel_loss(adapter(exact(pairs[i][0])), pairs[i][1]) for adapter, i in adapted],
        }
        return {name: torch.stack(zero + losses).sum() for name, losses in each.items()}

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return sum(self.shares[name] * loss for name, loss in self.parts(student, teacher).items())


METHODS.register("hmat")(
    Method(
        terms={CrossEntropy: 1.0, HierarchicalAttention: 1.0},
        title="Hierarchical multi-attention transfer (reconstruction)",
        citation="after Gou, Sun, Yu, Wan & Tao, ACM TOMM 20(2):51, 2023, doi:10.1145/3568679",
        transfers="position attention (first stage), activation attention (last two), channel attention (last)",
        equation="L = CE + N mean (P_s - P_t)^2 + 1000 sum AT + C / 2 mean (A_s - A_t)^2",
        reference="CIFAR-10, as published: resnet34 -> resnet18 95.53 (student 94.93, KD 95.03), wrn-28-10 -> wrn-16-2 "
        "94.36 (student 93.54, KD 93.63); those are of the original, not of this reconstruction",
        departures="The published formulas and weights are not known here: position and channel attention are those "
        "of dual attention networks; activation attention has the weight of `at`, and b_p = 1 and b_c = 0.5 were "
        "chosen so that the gradient of either is 0.1 to 1 times that of the labels (small networks, fresh and half "
        "trained).",
    )
)
