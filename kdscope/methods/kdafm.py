"""Knowledge distillation via attention-based feature matching: Ji, Heo & Park, "Show, Attend and Distill", AAAI 2021.

Which layer of the student learns from which layer of the teacher is learnt: for each teacher layer t, a softmax over
the student's layers s of query (teacher) times key (student) gives alpha, and

L = sum_t mean_B sum_s alpha_{t,s} mean_{HW} (v_s - v_t)^2,    v = vec(mean_c F^2) / ||vec(mean_c F^2)||_2.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kdscope.attention.activation import activation_map
from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import to_grid, vector
from kdscope.methods.term import Layers, Term


def feature_matching_loss(student_maps: list[Tensor], teacher_maps: list[Tensor], attention: Tensor) -> Tensor:
    """Distances of all pairs of attention maps, weighted by how much a teacher's layer attends to a student's.

    Args:
        student_maps: S feature maps [B, C_s, H_s, W_s]. Their attention maps are averaged to the teacher's grid, or
            repeated where it is finer: after the square, as for attention transfer.
        teacher_maps: T feature maps [B, C_t, H_t, W_t].
        attention: [B, T, S], non-negative, each row summing to one.

    Returns:
        A scalar >= 0. With one layer on each side and equal grids it is the loss of attention transfer.

    >>> F_s, F_t = torch.ones(1, 1, 2, 2), torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    >>> float(feature_matching_loss([F_s], [F_t], torch.ones(1, 1, 1)))
    0.25
    """
    energies = [activation_map(student).unsqueeze(1) for student in student_maps]
    grids = {tuple(teacher.shape[2:]): [] for teacher in teacher_maps}
    for t, teacher in enumerate(teacher_maps):
        grids[tuple(teacher.shape[2:])].append(t)
    loss = attention.new_zeros(())
    for grid, layers in grids.items():
        v_s = torch.stack([_unit(to_grid(energy, grid)) for energy in energies], 1)  # [B, S, HW]
        v_t = torch.stack([_unit(activation_map(teacher_maps[t])) for t in layers], 1)
        distance = (v_t.unsqueeze(2) - v_s.unsqueeze(1)).square().mean(3)  # [B, T of this grid, S]
        loss = loss + (attention[:, layers] * distance).sum((1, 2)).mean()
    return loss


def _unit(energy: Tensor) -> Tensor:
    return normalize(energy.flatten(1), dim=1)


class Project(nn.Module):
    """Linear map and batch norm of vectors [B, D]."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(dim_in, dim_out), nn.BatchNorm1d(dim_out)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.norm(self.linear(vectors))


class Matching(nn.Module):
    """alpha [B, T, S] = softmax_s((W_t relu(k_s) . q_t + P_t . P_s) / sqrt(d)) from the pooled maps of all layers."""

    def __init__(self, student_dims: list[int], teacher_dims: list[int], dim: int):
        super().__init__()
        self.queries = nn.ModuleList(Project(width, dim) for width in teacher_dims)
        self.keys = nn.ModuleList(Project(width, dim) for width in student_dims)
        self.bilinear = Project(dim, dim * len(teacher_dims))
        self.student_position = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student_dims), dim)))
        self.teacher_position = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher_dims), dim)))

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        query = torch.stack([project(v) for project, v in zip(self.queries, teacher, strict=True)], 1)  # [B, T, d]
        key = torch.stack([project(v).relu() for project, v in zip(self.keys, student, strict=True)], 1)
        images, layers, dim = key.shape
        key = self.bilinear(key.flatten(0, 1)).reshape(images, layers, len(teacher), dim)
        logits = torch.einsum("bstd,btd->bts", key, query) + self.teacher_position @ self.student_position.T
        return (logits / dim**0.5).softmax(dim=2)


class AttentionFeatureMatching(Term):
    """The matching loss of all layers of one network with all of the other: by default their blocks."""

    name = "kdafm"
    reads = "features"
    summary = "attention maps of all blocks, matched by learnt attention"
    maps_only = True
    paired = False
    least_images = 2

    def __init__(self, dim: int = 128, layers: Layers = "blocks"):
        super().__init__()
        if type(dim) is not int or dim < 1:
            raise KDScopeError(f"term 'kdafm': dim is the width of queries and keys, 1 or more, not {dim!r}")
        self.dim, self.layers = dim, layers

    def build(self, student: Features, teacher: Features) -> None:
        widths = [[feature_map.shape[1] for feature_map in role.maps.values()] for role in (student, teacher)]
        self.matching = Matching(*widths, self.dim)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        ours, theirs = list(student.maps.values()), list(teacher.maps.values())
        attention = self.matching([vector(s) for s in ours], [vector(t) for t in theirs])
        return feature_matching_loss(ours, theirs, attention)


METHODS.register("kdafm")(
    Method(
        terms={CrossEntropy: 1.0, KD: 0.9, AttentionFeatureMatching: 200.0},
        title="Attention-based feature matching (AFD)",
        citation='Ji, Heo & Park, "Show, Attend and Distill", AAAI 2021, arXiv:2102.02973',
        transfers="activation attention maps of all blocks, paired by learnt attention",
        equation="L = CE + 0.9 KD + 200 sum_t mean_B sum_s alpha_{t,s} mean_{HW} (v_s - v_t)^2, T = 4",
        reference="CIFAR-10 (Gou et al., TOMM 2023, where it is called KDAFM): resnet34 -> resnet18 95.07 (student "
        "94.93, KD 95.03), wrn-28-10 -> wrn-16-2 93.84 (student 93.54, KD 93.63)",
        departures="Equation, weights and meta-network are those of the released code. For very deep networks it takes "
        "every second block (resnet110); that is `layers`. The name KDAFM is that of later tables; another method of "
        "the same year is also called AFD.",
        cost="T x S pairs of attention maps and a projection of each block",
    )
)
