"""Activation boundaries: Heo, Lee, Yun & Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by
Hidden Neurons", AAAI 2019, equation 6.

Not how strongly a neuron answers but whether: the student's response before the ReLU is to be above a margin where the
teacher's neuron is active, and below minus the margin where it is not. This initialises the student, which is then
trained on the task.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.fitnets import regressor
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact, same_grid
from kdscope.methods.term import Layers, Phase, Term, check_share

VARIANTS = ("authors-code", "repdistiller", "kd-methods-tf")
SCALE = 3e-3  # of the sum over neurons, in the authors' code and in all that follows it


def boundary_loss(student_map: Tensor, teacher_map: Tensor, margin: float = 1.0) -> Tensor:
    """The squared hinge of the student's responses s, summed over neurons and averaged over images; >= 0.

    (s + m)^2 where the teacher's neuron is not active (t <= 0) and s > -m; (s - m)^2 where it is (t > 0) and s < m.

    Args:
        student_map, teacher_map: responses before the ReLU [B, ...], of the same shape.
        margin: m > 0, of the unit of the student's responses.

    >>> s = torch.tensor([[-2.0, -0.5, 0.0, 2.0]])
    >>> float(boundary_loss(s, -torch.ones(1, 4))), float(boundary_loss(s, torch.ones(1, 4)))  # 0 + 1/4 + 1 + 9
    (10.25, 12.25)
    """
    student, active = exact(student_map), teacher_map > 0
    hinge = torch.where(active, margin - student, student + margin).clamp_min(0)
    return hinge.square().flatten(1).sum(dim=1).mean()


class ActivationBoundaries(Term):
    """0.003 sum_l 2^-l of the boundary losses, l counting from the deepest layer, as a training before the main one.

    Args:
        margin: see `boundary_loss`.
        variant: which connectors stand behind the student's layers, all linear and with batch norm. "authors-code": a
            1x1 convolution where the widths differ; the finer of two grids is averaged. "repdistiller": where widths
            or grids differ, a convolution to the teacher's grid. "kd-methods-tf": a 1x1 convolution everywhere, and
            the deepest layer weighs 2^(n-1), the shallowest 1.
        init_share: epochs of the phase as a share of the run's: 30 of 240 in RepDistiller, 40 of 100 in
            KD_methods_with_TF. With 0 the student starts from nowhere.
    """

    name = "ab"
    reads = "features"
    summary = "activation boundaries"
    maps_only = True
    in_main = False
    least_images = 2

    def __init__(
        self,
        margin: float = 1.0,
        variant: str = "authors-code",
        init_share: float = 30 / 240,
        layers: Layers = "preactivations",
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'ab'")
        check_share(self.name, init_share)
        self.margin = positive(self.name, "margin", margin)
        self.variant, self.init_share, self.layers = variant, init_share, layers
        self.connectors = nn.ModuleList()

    def build(self, student: Features, teacher: Features) -> None:
        for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True):
            if self.variant == "repdistiller" and s.shape[1:] != t.shape[1:]:
                self.connectors.append(regressor(s.shape[1], t.shape[1], s.shape[2:], t.shape[2:], rectify=False))
            elif self.variant == "kd-methods-tf" or s.shape[1] != t.shape[1]:
                self.connectors.append(conv1x1(s.shape[1], t.shape[1]))
            else:
                self.connectors.append(nn.Identity())

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("boundaries", self.init_share, learns="student"),)

    def trained(self, phase: Phase | None) -> Iterable[nn.Parameter]:
        return () if phase is None else self.parameters()

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        each = zip(self.connectors, student.maps.values(), teacher.maps.values(), strict=True)
        losses = [
            boundary_loss(*same_grid(connect(exact(s)), exact(t)), self.margin) for connect, s, t in each
        ]  # shallow to deep
        total = sum(2.0 ** (i - len(losses) + 1) * loss for i, loss in enumerate(losses))
        return SCALE * total * (2.0 ** (len(losses) - 1) if self.variant == "kd-methods-tf" else 1.0)


_REFERENCE = (
    "with cross-entropy alone after the phase, CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 "
    "69.47 (student 69.06, KD 70.66), resnet32x4 -> resnet8x4 73.17 (student 72.50), wrn-40-2 -> wrn-16-2 72.50 "
    "(student 73.26)"
)

METHODS.register("ab")(
    Method(
        terms={KD: 1.0, ActivationBoundaries: 1.0},
        settings={"kd": {"temperature": 3.0}},
        title="Activation boundaries, then distillation",
        citation="Heo, Lee, Yun & Choi, AAAI 2019, arXiv:1811.03233",
        transfers="whether each hidden neuron is active, as a start for the student; then logits",
        equation="first min 0.003 sum_l 2^-l mean_B sum rho(s, t), rho = max(0, s + 1)^2 if t <= 0 else "
        "max(0, 1 - s)^2; then T^2 KL at T = 3",
        reference=_REFERENCE,
        departures="The teacher is in eval mode; the authors' code leaves its batch norms in training mode during the "
        "phase, and so changes them. After the phase the authors' code has the soft loss without labels, and so here. "
        "The epochs of the phase come on top of the run's. One port reads maps behind the ReLU by a slip of a name; "
        "here both sides come from before it. The connectors are dropped after the phase.",
    )
)

METHODS.register("ab-repdistiller")(
    Method(
        terms={CrossEntropy: 1.0, ActivationBoundaries: 1.0},
        settings={"ab": {"variant": "repdistiller"}},
        title="Activation boundaries, then labels",
        citation="Heo et al., AAAI 2019, arXiv:1811.03233, as trained by Tian, Krishnan & Isola, ICLR 2020",
        transfers="whether each hidden neuron is active, as a start for the student",
        equation="first min 0.003 sum_l 2^-l mean_B sum rho(s, t), then CE",
        reference=_REFERENCE,
        departures="As for ab; here the labels alone follow.",
    )
)
