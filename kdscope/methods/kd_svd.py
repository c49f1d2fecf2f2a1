"""KD-SVD: Lee, Kim & Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018.

A stage map is compressed to its k strongest right singular vectors, f_j = sigma_j / ||sigma|| v_j, of which the
student's are aligned with the teacher's. The relation of consecutive stages, R = exp(-(f_B,m - f_F,n)^2 / 8) for all
pairs of channels m and n, is what the student shall have of the teacher (equations 2 to 4).
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import conv1x1, exact
from kdscope.methods.singular import align, top_right_vectors
from kdscope.methods.term import Layers, Term

VARIANTS = ("authors-code", "repdistiller", "vectors")
BANDWIDTH = 8.0
SPARE = 3  # candidates of the student beyond k, among which alignment chooses


def compressed(student_map: Tensor, teacher_map: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Compressed maps f [B, C, k] of student and teacher: aligned singular vectors, weighted by the teacher's sigma.

    Args:
        student_map: [B, C, H_s, W_s]; the student has k + 3 vectors to choose from.
        teacher_map: [B, C, H_t, W_t], of as many channels, on any grid.
        k: how many vectors.

    >>> feature_map = torch.arange(12.0).reshape(1, 3, 2, 2)
    >>> f_s, f_t = compressed(5 * feature_map, feature_map)
    >>> f_t.shape, bool((f_s - f_t).abs().max() < 1e-5)  # the scale of a map does not matter
    (torch.Size([1, 3, 1]), True)
    """
    values, target = top_right_vectors(teacher_map, k)
    _, candidates = top_right_vectors(student_map, k + SPARE)
    share = nn.functional.normalize(values, dim=1)[:, None]
    return align(candidates, target) * share, target * share


def relation(front: Tensor, back: Tensor) -> Tensor:
    """R - 1 [B, C_B, C_F, k] of compressed maps [B, C_F, k] and [B, C_B, k], in (-1, 0]; 0 where two entries are equal.

    Entries of unit vectors are small, and so R is near 1: without the 1, differences of relations keep their digits.

    >>> one = torch.ones(1, 1, 1)
    >>> round(1 + float(relation(one, -one)), 6)  # exp(-4 / 8), the least that unit vectors can have
    0.606531
    """
    return torch.expm1(-(back[:, :, None] - front[:, None]).square() / BANDWIDTH)


def singular_vector_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], k: int = 1, variant: str = "authors-code"
) -> Tensor:
    """Squared distance of the relations, summed over pairs of consecutive maps; >= 0, 0 where the maps are equal.

    Args:
        student_maps, teacher_maps: as many maps [B, C_i, H_i, W_i] each; the widths must be equal, the grids need not.
        k: singular vectors of each map.
        variant: "authors-code" sums over images too; "repdistiller" takes the mean over them; "vectors" is KD-SVDF,
            the squared distance of the compressed maps themselves, summed.

    Raises:
        KDScopeError: an unknown variant, or fewer than two maps where relations are asked for.

    >>> maps = [torch.rand(2, 4, 3, 3), torch.rand(2, 5, 3, 3)]
    >>> bool(singular_vector_loss(maps, maps) < 1e-9)
    True
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'kd-svd'")
    _check_count(student_maps, variant)
    pairs = [compressed(s, t, k) for s, t in zip(student_maps, teacher_maps, strict=True)]
    if variant == "vectors":
        return torch.stack([(s - t).square().sum() for s, t in pairs]).sum()
    losses = []
    for front, back in pairwise(pairs):
        ours, theirs = (relation(*each) for each in zip(front, back, strict=True))
        losses.append((ours - theirs).square().sum())
    total = torch.stack(losses).sum()
    return total / len(student_maps[0]) if variant == "repdistiller" else total


def _check_count(maps: Collection, variant: str) -> None:
    if len(maps) < 2 and variant != "vectors":
        raise KDScopeError(f"term 'kd-svd' compares relations of layers: it needs two or more, not {len(maps)}")


class SingularVectors(Term):
    """The loss of `singular_vector_loss` over the layers, by default the stages.

    Where a student's layer is not as wide as its teacher's, a 1x1 convolution with batch norm stands between; that is
    an extension, the paper has networks of equal widths.
    """

    name = "kd-svd"
    reads = "features"
    summary = "relations of the stages' singular vectors"
    maps_only = True
    least_images = 2

    def __init__(self, k: int = 1, variant: str = "authors-code", layers: Layers = "stages"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'kd-svd'")
        if positive(self.name, "k", k) != int(k):
            raise KDScopeError(f"term 'kd-svd': k is a number of vectors, not {k!r}")
        self.k, self.variant, self.layers = int(k), variant, layers
        self.adapters = nn.ModuleList()

    def build(self, student: Features, teacher: Features) -> None:
        _check_count(student.maps, self.variant)
        for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True):
            same = s.shape[1] == t.shape[1]
            self.adapters.append(nn.Identity() if same else conv1x1(s.shape[1], t.shape[1]))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        ours = [adapt(exact(s)) for adapt, s in zip(self.adapters, student.maps.values(), strict=True)]
        return singular_vector_loss(ours, list(teacher.maps.values()), self.k, self.variant)


METHODS.register("kd-svd")(
    Method(
        terms={CrossEntropy: 1.0, SingularVectors: 1.0},
        title="Knowledge distillation by singular value decomposition",
        citation="Lee, Kim & Song, ECCV 2018, arXiv:1807.06819",
        family="relations",
        transfers="how the strongest directions of consecutive stages lie to each other, within each image",
        equation="L = CE + sum_i ||R_s,i - R_t,i||^2, R = exp(-(f_B,m - f_F,n)^2 / 8), f = sigma / ||sigma|| v",
        reference="CIFAR-100, authors' code (KD_methods_with_TF), last epoch, mean of 5 runs: resnet32x -> resnet8x "
        "73.68 (student 71.76, their soft logits 71.79); WRN-22-4 -> WRN-10-4 71.83 (student 71.62; MHGD's table)",
        departures="The gradient of the decomposition is exact; the authors' code has twice the true one where a map "
        "has more places than channels, another direction where it has fewer, and none near a square. One popular port "
        "decomposes the matrix of (channels and rows) x columns, another uses the library's gradient, which is not "
        "finite for maps of low rank. Alignment keeps the teacher's sign, of ties the stronger direction. The gradient "
        "of the transfer is clipped for each tensor to the task's, as in that code (gradients: clip); the weight then "
        "matters little. Unequal widths get an adapter. variant=vectors is KD-SVDF. RepDistiller "
        "takes the mean over images and does not clip: variant=repdistiller with gradients=sum.",
        gradients="clip",
        cost="an eigendecomposition of a matrix of min(C, HW) rows for each image, stage and network",
    )
)
