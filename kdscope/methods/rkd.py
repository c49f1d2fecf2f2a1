"""Relational knowledge distillation: Park, Kim, Lu & Cho, CVPR 2019, section 3.2.

psi_D(i, j) = ||f_i - f_j|| / mu, mu the mean over all pairs; psi_A(i, j, k) = cos of the angle at i between j and k.
L = 25 mean_ij huber(psi_D(s), psi_D(t)) + 50 mean_ijk huber(psi_A(s), psi_A(t)), over all pairs and triples of a batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.checks import weights
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.gram import centred_gram, distances, like
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import vector
from kdscope.methods.term import Layers, Term

# Triples whose angles are there at a time, 8 bytes each in every tensor of them: what a CPU's caches hold (five times
# as fast there as the larger), and enough to keep a GPU busy.
CHUNK = {"cpu": 2**20, "cuda": 2**23}


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The distance-wise loss over all B^2 pairs, an image with itself among them; >= 0, float32 (or float64).

    Args:
        student: vectors [B, D_s]; scaling, rotating or shifting all of them changes nothing.
        teacher: vectors [B, D_t].

    Distances are divided by their mean over pairs that differ: two images alone give 0.

    >>> s = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> t = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    >>> round(float(rkd_distance_loss(s, t)), 6)  # 1 / 24
    0.041667
    """
    ours, theirs = (_relative(distances(centred_gram(features))) for features in (student, teacher))
    return like(smooth_l1_loss(ours, theirs), student)


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The angle-wise loss over all B^3 triples, degenerate ones (cosine 0) among them; >= 0, float32 (or float64).

    The angles come from inner products, (f_j - f_i) . (f_k - f_i) = G_jk - G_ij - G_ik + G_ii, so the cost is B^3
    whatever the width. They are made for some anchors i at a time and, when there is more than one such chunk, again in
    the backward pass: beside some [B, B] matrices, about seven tensors of CHUNK float64 are there at a time (measured),
    0.5 GiB on a GPU for 1,024 images. All triples at once would take 8 GiB for each tensor.

    >>> s = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> t = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    >>> round(float(rkd_angle_loss(s, t)), 6)  # 2.5 / 27
    0.092593
    """
    count = len(student)
    each = [_directions(features) for features in (student, teacher)]
    rows = torch.arange(count, device=student.device).split(max(1, CHUNK[student.device.type] // count**2))
    if len(rows) == 1:
        total = _angle_chunk(rows[0], *each[0], *each[1])
    else:
        parts = [
            checkpoint(_angle_chunk, some, *each[0], *each[1], use_reentrant=False, preserve_rng_state=False)
            for some in rows
        ]
        total = torch.stack(parts).sum()
    return like(total / count**3, student)


def rkd_loss(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """`distance` times `rkd_distance_loss` and `angle` times `rkd_angle_loss` of vectors [B, D]; 0 leaves one out."""
    loss = student.new_zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
    if distance:
        loss = loss + distance * rkd_distance_loss(student, teacher)
    if angle:
        loss = loss + angle * rkd_angle_loss(student, teacher)
    return loss


def _relative(distance: Tensor) -> Tensor:
    """Distances [B, B] over their mean where they are not 0; all 0 where none is."""
    apart = distance > 0
    mean = distance.sum() / apart.sum().clamp_min(1)
    return distance / torch.where(mean > 0, mean, 1.0)


def _directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products [B, B], and 1 / distance [B, B] with 0 for images that coincide."""
    products = centred_gram(features)
    distance = distances(products)
    apart = distance > 0
    return products, apart / torch.where(apart, distance, 1.0)


def _angle_chunk(rows: Tensor, *relations: Tensor) -> Tensor:
    """The sum of the angle-wise loss over the anchors at `rows`."""
    ours, theirs = _angles(rows, *relations[:2]), _angles(rows, *relations[2:])
    return smooth_l1_loss(ours, theirs, reduction="sum")


def _angles(rows: Tensor, products: Tensor, inverse: Tensor) -> Tensor:
    """Cosines at the anchors i of `rows` between each j and k: [R, B, B]."""
    to, per = products[rows], inverse[rows]
    inner = products - to[:, :, None] - to[:, None, :] + products.diagonal()[rows][:, None, None]
    return inner * per[:, :, None] * per[:, None, :]


class RKD(Term):
    """Distances and angles between the images of a batch, by default in the vectors that enter the classifiers."""

    name = "rkd"
    reads = "features"
    summary = "distances and angles"
    least_images = 3  # two images have one distance, which is its own mean, and no angle

    def __init__(self, distance: float = 25.0, angle: float = 50.0, layers: Layers = "penultimate"):
        super().__init__()
        self.distance, self.angle = weights("rkd", distance=distance, angle=angle)
        self.layers = layers

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = zip(student.maps.values(), teacher.maps.values(), strict=True)
        return torch.stack([rkd_loss(vector(s), vector(t), self.distance, self.angle) for s, t in pairs]).sum()


METHODS.register("rkd")(
    Method(
        terms={CrossEntropy: 1.0, RKD: 1.0},
        title="Relational knowledge distillation",
        citation="Park, Kim, Lu & Cho, CVPR 2019, arXiv:1904.05068",
        family="relations",
        transfers="distances between images, relative to their mean, and angles of triples of images",
        equation="CE + 25 mean_ij huber(D_s / mean D_s, D_t / mean D_t) + 50 mean_ijk huber(cos A_s, cos A_t)",
        reference="CIFAR-100, last epoch, student alone -> RKD: ResNet-56 -> ResNet-20 69.06 -> 69.61, ResNet-110 -> "
        "ResNet-32 71.14 -> 71.82, ResNet-32x4 -> ResNet-8x4 72.50 -> 71.90, WRN-40-2 -> WRN-16-2 73.26 -> 73.35, "
        "VGG-13 -> VGG-8 70.36 -> 71.48 (Tian et al., ICLR 2020)",
        departures="The value is that of the authors' code. Relations are worked out in float64 from centred features "
        "(under bf16 autocast public code gives 16.8 for a loss of 0.37 on features far from zero), in chunks of "
        "anchors; images that coincide are at distance 0 and give no gradient, where public code counts them as "
        "1e-6 in the mean and divides gradients by 1e-12",
    )
)
