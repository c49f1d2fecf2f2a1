"""Flow of the solution procedure: Yim, Joo, Bae & Kim, "A Gift from Knowledge Distillation", CVPR 2017, section 3.

Between two layers, F_1 [C_1, h, w] and F_2 [C_2, h, w], the flow is the matrix G = F_1^T F_2 / (h w) [C_1, C_2]. The
student first learns the teacher's flows, L = sum_i lambda_i mean_x ||G_t,i - G_s,i||_F^2 (equation 2), then the task.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact
from kdscope.methods.term import Layers, Phase, Term, check_share

VARIANTS = ("paper", "kd-methods-tf", "repdistiller")


def flow(front: Tensor, back: Tensor, pool: str = "max") -> Tensor:
    """G = F_1^T F_2 / (h w) of each image [B, C_1, C_2], on the coarser grid of the two.

    Args:
        front, back: maps [B, C_1, H_1, W_1] and [B, C_2, H_2, W_2]; the finer one is pooled to the other's grid.
        pool: "max", or "avg" as in RepDistiller.

    >>> front = torch.arange(8.0).reshape(1, 2, 2, 2)
    >>> flow(front, torch.ones(1, 3, 2, 2))[0].tolist()
    [[1.5, 1.5, 1.5], [5.5, 5.5, 5.5]]
    """
    reduce = adaptive_max_pool2d if pool == "max" else adaptive_avg_pool2d
    grid = tuple(min(sizes) for sizes in zip(front.shape[2:], back.shape[2:], strict=True))
    pair = (exact(front), exact(back))
    front, back = (each if tuple(each.shape[2:]) == grid else reduce(each, grid) for each in pair)
    return front.flatten(2) @ back.flatten(2).mT / (grid[0] * grid[1])


def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], variant: str = "paper") -> Tensor:
    """Distance of the flows between consecutive maps, summed over the pairs of layers; >= 0.

    Args:
        student_maps, teacher_maps: as many maps [B, C_i, H_i, W_i] each, shallow to deep; C_i must be equal, while the
            grids need not.
        variant: "paper" is mean_x ||G_t - G_s||_F^2 with lambda_i = 1; "kd-methods-tf" is 1/2000 of that;
            "repdistiller" pools by the mean and takes the mean over the entries of G.

    Raises:
        KDScopeError: an unknown variant, or fewer than two maps.

    >>> front, back = torch.arange(8.0).reshape(1, 2, 2, 2), torch.ones(1, 3, 2, 2)
    >>> float(fsp_loss([front, back], [front + 1, back]))  # each of the 6 entries of G is off by 1
    6.0
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'fsp'")
    _check_count(student_maps)
    pool = "avg" if variant == "repdistiller" else "max"
    losses = []
    for i in range(len(student_maps) - 1):
        ours, theirs = flow(*student_maps[i : i + 2], pool), flow(*teacher_maps[i : i + 2], pool)
        square = (theirs - ours).square()
        losses.append(square.mean() if variant == "repdistiller" else square.sum(dim=(1, 2)).mean())
    return torch.stack(losses).sum() * (0.5e-3 if variant == "kd-methods-tf" else 1.0)


def _check_count(maps: Collection) -> None:
    if len(maps) < 2:
        raise KDScopeError(f"term 'fsp' compares flows between layers, so it needs two or more, not {len(maps)}")


class FlowTransfer(Term):
    """The loss of `fsp_loss` as a training of the student before the main one; it has no part in that.

    Where a student's layer is not as wide as its teacher's, a linear map of channels stands between; that is
    kdscope's extension, the paper has networks of equal widths.

    Args:
        variant: see `fsp_loss`.
        init_share: epochs of the phase as a share of the run's: 30 of 240 in RepDistiller; KD_methods_with_TF has 40 of
            100. With 0 the student starts from nowhere.
        init_lr: learning rate of the phase; None is the run's own rate and schedule. The paper's sum over C_1 C_2
            entries wants a small one, the other two variants bring the scale down themselves.
        layers: the layers between which the flows are taken.
    """

    name = "fsp"
    reads = "features"
    summary = "flow matrices between stages"
    maps_only = True
    in_main = False

    def __init__(
        self,
        variant: str = "paper",
        init_share: float = 30 / 240,
        init_lr: float | None = 0.001,
        layers: Layers = "stages",
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'fsp'")
        check_share(self.name, init_share)
        self.init_lr = None if init_lr is None else positive(self.name, "init_lr", init_lr)
        self.variant, self.init_share, self.layers = variant, init_share, layers
        self.adapters = nn.ModuleList()

    def build(self, student: Features, teacher: Features) -> None:
        _check_count(student.maps)
        for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True):
            same = s.shape[1] == t.shape[1]
            self.adapters.append(nn.Identity() if same else conv1x1(s.shape[1], t.shape[1], norm=False))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("flow", self.init_share, learns="student", lr=self.init_lr),)

    def trained(self, phase: Phase | None) -> Iterable[nn.Parameter]:
        return () if phase is None else self.parameters()

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        ours = [adapt(exact(s)) for adapt, s in zip(self.adapters, student.maps.values(), strict=True)]
        return fsp_loss(ours, list(teacher.maps.values()), self.variant)


METHODS.register("fsp")(
    Method(
        terms={CrossEntropy: 1.0, FlowTransfer: 1.0},
        title="Flow of the solution procedure",
        citation="Yim, Joo, Bae & Kim, CVPR 2017",
        transfers="the inner products of the channels of consecutive stages, as a start for the student",
        equation="first min sum_i mean ||G_t,i - G_s,i||_F^2, G = F_1^T F_2 / (h w); then CE",
        reference="CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 69.95 (student 69.06, KD "
        "70.66), resnet32x4 -> resnet8x4 72.62 (student 72.50), wrn-40-2 -> wrn-16-2 72.91 (student 73.26)",
        departures="Unequal widths get a linear adapter on the student. RepDistiller pools by the mean, where the "
        "paper takes the maximum, averages over the entries and begins with the stem's map, which is layers "
        "(variant=repdistiller, with init_lr=null); KD_methods_with_TF weighs the paper's sum by 1/2000 "
        "(variant=kd-methods-tf). torchdistill sums the norms of "
        "the columns, not their squares; that is not offered. The epochs of the phase come on top of the run's.",
    )
)
