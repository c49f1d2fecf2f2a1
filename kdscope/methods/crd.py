"""Contrastive representation distillation: Tian, Krishnan & Isola, ICLR 2020, section 3.

Two embeddings of the same image are drawn together, and away from those of K images of other classes, by the
contrastive estimation of densities, against memories of what both networks said of every training image.
"""

import math

import torch
from torch import Tensor, distributed, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.gathered import of_all_ranks, several
from kdscope.methods.gram import unit
from kdscope.methods.method import METHODS, Method
from kdscope.methods.negatives import Negatives
from kdscope.methods.shapes import vector
from kdscope.methods.term import Layers, Term, TrainingData

SMALL = 1e-7  # in both denominators, as in the authors' code
POSITIVES = ("exact", "relax")


def contrast_loss(scores: Tensor, images: int, valid: Tensor | None = None) -> Tensor:
    """-1/B [sum ln x_0 / (x_0 + c) + sum_k ln c / (x_k + c)], c = m / N: the NCE of one positive and m negatives; >= 0.

    Args:
        scores: x [B, 1 + K], densities up to the constant Z; that of the positive first.
        images: N, over which the noise is uniform.
        valid: bool [B, 1 + K], which of the scores are there at all, and so m; None: all.

    >>> round(float(contrast_loss(torch.full((3, 5), 0.4), images=10)), 5)  # m = 4: 5 ln 2
    3.46574
    """
    negatives = scores[:, 1:]
    if valid is None:
        noise = negatives.shape[1] / images
    else:
        noise = valid[:, 1:].sum(1, keepdim=True).clamp_min(1).to(scores.dtype) / images
    own = (scores[:, :1] / (scores[:, :1] + noise + SMALL)).log()
    others = (noise / (negatives + noise + SMALL)).log()
    if valid is not None:
        others = torch.where(valid[:, 1:], others, 0.0)
    return -(own.sum() + others.sum()) / len(scores)


def scores_against(embedded: Tensor, memory: Tensor, index: Tensor, temperature: float) -> Tensor:
    """exp(M_index . e / tau) [B, 1 + K] of embeddings [B, D], rows of a memory [N, D] and indices [B, 1 + K].

    All N products are made, in float32, and the wanted ones taken: 2 B N D operations, but not the B (1 + K) D numbers
    that gathering the rows first would copy (0.5 GB at B = 64, K = 16,384, D = 128). bf16 would be 2 % wrong.
    """
    return ((embedded @ memory.T).gather(1, index) / temperature).exp()


