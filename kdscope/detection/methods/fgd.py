"""FGD: Yang, Li, Jiang, Gong, Yuan, Zhao & Yuan, "Focal and Global Knowledge Distillation for Detectors", CVPR 2022.

For each level of the feature pyramid, with the student's map f(F^S) adapted to the teacher's width, N images:
G^S = mean_c |F|, A^S = HW softmax(G^S / T) over places; G^C = mean_hw |F|, A^C = C softmax(G^C / T) over channels;
L_fea = alpha sum_fg (M S) A^S_T A^C_T (F^T - F^S)^2 + beta sum_bg (1 - M) S A^S_T A^C_T (F^T - F^S)^2     (eq. 8)
L_at = gamma (|A^S_T - A^S_S|_1 + |A^C_T - A^C_S|_1)     (eq. 9)
L_global = lambda sum (R(F^T) - R(F^S))^2, R a global context block     (eq. 11)
All are sums over C, H and W divided by N, added up over the levels. The teacher's attention carries no gradient.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdscope.detection.batch import DetectionBatch, DetectionFeatures, filled
from kdscope.detection.methods.gcblock import GlobalContext
from kdscope.detection.methods.levels import Levels, check_reduction, squared_difference
from kdscope.detection.methods.masks import box_masks, stacked
from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import unknown
from kdscope.methods.checks import flag, positive, weights

VARIANTS = ("code", "paper")
REFERENCES = ("padded", "image")


@dataclass(frozen=True)
class Weights:
    """alpha (foreground), beta (background), gamma (attention), lambda (global) and the temperature T."""

    alpha: float
    beta: float
    gamma: float
    lambda_: float
    temperature: float = 0.5


# The official configs, by the student's family. They belong to 800 x 1333 pixels and 256 channels. No detector here is
# of the families gfl, solo, reppoints and yolox: those are weights alone, without the levels that each distils.
OFFICIAL = {
    "two-stage": Weights(5e-5, 2.5e-5, 5e-5, 5e-7),
    "retinanet": Weights(1e-3, 5e-4, 5e-4, 5e-6),
    "gfl": Weights(1e-3, 5e-4, 5e-4, 5e-6),
    "solo": Weights(1e-3, 5e-4, 5e-4, 5e-6),
    "reppoints": Weights(1.6e-3, 8e-4, 8e-4, 8e-6),
    "fcos": Weights(1.6e-3, 8e-4, 8e-4, 8e-6, temperature=0.8),
    "yolox": Weights(2e-3, 1e-3, 1e-3, 1e-5),
}


def attention(feature_map: Tensor, temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    """A^S [N, H, W] and A^C [N, C] of a map [N, C, H, W], in its dtype; >= 0, of mean 1; equations 4 to 7.

    >>> places, channels = attention(torch.tensor([[[[1.0, 0.0]]]]))
    >>> places, channels
    (tensor([[[1.7616, 0.2384]]]), tensor([[1.]]))
    """
    energy = feature_map.abs()
    places, channels = energy.mean(1), energy.mean((2, 3))
    spatial = places[0].numel() * (places.flatten(1) / temperature).softmax(1).view_as(places)
    return spatial, channels.shape[1] * (channels / temperature).softmax(1)


def feature_loss(
    student: Tensor, teacher: Tensor, focus: tuple[Tensor, Tensor], masks: Sequence[Tensor]
) -> list[Tensor]:
    """The focal part, for each mask sum mask A^S A^C (F^T - F^S)^2 / N; >= 0, and 0 where the maps are equal.

    Its gradient is 2 mask A^S A^C (F^S - F^T) / N.

    Args:
        student, teacher: maps [N, C, H, W] of one shape.
        focus: A^S [N, H, W] and A^C [N, C] of the teacher.
        masks: foreground and background [N, H, W], from `box_masks`.

    >>> t, s = torch.tensor([[[[1.0, 0.0]]]]), torch.zeros(1, 1, 1, 2)
    >>> [round(float(loss), 4) for loss in feature_loss(s, t, attention(t), [torch.tensor([[[0.5, 0.0]]])])]
    [0.8808]
    """
    places, channels = focus
    squares = torch.einsum("nchw,nc->nhw", (student - teacher).square(), channels) * places
    return [(squares * mask.to(squares)).sum() / len(squares) for mask in masks]


def attention_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """(|A^S_T - A^S_S|_1 + |A^C_T - A^C_S|_1) / N of two results of `attention`; in [0, 2 (HW + C)], 0 where equal.

    >>> s, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    >>> round(float(attention_loss(attention(s), attention(t))), 4)
    1.5232
    """
    return sum((ours - theirs).abs().sum() for ours, theirs in zip(student, teacher, strict=True)) / len(student[0])


def global_loss(student_relation: Tensor, teacher_relation: Tensor) -> Tensor:
    """sum (R(F^T) - R(F^S))^2 / N of two maps [N, C, H, W], which a `GlobalContext` gave; >= 0.

    >>> float(global_loss(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)))
    2.0
    """
    return squared_difference(student_relation, teacher_relation)


class FGD(DetectionTerm):
    """The four losses of FGD over all levels; a weight of 0 leaves its part out.

    Args:
        alpha, beta, gamma, lambda_, temperature: None takes the value of `family`.
        family: of OFFICIAL, or "auto": by what heads the student has.
        strides: of the levels; none is all. The max-pooled level of Faster R-CNN is no level, as in the authors' code.
        box_reference: what the grid of a padded image covers: "padded" is right; "image" is the authors' code, which
            divides boxes by the size without padding and so shifts the masks of images smaller than their batch.
        normalize: divide both maps of a level by the teacher's root mean square.
        reduction: "sum" is the paper; "mean" divides the sums over all levels by constants, the focal parts by C, the
            attention by sum_l (H_l W_l + C) and the global part by sum_l C H_l W_l, so that a weight that suits one
            image size and width suits another.
        variant: "code" trains one context block for the student and one for the teacher on every level; "paper" writes
            a single R, which both then share.
    """

    name = "fgd"
    summary = "maps inside and outside of boxes, attention, and global relations"
    balanced: ClassVar = {  # what OFFICIAL["retinanet"] makes of maps of unit variance, 256 x 800 x 1333
        "foreground": ("alpha", 0.118),
        "background": ("beta", 0.020),
        "attention": ("gamma", 0.016),
        "global": ("lambda_", 0.846),
    }

    def __init__(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        lambda_: float | None = None,
        temperature: float | None = None,
        family: str = "auto",
        strides: Sequence[int] = (),
        box_reference: str = "padded",
        normalize: bool = False,
        reduction: str = "sum",
        variant: str = "code",
    ):
        super().__init__()
        for setting, value, known in (
            ("family", family, ("auto", *OFFICIAL)),
            ("box_reference", box_reference, REFERENCES),
            ("variant", variant, VARIANTS),
        ):
            if value not in known:
                raise unknown(setting, str(value), known, "term 'fgd'")
        self.family, self.box_reference, self.variant = family, box_reference, variant
        self.reduction = check_reduction(self.name, reduction)
        self.observes = flag(self.name, "normalize", normalize)
        self.levels = Levels(self.name, strides, normalize)
        self._given = {"alpha": alpha, "beta": beta, "gamma": gamma, "lambda_": lambda_, "temperature": temperature}
        self._settle("retinanet" if family == "auto" else family)  # bad numbers are found before any network runs

    def _settle(self, family: str) -> None:
        """Take what was not given from the official weights of `family`."""
        official = vars(OFFICIAL[family])
        chosen = {name: official[name] if value is None else value for name, value in self._given.items()}
        self.temperature = positive(self.name, "temperature", chosen.pop("temperature"))
        each = zip(self.balanced, weights(self.name, **chosen), strict=True)
        self.weights = {part: weight for part, weight in each if weight > 0}
        self.parts = tuple(self.weights)

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures) -> None:
        self._settle(family_of(student) if self.family == "auto" else self.family)
        self.levels.build(student, teacher)
        if "global" in self.weights:
            self.relations, self.teacher_relations = nn.ModuleDict(), nn.ModuleDict()
            for stride in map(str, self.levels.strides):
                channels = teacher.maps[int(stride)].shape[1]
                self.relations[stride] = GlobalContext(channels)
                if self.variant == "code":
                    self.teacher_relations[stride] = GlobalContext(channels)

    def observe(self, teacher: DetectionFeatures, batch: DetectionBatch) -> None:
        self.levels.observe(teacher)

    def forward(
        self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch
    ) -> dict[str, Tensor]:
        boxes, frame = stacked(batch.boxes), tuple(batch.images.shape[2:])
        if self.box_reference == "image":
            frame = filled(list(itertools.chain(*batch.sizes)), boxes).view(-1, 2)
        maps = self.levels(student, teacher)
        each = [self._level(str(stride), s, t, boxes, frame) for stride, (s, t) in maps.items()]
        sizes = _sizes([t for _, t in maps.values()]) if self.reduction == "mean" else dict.fromkeys(self.weights, 1)
        totals = {part: sum(level[part] for level in each) for part in self.weights}
        return {part: weight / sizes[part] * totals[part] for part, weight in self.weights.items()}

    def _level(
        self, stride: str, student: Tensor, teacher: Tensor, boxes: Tensor, frame: Tensor | tuple[int, int]
    ) -> dict[str, Tensor]:
        """The parts of one level, not yet weighed."""
        losses = {}
        with torch.no_grad():
            theirs = attention(teacher, self.temperature)
        if "foreground" in self.weights or "background" in self.weights:
            masks = box_masks(boxes, frame, teacher.shape[2:])
            losses["foreground"], losses["background"] = feature_loss(student, teacher, theirs, masks)
        if "attention" in self.weights:
            losses["attention"] = attention_loss(attention(student, self.temperature), theirs)
        if "global" in self.weights:
            ours = self.relations[stride]
            other = self.teacher_relations[stride] if self.variant == "code" else ours
            losses["global"] = global_loss(ours(student), other(teacher))
        return losses


def _sizes(maps: Sequence[Tensor]) -> dict[str, float]:
    """What `reduction="mean"` divides each part by, from the teacher's maps of all levels."""
    channels, places = [t.shape[1] for t in maps], [t[0, 0].numel() for t in maps]
    width = sum(channels) / len(maps)
    elements = sum(c * n for c, n in zip(channels, places, strict=True))
    return {"foreground": width, "background": width, "attention": sum(places) + sum(channels), "global": elements}


def family_of(student: DetectionFeatures) -> str:
    """The family of OFFICIAL whose heads a detector has; "retinanet", the one-stage weights, where none tells.

    >>> family_of(DetectionFeatures({}))
    'retinanet'
    """
    if "rpn" in student.rows:
        return "two-stage"
    return "fcos" if any(rows.centreness is not None for rows in student.rows.values()) else "retinanet"
