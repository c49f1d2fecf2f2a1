"""Correlation congruence: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, section 3.

K(x, y) = exp(-2 g) sum_{p=0..P} (2 g)^p / p! (x . y)^p, the Taylor series of the Gaussian kernel of unit vectors;
L_CC = ||K_s - K_t||_F^2 / B^2 of the embedded images of a batch. RepDistiller's CC is another loss: `cc-repdistiller`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.gram import cosines, like
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import vector
from kdscope.methods.term import Layers, Term

VARIANTS = ("paper", "repdistiller")


def correlation_congruence_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """The mean squared difference of two kernel matrices; >= 0, below 1, float32 (float64 of float64).

    Args:
        student: vectors [B, D_s]; they are brought to length 1.
        teacher: vectors [B, D_t].
        gamma: of the Gaussian kernel exp(-gamma ||x - y||^2).
        order: P, that of the last term of its Taylor series.

    >>> s, t = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> round(float(correlation_congruence_loss(s, t)), 5)  # 2 (1.12 / e^0.8)^2 / 4
    0.12663
    """
    ours, theirs = (_kernel(cosines(features), gamma, order) for features in (student, teacher))
    return like((ours - theirs).square().mean(), student)


def adjacent_differences_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RepDistiller's CC: mean_i sum_d D_i D_(i+1) with D = |e_s - e_t|, over neighbours in the batch; >= 0, float32.

    It compares no two images of one network, and depends on their order. Vectors [B, D] of one width, B >= 2.

    >>> float(adjacent_differences_loss(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.zeros(3, 2)))
    25.0
    """
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum(1).mean()


def _kernel(cosine: Tensor, gamma: float, order: int) -> Tensor:
    factors = [(2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    return math.exp(-2 * gamma) * sum(factor * cosine**p for p, factor in enumerate(factors))


class CorrelationCongruence(Term):
    """Kernels between the images of a batch, of vectors that are first embedded: the student's by a matrix that learns.

    Were the teacher's embedding to learn too, both could shrink the loss by telling all images alike. So a teacher's
    vector is left as it is where it has at most `embed` numbers, which no orthogonal embedding would make different to
    a kernel, and goes through a fixed orthogonal projection where it has more. `embed` 0 compares the vectors of both
    as they are (Knowledge-Distillation-Zoo). Variant "repdistiller" embeds both, and both learn, as its code has it.
    """

    name = "cckd"
    reads = "features"
    summary = "kernels between images"
    least_images = 2

    def __init__(
        self,
        variant: str = "paper",
        gamma: float = 0.4,
        order: int = 2,
        embed: int = 128,
        layers: Layers = "penultimate",
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'cckd'")
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= 10:
            raise KDScopeError(f"term 'cckd': order is that of a Taylor series, 1 to 10, not {order!r}")
        least = 1 if variant == "repdistiller" else 0
        if isinstance(embed, bool) or not isinstance(embed, int) or embed < least:
            raise KDScopeError(f"term 'cckd': embed is a width of at least {least}, such as 128, not {embed!r}")
        self.variant, self.order, self.embed, self.layers = variant, order, embed, layers
        self.gamma = positive("cckd", "gamma", gamma)

    def build(self, student: Features, teacher: Features) -> None:
        ours = [vector(features).shape[1] for features in student.maps.values()]
        theirs = [vector(features).shape[1] for features in teacher.maps.values()]
        self.ours = nn.ModuleList(_embedding(width, self.embed) for width in ours)
        if self.variant == "repdistiller":
            self.theirs = nn.ModuleList(_embedding(width, self.embed) for width in theirs)
        else:
            self.theirs = nn.ModuleList(_Fixed(width, self.embed) for width in theirs)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        losses = []
        pairs = zip(self.ours, self.theirs, student.maps.values(), teacher.maps.values(), strict=True)
        for ours, theirs, s, t in pairs:
            both = ours(vector(s)), theirs(vector(t))
            if self.variant == "repdistiller":
                losses.append(adjacent_differences_loss(*both))
            else:
                losses.append(correlation_congruence_loss(*both, self.gamma, self.order))
        return like(torch.stack(losses).sum(), s)


def _embedding(width: int, embed: int) -> nn.Module:
    return _Linear(width, embed) if embed else nn.Identity()


class _Linear(nn.Linear):
    """A linear map worked out in float64, as the relations of what it gives are."""

    def forward(self, vectors: Tensor) -> Tensor:
        return linear(vectors.double(), self.weight.double(), self.bias.double())


class _Fixed(nn.Module):
    """A fixed projection of vectors [B, width] on `embed` orthogonal directions, or nothing where they are no wider."""

    def __init__(self, width: int, embed: int):
        super().__init__()
        projects = 0 < embed < width
        self.register_buffer("directions", nn.init.orthogonal_(torch.empty(embed, width)) if projects else None)

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors if self.directions is None else vectors.double() @ self.directions.double().T


METHODS.register("cckd")(
    Method(
        terms={CrossEntropy: 0.1, KD: 0.9, CorrelationCongruence: 0.003},
        title="Correlation congruence",
        citation="Peng, Jin, Liu, Li, Wu, Liu, Zhou & Zhang, ICCV 2019, arXiv:1904.01802",
        family="relations",
        transfers="Gaussian kernels between the images of a batch, beside the logits",
        equation="0.1 CE + 0.9 KD + 0.003 ||K_s - K_t||_F^2 / B^2, K = exp(-2g) sum_{p<=P} (2g)^p (x.y)^p / p!, "
        "g = 0.4, P = 2",
        reference="ResNet-110 -> ResNet-20, student alone -> CC without KD: CIFAR-10 92.37 -> 92.98, CIFAR-100 "
        "68.92 -> 69.33 (Knowledge-Distillation-Zoo)",
        departures="The paper's samplers are settings of the data (sampler: class:4); the default is uniform. The loss "
        "is below 1, so at the paper's 0.003 nearly all transfer is that of KD, whose share is that of `kd`. "
        "Knowledge-Distillation-Zoo has weight 100, no embedding and no KD: terms {kd: {weight: 0}, cross-entropy: "
        "{weight: 1}, cckd: {weight: 100, embed: 0}}. "
        "The teacher's embedding is fixed, since two that learn together can collapse. torchdistill takes the norm "
        "without its square, of vectors that are not normalised",
    )
)

METHODS.register("cc-repdistiller")(
    Method(
        terms={CrossEntropy: 1.0, CorrelationCongruence: 0.02},
        settings={"cckd": {"variant": "repdistiller"}},
        title="RepDistiller's CC",
        citation="code of Tian et al., ICLR 2020, arXiv:1910.10699, for Peng et al., ICCV 2019",
        family="relations",
        transfers="embedded vectors of each image, weighted by the neighbour's error",
        equation="CE + 0.02 mean_i sum_d D_i D_(i+1), D = |W_s f_s - W_t f_t|, both W learn",
        reference="CIFAR-100, last epoch, student alone -> CC: ResNet-56 -> ResNet-20 69.06 -> 69.63, ResNet-110 -> "
        "ResNet-32 71.14 -> 71.48, ResNet-32x4 -> ResNet-8x4 72.50 -> 72.97, WRN-40-2 -> WRN-16-2 73.26 -> 73.56, "
        "VGG-13 -> VGG-8 70.36 -> 70.71 (Tian et al., ICLR 2020)",
        departures="None from that code, for the sake of its table. It has no kernel and is not Peng et al.'s loss "
        "(`cckd`); it depends on the order of the batch, and both embeddings can shrink it to 0 together",
    )
)
