"""Hybrid attention transfer (H-AT): Qu et al., "Hybrid Attention Transfer", PRCV 2020.

Attention transfer of where a stage looks, and beside it of which channels it uses: e = GAP(ReLU(BN(g))), where g is the
stage map of a pre-activation network and BN the batch norm that reads it next.

L = sum_i d_i [100 AT(g_s, g_t) + mean_B (1 - cos(e_s, e_t))^2],    d_i = 1, 1/10, 1/100, ... from the deepest stage up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from kdscope.data import Batch
from kdscope.features.choose import choose
from kdscope.features.features import Features
from kdscope.methods.at import attention_transfer_loss
from kdscope.methods.checks import weights
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.gathered import of_all_ranks
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact
from kdscope.methods.term import Layers, Term
from kdscope.models.watch import watch

FALL = 0.1  # of the weight, from one stage to the next shallower


def channel_vector(feature_map: Tensor) -> Tensor:
    """How much each channel is used, GAP(ReLU(F)) [B, C], of a map [B, C, H, W]; non-negative.

    >>> channel_vector(torch.tensor([[[[1.0, 3.0]], [[-1.0, 1.0]]]]))
    tensor([[2.0000, 0.5000]])
    """
    return relu(exact(feature_map)).mean((2, 3))


def channel_transfer_loss(student_vector: Tensor, teacher_vector: Tensor) -> Tensor:
    """mean_B (1 - cos)^2 of channel vectors [B, C]; in [0, 1] for non-negative ones, 0 for multiples of each other.

    >>> s, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> round(float(channel_transfer_loss(s, t)), 6)  # (1 - 1 / sqrt 2)^2
    0.085786
    """
    difference = normalize(student_vector, dim=1) - normalize(teacher_vector, dim=1)
    return (0.5 * difference.square().sum(1)).square().mean()  # 1 - cos without cancellation


def most_varied(vectors: Tensor, count: int) -> Tensor:
    """Indices, in order, of the `count` entries of unit vectors that vary most over the batch: [B, C] -> [count].

    >>> most_varied(torch.tensor([[0.0, 1.0, 5.0], [1.0, 1.0, 0.0]]), 2)
    tensor([0, 2])
    """
    return normalize(vectors, dim=1).std(0, correction=0).topk(count).indices.sort().values


def heads(network: nn.Module, layers: Sequence[str]) -> list[str]:
    """For each layer the batch norm that takes its map next, or the layer itself where none does.

    A pre-activation network normalises a stage map behind the stage; any other has done so within.

    >>> from kdscope.models import build
    >>> heads(build("wrn-10-1", num_classes=10), ["layer1", "layer3"]), heads(build("resnet8", 10), ["layer1"])
    (['layer2.0.bn1', 'bn1'], ['layer1'])
    """
    read: list[tuple[str, Tensor]] = []
    norms = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [
        m.register_forward_pre_hook(lambda m, inputs, name=name: read.append((name, inputs[0]))) for name, m in norms
    ]
    try:
        steps = {step.name: step.output for step in watch(network)}
    finally:
        for handle in handles:
            handle.remove()
    return [next((name for name, map_in in read if map_in is steps.get(layer)), layer) for layer in layers]


class HybridAttention(Term):
    """Both losses over the stages, the shallower the less; paired from the deep end.

    The channel loss compares channels by number. Where the teacher has more, those of its channels that vary most over
    the first batch stand for all in the deepest stage, for the rest of the training, and the shallower stages have no
    channel loss, as in the released code. Where the student has more, its first channels stand for the teacher's: those
    of a fresh network are exchangeable.
    """

    name = "h-at"
    reads = "features"
    summary = "activation attention maps and channel use"
    maps_only = True
    paired = False
    least_images = 2

    def __init__(self, spatial: float = 100.0, channel: float = 1.0, layers: Layers = "stages"):
        super().__init__()
        self.spatial, self.channel = weights("h-at", spatial=spatial, channel=channel)
        self.layers = layers
        self.points: dict[str, list[tuple[str, str]]] = {}
        self._asked = False  # whether this process has seen its first batch; the choice itself is saved, and wins

    def look(self, student: nn.Module, teacher: nn.Module) -> None:
        for role, network in (("student", student), ("teacher", teacher)):
            layers = choose(network, super().patterns(role))
            self.points[role] = list(zip(layers, heads(network, layers), strict=True))

    def patterns(self, role: str) -> tuple[str, ...]:
        """The layers and their heads; before the networks are known, the words for the layers."""
        if role not in self.points:
            return super().patterns(role)
        return tuple(name for names in zip(*self.points[role], strict=True) for name in names)

    def build(self, student: Features, teacher: Features) -> None:
        deepest = student[self.points["student"][-1][1]], teacher[self.points["teacher"][-1][1]]
        count = min(feature_map.shape[1] for feature_map in deepest)
        self.register_buffer("selected", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("is_selected", torch.zeros((), dtype=torch.bool))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = list(zip(reversed(self.points["student"]), reversed(self.points["teacher"]), strict=False))
        loss = torch.zeros((), device=student.logits.device)
        for depth, ((ours, our_head), (theirs, their_head)) in enumerate(pairs):
            g_s, g_t = student[ours], teacher[theirs]
            e_s, e_t = channel_vector(student[our_head]), channel_vector(teacher[their_head])
            share, narrow, wide = FALL**depth, e_s.shape[1], e_t.shape[1]
            compared = narrow == wide or depth == 0
            if compared and narrow < wide:
                index = self._select(e_t)
                g_t, e_t = g_t[:, index], e_t[:, index]
            loss = loss + share * self.spatial * attention_transfer_loss(g_s, g_t)
            if compared:
                loss = loss + share * self.channel * channel_transfer_loss(e_s[:, :wide], e_t)
        return loss

    def _select(self, vectors: Tensor) -> Tensor:
        """The teacher's channels that stand for all: chosen by the first batch, without waiting for the device.

        Where several processes train together, by what all of them have of it: so they choose alike.
        """
        if not self._asked:
            fresh = most_varied(of_all_ranks(vectors.detach()), len(self.selected))
            self.selected.copy_(torch.where(self.is_selected, self.selected, fresh))
            self.is_selected.fill_(True)
            self._asked = True
        return self.selected


METHODS.register("h-at")(
    Method(
        terms={CrossEntropy: 1.0, HybridAttention: 10.0},
        title="Hybrid attention transfer",
        citation="Qu et al., PRCV 2020",
        transfers="activation attention maps, and how much each channel is used",
        equation="L = CE + 10 sum_i d_i [100 AT_i + mean_B (1 - cos(e_s,i, e_t,i))^2], d = 1/100, 1/10, 1",
        reference="CIFAR-10 (Gou et al., TOMM 2023): resnet34 -> resnet18 95.09 (student 94.93, KD 95.03), "
        "wrn-28-10 -> wrn-16-2 93.57 (student 93.54, KD 93.63)",
        departures="Weights and selection are those of the released code, but the batch norms are those of the forward "
        "pass: the code runs the teacher's in training mode, which overwrites its statistics, updates the student's "
        "twice in each step, and loses the momentum whenever the rate drops. Networks that normalise within their "
        "stages use the stage maps, which are rectified already.",
    )
)