def renewed(rows: Tensor, embedded: Tensor, momentum: float) -> Tensor:
    """Rows [B, D] of a memory after a step: momentum times the old and the rest of the new, at length 1.

    >>> renewed(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    return unit(momentum * rows + (1 - momentum) * embedded)


class CRD(Term):
    """Both embeddings, linear and of length 1, learn; what they said of each image is remembered, and saved.

    What is drawn is a function of the image and the step, never of the order of a batch or of the rank: negatives are
    drawn by the image's index and a clock that begins at a number from torch's generator, and is saved. Where several
    processes train together, all of them write what all have seen, so that their memories stay the same. In evaluation
    nothing is written.

    With `queue` Q, the last Q embeddings and their labels stand for the memory (as in MoCo, He et al., CVPR 2020): the
    positive is the other network's own embedding of the image, the negatives are those of the queue of other classes.
    It takes 2 Q D numbers whatever the data, 17 MB at Q = 16,384 and D = 128. The memories of N = 1,000,000 images take
    1 GB, as much again while a step is under way, and 0.5 GB for the products of a batch of 64 with them. A queue needs
    no index of images.

    Args:
        temperature: tau.
        momentum: share of the old in a memory's new row.
        negatives: K, cut to what the largest class leaves.
        embed: width of the embeddings.
        positives: "exact", the image itself, or "relax", any of its class (the names of the authors' code).
        queue: length of the queue, 0 for a memory of every image.
    """

    name = "crd"
    reads = "features"
    summary = "contrast with other images"

    def __init__(
        self,
        temperature: float = 0.07,
        momentum: float = 0.5,
        negatives: int = 16384,
        embed: int = 128,
        positives: str = "exact",
        queue: int = 0,
        layers: Layers = "penultimate",
    ):
        super().__init__()
        for setting, value, least in (("negatives", negatives, 1), ("embed", embed, 1), ("queue", queue, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise KDScopeError(f"term 'crd': {setting} must be a whole number of at least {least}, not {value!r}")
        if positives not in POSITIVES:
            raise unknown("positives", positives, POSITIVES, "term 'crd'")
        if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum < 1:
            raise KDScopeError(f"term 'crd': momentum must be a number in [0, 1), not {momentum!r}")
        self.temperature = positive("crd", "temperature", temperature)
        self.momentum, self.negatives, self.embed = momentum, negatives, embed
        self.positives, self.queue, self.layers = positives, queue, layers
        self.images: int | None = None

    def know(self, data: TrainingData) -> None:
        self.images = len(data.labels)
        if not self.queue:
            self.draw = Negatives(data.labels, self.negatives)

    def build(self, student: Features, teacher: Features) -> None:
        if self.images is None:
            raise KDScopeError(
                "term 'crd' must know the training part: Objective(..., data=TrainingData(labels, count))"
            )
        if len(student.maps) != 1:
            raise KDScopeError(f"term 'crd' compares one layer, and `layers` gives {', '.join(student.maps)}")
        (ours,), (theirs,) = ([vector(m).shape[1] for m in side.maps.values()] for side in (student, teacher))
        self.student, self.teacher = nn.Linear(ours, self.embed), nn.Linear(theirs, self.embed)
        bound = 1 / math.sqrt(self.embed / 3)
        rows = self.queue or self.images
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(rows, self.embed).uniform_(-bound, bound))
        self.register_buffer("student_z", torch.zeros(()))  # the constant Z of the scores of each network; 0: not set
        self.register_buffer("teacher_z", torch.zeros(()))
        self.register_buffer("clock", torch.randint(2**31, ()))
        if self.queue:
            self.register_buffer("queue_labels", torch.full((rows,), -1))
            self.register_buffer("queue_place", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        if batch.index is None and not self.queue:
            raise KDScopeError(
                "term 'crd' needs Batch.index, which image is which; or a queue, --set terms.crd.queue=16384"
            )
        (s,), (t,) = student.maps.values(), teacher.maps.values()
        s, t = unit(self.student(vector(s))), unit(self.teacher(vector(t)))
        if self.queue:
            of_student, of_teacher, valid = self._queued(s, t, batch)
        else:
            of_student, of_teacher, valid = self._remembered(s, t, batch)
        loss = 0.0
        for name, scores in (("student_z", of_student), ("teacher_z", of_teacher)):
            loss = loss + contrast_loss(scores / self._constant(name, scores, valid), self.images, valid)
        if self.training:
            self._write(s.detach(), t.detach(), batch)
        return loss

    def _remembered(self, s: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor, None]:
        """Scores of each network's embedding against the other's memory."""
        key = self.clock * self.images + batch.index
        own = batch.index if self.positives == "exact" else self.draw.same_class(batch.label, key)
        index = torch.cat([own[:, None], self.draw(batch.label, key)], dim=1)
        # Copies: the backward pass needs the memories as they were before this step wrote to them.
        ours, theirs = self.student_memory.clone(), self.teacher_memory.clone()
        scores = scores_against(s, theirs, index, self.temperature), scores_against(t, ours, index, self.temperature)
        return *scores, None

    def _queued(self, s: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same with a queue, and which of its places are of other classes."""
        own = torch.stack([(s * t.detach()).sum(1), (t * s.detach()).sum(1)])
        others = torch.stack([s @ self.teacher_memory.clone().T, t @ self.student_memory.clone().T])
        scores = (torch.cat([own[:, :, None], others], dim=2) / self.temperature).exp()
        valid = batch.label[:, None] != self.queue_labels
        return scores[0], scores[1], torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)

    def _constant(self, name: str, scores: Tensor, valid: Tensor | None) -> Tensor:
        """Z: N times the mean score of the first batch that was trained on, and the same from then on."""
        scores = scores.detach()
        mean = scores.mean() if valid is None else (scores * valid).sum() / valid.sum()
        if several():
            distributed.all_reduce(mean)
            mean = mean / distributed.get_world_size()
        kept = getattr(self, name)
        constant = torch.where(kept > 0, kept, mean * self.images)
        if self.training:
            kept.copy_(constant)
        return constant

    @torch.no_grad()
    def _write(self, s: Tensor, t: Tensor, batch: Batch) -> None:
        """Remember what both networks said of this batch, on all ranks."""
        which = batch.label if self.queue else batch.index
        s, t, which = (of_all_ranks(each) for each in (s, t, which))
        self.clock += 1
        if self.queue:
            s, t, which = s[-self.queue :], t[-self.queue :], which[-self.queue :]
            place = (self.queue_place + torch.arange(len(which), device=which.device)) % self.queue
            self.queue_labels.index_copy_(0, place, which)
            self.queue_place.add_(len(which)).remainder_(self.queue)
        else:
            place = which
            s = renewed(self.student_memory[place], s, self.momentum)
            t = renewed(self.teacher_memory[place], t, self.momentum)
        self.student_memory.index_copy_(0, place, s)
        self.teacher_memory.index_copy_(0, place, t)


METHODS.register("crd")(
    Method(
        terms={CrossEntropy: 1.0, CRD: 0.8},
        title="Contrastive representation distillation",
        citation="Tian, Krishnan & Isola, ICLR 2020, arXiv:1910.10699",
        family="relations",
        transfers="what tells an image's vector from those of images of other classes",
        equation="CE + 0.8 (NCE(e_s, M_t) + NCE(e_t, M_s)), x = exp(e . M_k / 0.07) / Z, K = 16384 negatives",
        reference="CIFAR-100, last epoch, student alone -> CRD: ResNet-56 -> ResNet-20 69.06 -> 71.16, ResNet-110 -> "
        "ResNet-32 71.14 -> 73.48, ResNet-32x4 -> ResNet-8x4 72.50 -> 75.51, WRN-40-2 -> WRN-16-2 73.26 -> 75.48, "
        "VGG-13 -> VGG-8 70.36 -> 73.94 (Tian et al., ICLR 2020)",
        departures="Negatives are drawn on the device, as an arithmetic progression in an order by class, by image and "
        "step (public code draws 16,384 of 49,500 on the host for each image, and copies them). Where the largest "
        "class leaves fewer than K, K is what it leaves, without replacement. The paper's CRD + KD is `crd+kd` with "
        "terms {kd: {weight: 1}, cross-entropy: {weight: 1}}; `crd+kd` alone keeps 0.1 CE + 0.9 KD. Memories are the "
        "same on all ranks; public code loses what replicas write. `queue` is not in the paper",
    )
)
