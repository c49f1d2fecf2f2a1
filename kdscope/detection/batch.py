"""What the terms of a detection objective see: a batch in one pixel frame, and what a detector says of it.

Teacher and student are shown the same transformed and padded images, and their heads are asked about the same rows
(anchors, locations or proposals), so that every comparison is one of like with like.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

PROPOSED = "roi-teacher"  # the rows of the box head that the teacher's own first stage proposes


def filled(values: Sequence[float], like: Tensor) -> Tensor:
    """A few numbers as a tensor [n] of `like`'s kind, written on its device: a copy from the host would wait for it.

    >>> filled((3, 4), torch.zeros(1))
    tensor([3., 4.])
    """
    return torch.cat([like.new_full((1,), value) for value in values])


@dataclass(frozen=True)
class Rows:
    """What a head says of each of its rows; the same row is the same anchor, location or proposal in all detectors.

    Attributes:
        logits: [R, K]: K = C + 1 of a softmax with the background first, C sigmoids of a one-stage head, or the one
            logit of a region proposal network.
        deltas: [R, 4], or [R, K, 4] where the regression is one of each class (the box head of Faster R-CNN).
        centreness: [R], of FCOS alone.
    """

    logits: Tensor
    deltas: Tensor
    centreness: Tensor | None = None


@dataclass(frozen=True)
class RowTargets:
    """What the ground truth says of the rows of a head.

    Attributes:
        labels: [R] int64: a class from 1, 0 for the background, -1 for a row that the detector's own matcher ignores.
        deltas: [R, 4] float32, what a perfect regression would say; meaningless where the label is not positive.
        sampled: [R] bool, the rows that the detector's own loss counts.
        scores: "softmax" or "sigmoid", how logits become probabilities.
        delta_weights: of the box coder, (x, y, w, h): deltas divided by them are in units of the anchor's own size.
            None where deltas are distances to the sides (l, t, r, b), of FCOS: in strides (`box_errors`).
        normaliser: what the detector divides the sum of its regression losses by: one number, or one of each row [R]
            (RetinaNet counts the positives of each image). Divide first and sum then, and both are right.
    """

    labels: Tensor
    deltas: Tensor
    sampled: Tensor
    scores: str
    delta_weights: tuple[float, float, float, float] | None
    normaliser: float | Tensor


@dataclass(frozen=True)
class DetectionFeatures:
    """What one detector says of a batch.

    Attributes:
        maps: stride to feature map [N, C, H, W], finest first; without the max-pooled extra level of Faster R-CNN.
        rows: by head: "dense" of a one-stage detector, "rpn" and "roi" of a two-stage one, whose rows of "roi" are the
            proposals that the student sampled; and where a term asks for them, PROPOSED.
        losses: of a student that learns, the detector's own losses by torchvision's names; with a gradient.
    """

    maps: dict[int, Tensor]
    rows: dict[str, Rows] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectionBatch:
    """A batch after the detector's own transform: resized, normalised, padded to one size.

    Attributes:
        images: [N, 3, H, W] float32, padded on the right and at the bottom.
        sizes: (height, width) of each image without its padding.
        boxes: of each image [n, 4] float32, (x1, y1, x2, y2) in pixels of the padded frame.
        labels: of each image [n] int64, from 1.
        index: [N] int64, which images of the split these are.
        targets: of the rows of each head.
    """

    images: Tensor
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    index: Tensor
    targets: dict[str, RowTargets] = field(default_factory=dict)
