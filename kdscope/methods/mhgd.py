"""MHGD: Lee & Song, "Graph-based Knowledge Distillation by Multi-head Attention Network", BMVC 2019, arXiv:1907.02226.

Each stage map is compressed to its strongest right singular vector, the student's aligned with the teacher's (as KD-SVD
does). Attention heads between consecutive stages first learn on the teacher alone (`mhgd_heads`). Then they are frozen,
and the graph that they see in the student's vectors is drawn to the one in the teacher's: with G = softmax(tanh S),

    L_transfer = sum over pairs of stages, heads and images of KL(G_student || G_teacher).

The controls that put another graph in the place of the learned one: `mhgd_graphs`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.checks import flag, positive, weight
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.mhgd_graphs import GRAPHS, targets
from kdscope.methods.mhgd_heads import AttentionHeads, Estimator, drop_heads, estimation_loss, moments
from kdscope.methods.shapes import conv1x1, exact
from kdscope.methods.singular import align, top_right_vectors
from kdscope.methods.term import Layers, Phase, Term, check_share

DIRECTIONS = ("student-teacher", "teacher-student")
REDUCTIONS = ("sum", "batchmean")


def graph_divergence(
    student: Tensor, teacher: Tensor, direction: str = "student-teacher", reduction: str = "sum"
) -> Tensor:
    """Divergence of the graphs that two sets of scores [A, N, N] give by a softmax over the last axis; >= 0, in nat.

    Args:
        student, teacher: scores, bounded (tanh) or not.
        direction: "student-teacher" is KL(G_student || G_teacher), as in the authors' code; the other is reversed.
        reduction: "sum" over heads and rows, as there, or "batchmean": that over N.

    >>> S_T = 50 * torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    >>> round(float(graph_divergence(torch.zeros(1, 2, 2), S_T.tanh())), 6)
    0.867562
    """
    ours, theirs = student.log_softmax(dim=2), teacher.log_softmax(dim=2)
    if direction == "teacher-student":
        ours, theirs = theirs, ours
    mine, other, ratio = ours.exp(), theirs.exp(), ours - theirs
    # m log(m / o) - m + o sums to the same and is >= 0 for each entry, so that nearly equal graphs keep their digits.
    near = ratio.clamp(-1, 1)
    each = torch.where(ratio.abs() < 1, mine * (near + torch.expm1(-near)), mine * (ratio - 1) + other)
    total = each.sum()
    return total / student.shape[1] if reduction == "batchmean" else total


class MultiHeadGraph(Term):
    """The transfer of graphs over the layers, by default the stages, of which there must be two or more.

    Where a student's layer is not as wide as its teacher's, a learned 1x1 convolution with batch norm stands between;
    that is an extension, the paper's pairs have equal widths.

    Args:
        heads: A, of each pair of layers.
        graph: what the student's graph is drawn to, one of `kdscope.methods.mhgd_graphs.GRAPHS`; all but "trained" are
            controls.
        student_topk: singular vectors of the student among which alignment chooses.
        sign_fix: the teacher's vector has a non-negative sum; false leaves the sign to the eigensolver, as the authors'
            code does, whose teacher is then turned around for a few images in a hundred.
        drop_head: while the heads learn, about half of them are dropped for each image (not where there is one).
        tanh: scores are bounded before the softmax when they are transferred; never while the heads learn.
        kl_direction, kl_reduction: see `graph_divergence`.
        init_share: epochs in which the heads learn, as a share of the run's; 40 of 100 in the authors' code. With 0
            they stay as drawn and batch norm does nothing; graph="untrained" is the better control.
        init_lr, init_weight_decay: of those epochs, the rate constant. The authors' code has 5e-4 times the sum of
            squares in its loss without the half, so 1e-3 here.
    """

    name = "mhgd"
    reads = "features"
    maps_only = True
    summary = "graphs of the batch by attention heads"
    least_images = 2

    def __init__(
        self,
        heads: int = 8,
        graph: str = "trained",
        student_topk: int = 4,
        sign_fix: bool = True,
        drop_head: bool = True,
        tanh: bool = True,
        kl_direction: str = "student-teacher",
        kl_reduction: str = "sum",
        init_share: float = 40 / 100,
        init_lr: float = 0.1,
        init_weight_decay: float = 1e-3,
        layers: Layers = "stages",
    ):
        super().__init__()
        for setting, value, known in (
            ("graph", graph, GRAPHS),
            ("kl_direction", kl_direction, DIRECTIONS),
            ("kl_reduction", kl_reduction, REDUCTIONS),
        ):
            if value not in known:
                raise unknown(setting, str(value), known, "term 'mhgd'")
        for setting, value in (("heads", heads), ("student_topk", student_topk)):
            if positive(self.name, setting, value) != int(value):
                raise KDScopeError(f"term 'mhgd': {setting} is a whole number, not {value!r}")
        check_share(self.name, init_share)
        self.graph, self.layers = graph, layers
        self.count, self.topk = int(heads), int(student_topk)
        self.sign_fix = flag(self.name, "sign_fix", sign_fix)
        self.drop_head = flag(self.name, "drop_head", drop_head)
        self.bound: Callable[[Tensor], Tensor] = torch.tanh if flag(self.name, "tanh", tanh) else _as_it_is
        self.direction, self.reduction = kl_direction, kl_reduction
        rate, decay = positive(self.name, "init_lr", init_lr), weight(self.name, "init_weight_decay", init_weight_decay)
        self.init = Phase("attention", init_share, "term", rate, decay)
        self.adapters, self.heads, self.estimators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def build(self, student: Features, teacher: Features) -> None:
        widths = [t.shape[1] for t in teacher.maps.values()]
        if len(widths) < 2:
            raise KDScopeError(f"term 'mhgd' relates consecutive layers: it needs two or more, not {len(widths)}")
        for s, width in zip(student.maps.values(), widths, strict=True):
            self.adapters.append(nn.Identity() if s.shape[1] == width else conv1x1(s.shape[1], width))
        for front, back in pairwise(widths):
            self.heads.append(AttentionHeads(front, back, self.count))
            self.estimators.append(Estimator(front, back, self.count))

    def phases(self) -> tuple[Phase, ...]:
        return () if self.graph == "untrained" else (self.init,)

    def trained(self, phase: Phase | None) -> Iterable[nn.Parameter]:
        if phase is None:
            return self.adapters.parameters()
        return (*self.heads.parameters(), *self.estimators.parameters())

    def preparation(self) -> dict[str, Any] | None:
        return {"moments": "of the vectors", "sign_fix": self.sign_fix} if self.graph == "untrained" else None

    def prepare(self, images: Any, teacher: Callable[[Tensor], Features]) -> Mapping[str, Tensor]:
        """What batch norm must know of the teacher's vectors, where the heads learn nothing: their moments."""
        seen = [self.vectors(teacher(batch.image).maps.values()) for batch in images.plain("vectors of the teacher")]
        each = [moments(torch.cat(layer)) for layer in zip(*seen, strict=True)]
        return {name: value for k, (m, c) in enumerate(each) for name, value in ((f"mean-{k}", m), (f"cov-{k}", c))}

    def use(self, prepared: Mapping[str, Tensor]) -> None:
        for k, heads in enumerate(self.heads):
            heads.calibrate(*((prepared[f"mean-{i}"], prepared[f"cov-{i}"]) for i in (k, k + 1)))

    def vectors(self, maps: Iterable[Tensor]) -> list[Tensor]:
        """The strongest right singular vector [N, C] of each of the teacher's maps."""
        return [top_right_vectors(each, 1, self.sign_fix)[1][:, :, 0] for each in maps]

    def aligned(self, maps: Iterable[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
        """Of each of the student's maps, the vector [N, C] that is most parallel to the teacher's."""
        adapted = (adapt(exact(each)) for adapt, each in zip(self.adapters, maps, strict=True))
        return [align(top_right_vectors(s, self.topk)[1], t) for s, t in zip(adapted, vectors, strict=True)]

    def phase_loss(self, phase: Phase, student: Features | None, teacher: Features, batch: Batch) -> Tensor:
        losses = []
        for heads, estimate, (front, back) in zip(
            self.heads.train(self.training),
            self.estimators.train(self.training),
            pairwise(self.vectors(teacher.maps.values())),
            strict=True,
        ):
            graph = heads(front, back).softmax(dim=2)
            if self.drop_head and self.training:
                graph = drop_heads(graph, torch.randn_like(graph[:, :, :1]))
            losses.append(estimation_loss(estimate(front, graph), back))
        return torch.stack(losses).sum()

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        self.heads.eval()  # the statistics of the first phase, for both: the student may not change the teacher's graph
        theirs = self.vectors(teacher.maps.values())
        ours = self.aligned(student.maps.values(), theirs)
        losses = []
        for k, heads in enumerate(self.heads):
            seen = heads(ours[k], ours[k + 1]), heads(theirs[k], theirs[k + 1])
            behind = ours[k + 1], theirs[k + 1]
            bounded = targets(self.graph, *seen, behind, batch.label, batch.index, k, self.bound)
            losses.append(graph_divergence(*bounded, self.direction, self.reduction))
        return torch.stack(losses).sum()


def _as_it_is(scores: Tensor) -> Tensor:
    return scores


_REFERENCE = (
    "CIFAR-100, last epoch (slides of the talk): VGG 67.02 (student 59.97, AB 64.56, KD-SVDF 64.38), WRN-22-4 -> "
    "WRN-10-4 72.79 (student 71.62); heads 1, 2, 4, 8, 16 with VGG: 65.71, 66.41, 67.01, 67.02, 66.70. Authors' code, "
    "mean of 5: resnet32x -> resnet8x 73.98 (student 71.76, KD-EID 73.84)"
)

METHODS.register("mhgd")(
    Method(
        terms={CrossEntropy: 1.0, MultiHeadGraph: 1.0},
        title="Graph-based distillation by multi-head attention",
        citation="Lee & Song, BMVC 2019, arXiv:1907.02226",
        family="relations",
        transfers="who attends to whom in a batch, from one stage to the next, as heads trained on the teacher see it",
        equation="first the heads: min sum_i 1 - cos(v_B,i, estimate of it along G); then L = CE + sum KL(G_s || G_t), "
        "G = softmax(tanh(theta(v_B) . phi(v_F)))",
        reference=_REFERENCE,
        departures="As the authors' code of August 2019, save: the gradient of the decomposition is exact, where that "
        "code has twice the true one if a map has more places than channels, another direction if it has fewer and "
        "none near a square; the teacher's vector has a fixed sign (sign_fix=false leaves it to the eigensolver, as "
        "there); a single head is not dropped, which in that code leaves it no gradient; crops are of each image. The "
        "gradient of the transfer is clipped for each tensor to the task's (gradients: clip), so that its weight "
        "matters little. The schedule there: 100 epochs, rate 0.1, a tenth of it at 30, 60 and 80, weight decay 5e-4, "
        "batches of 128, after 40 epochs of the heads. Unequal widths get an adapter, an extension. The controls of "
        "the graph: docs/controls.md.",
        gradients="clip",
        cost="an eigendecomposition of a matrix of min(C, HW) rows for each image, stage and network",
    )
)

METHODS.register("mhgd-paper")(
    Method(
        terms={CrossEntropy: 1.0, MultiHeadGraph: 1.0},
        title="Graph-based distillation by multi-head attention, the printed rule",
        citation="Lee & Song, BMVC 2019, arXiv:1907.02226, as printed",
        family="relations",
        transfers="as mhgd",
        equation="as mhgd; per tensor g = g_CE + g_KL / (1 + exp(-max(1, ||g_CE|| / ||g_KL||)))",
        reference=_REFERENCE,
        departures="As mhgd, but with the rule for gradients that the slides print, which never caps a transfer that "
        "is too strong (gradients: clip-paper); the released code has another. The loss of the heads is printed "
        "without its sign; it is 1 - cos here too.",
        gradients="clip-paper",
        cost="as mhgd",
    )
)
