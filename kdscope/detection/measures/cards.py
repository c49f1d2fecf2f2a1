"""The cards of the numbers of detectors: the one place that says what each is and what may be expected of it.

Tables, figures, the report, docs/measures.md and the contract tests (tests/detection/test_cards.py) read it here. These
numbers are of lists of boxes, of rows and of maps, so that they are functions and no `kdscope.measures.base.Measure`;
the card is the same, with what it is in a sentence, and whom it holds a network against.
"""

import math
from dataclasses import dataclass, replace

from kdscope.measures.base import Card

SHARE = (0.0, 1.0)
POSITIVE = (0.0, math.inf)
DIFFERENCE = (-1.0, 1.0)  # of two shares
COCO, TIDE, CHEN = "Lin et al., ECCV 2014", "Bolya et al., ECCV 2020", "Chen et al., NeurIPS 2017"
FGD, OWN = "Yang et al., CVPR 2022", "kdscope"
FOUND = ("sample-order", "detection-order", "class-relabelling", "box-scale")
PAIRED = (*FOUND, "swap")
ROWS = ("sample-order", "row-order")
MAPS = ("sample-order",)


@dataclass(frozen=True)
class DetectionCard(Card):
    """What may be expected of a number of detectors.

    Attributes:
        text: what it is.
        against: "teacher", another network; or "truth", the boxes. Of the first `direction` is what is more alike, of
            the second what is better.
    """

    text: str = ""
    against: str = "teacher"


def _card(name: str, title: str, unit: str, span: tuple[float, float], direction: str, text: str, **more) -> tuple:
    return name, DetectionCard(name, title, unit, span, direction, more.pop("citation", OWN), text=text, **more)


def _precision(name: str, title: str, text: str, **more) -> tuple:
    more = {"citation": COCO, "against": "truth", "family": "detection"} | more
    return _card(name, title, "share", SHARE, "higher", text, invariances=(*FOUND, "scores"), **more)


_AGREEMENT = [
    _card("agree-f1", "Agree-F1", "share", SHARE, "higher", "2 n / (detections of both), n pairs of one class with "
          "enough overlap; each network is cut where its own F1 is largest.", invariances=(*PAIRED, "scores")),
    _card("agree-f1-any-class", "Agree-F1 whatever the class", "share", SHARE, "higher", "Agree-F1 of boxes alone.",
          invariances=(*PAIRED, "scores")),
    _card("label-agreement", "Same label", "share", SHARE, "higher", "Of the pairs of detections of any class at IoU "
          "0.5: how often both have one label.", invariances=PAIRED),
    _card("box-iou", "IoU of paired boxes", "share", SHARE, "higher", "Mean overlap of the pairs of any class at IoU "
          "0.5.", invariances=PAIRED),
    _card("score-gap", "Difference of scores", "share", SHARE, "lower", "Mean |score_T - score_S| of the pairs of one "
          "class at IoU 0.5.", invariances=PAIRED),
    _card("fidelity-ap", "Fidelity-AP", "share", SHARE, "higher", "AP of the student where what the teacher finds, cut "
          "at its best F1, is the truth.", citation=f"{COCO}; {OWN}", invariances=(*FOUND, "scores")),
    _card("row-agreement", "Same answer of the heads", "share", SHARE, "higher", "On the same anchors, places or "
          "proposals: how often the highest class is one. FCOS multiplies its scores with the centreness, which is no "
          "part of this.", invariances=(*ROWS, "swap")),
    _card("row-kl", "KL of the heads", "nats", POSITIVE, "lower", "KL(P_T || P_S) on the same anchors, places or "
          "proposals, of sigmoids the sum over classes.", invariances=ROWS),
    _card("row-kl-tilted", "Tilted KL of the heads", "nats", POSITIVE, "lower", "As KL of the heads, from "
          "w P_T, normalised: where a soft loss weighs the background by w_0, its optimum is not the teacher.",
          citation=CHEN, invariances=ROWS),
    _card("worse-boxes", "Worse boxes", "share", SHARE, "lower", "Rows with an object where the student's box is "
          "farther off than the teacher's: there the bounded loss is active.", citation=CHEN, against="truth",
          invariances=ROWS),
]  # fmt: skip
_PRECISION = [
    _precision("ap", "Average precision", "COCO's: the mean over classes and over IoU 0.50 to 0.95."),
    _precision("ap50", "AP at IoU 0.5", "COCO's average precision where half an overlap counts as found."),
    _precision("ap75", "AP at IoU 0.75", "COCO's average precision where an overlap of 0.75 counts as found."),
    _precision("ar", "Average recall", "COCO's: recall at the largest number of detections, mean over IoU."),
    _card("ap-difference", "Difference of APs", "share", DIFFERENCE, "higher", "AP of one network less that of "
          "another, on the same images and, where both have them, seeds.", citation=COCO, against="truth",
          invariances=(*FOUND, "scores")),
]  # fmt: skip
_OUTCOMES = [
    _card("transfer", "Transfer", "share", SHARE, "higher", "Objects that the teacher found and the student alone "
          "missed: now found.", against="truth", invariances=FOUND),
    _card("beyond-teacher", "Beyond the teacher", "share", SHARE, "higher", "Objects that both missed: now found.",
          against="truth", invariances=FOUND),
    _card("harm", "Harm", "share", SHARE, "lower", "Objects that the student alone found: now missed.",
          against="truth", invariances=FOUND),
    _card("kept", "Kept", "share", SHARE, "higher", "Objects that the student alone found: still found.",
          against="truth", invariances=FOUND),
    _card("objects", "Objects", "objects", POSITIVE, "none", "By who finds them: T teacher, B student alone, K "
          "student; small letters: does not.", against="truth", invariances=FOUND),
    _card("error-cost", "Cost of a kind of mistake", "share", SHARE, "lower", "AP50 that an oracle for it would gain.",
          citation=TIDE, against="truth", invariances=FOUND),
    _card("errors-per-image", "Mistakes", "mistakes an image", POSITIVE, "lower", "Of one kind, of all detections.",
          citation=TIDE, against="truth", invariances=FOUND),
    _card("inherited-false-positives", "Inherited false positives", "share", SHARE, "higher", "Of the student's false "
          "positives those that are its teacher's too: one class, IoU of at least 0.5.", citation=f"{TIDE}; {OWN}",
          invariances=FOUND),
]  # fmt: skip
_EIB = "Wang et al., CVPR workshops 2020"
_ATTENTION = [
    _card("energy-in-boxes", "Attention in the boxes", "share", SHARE, "higher", "Share of the attention on cells of "
          "objects. Unless normalised it depends on units.", citation=_EIB, against="truth", invariances=MAPS),
    _card("lift", "Lift", "times", POSITIVE, "higher", "Attention in the boxes over the share of the cells: 1 where it "
          "is even. Unless normalised it depends on units.", against="truth", null=1.0, invariances=MAPS),
    _card("auroc", "AUROC of attention", "share", SHARE, "higher", "How often a cell of an object is above another; "
          "chance 0.5.", against="truth", null=0.5, invariances=(*MAPS, "scale")),
    _card("area-matched-iou", "Area-matched IoU", "share", SHARE, "higher", "IoU of the cells of objects (image-size: "
          "pixels) and as many of the highest: no threshold to choose.", against="truth", invariances=(*MAPS, "scale")),
    _card("attention-overlap", "Overlap of attention", "share", SHARE, "higher", "IoU of the highest cells (image-"
          "size: pixels) of both maps, as many as objects have.", invariances=(*MAPS, "scale", "swap")),
    _card("gap-foreground", "Gap on objects", "times the mean", POSITIVE, "lower", "Mean |A_T - A_S| on cells of "
          "objects. Unless normalised it depends on units.", citation=FGD, invariances=(*MAPS, "swap")),
    _card("gap-background", "Gap elsewhere", "times the mean", POSITIVE, "lower", "Mean |A_T - A_S| on the other "
          "cells. Unless normalised it depends on units.", citation=FGD, invariances=(*MAPS, "swap")),
    _card("gap-ratio", "Ratio of gaps", "times", POSITIVE, "none", "The mean gap on objects over the mean gap "
          "elsewhere. Unless normalised it depends on units.", citation=FGD, invariances=(*MAPS, "swap")),
    _card("error-share", "Share of the error", "share", SHARE, "none", "Of the squared error of features in a region; "
          "sums to 1.", invariances=(*MAPS, "common-scale")),
    _card("error-density", "Density of the error", "times", POSITIVE, "none", "Squared error of a cell over that of "
          "the mean cell: 1 where it is even.", null=1.0, invariances=(*MAPS, "common-scale")),
    _card("normalised-error", "Normalised error", "times", POSITIVE, "lower", "Squared error of features over the "
          "teacher's energy; fitted: through the best linear map.", invariances=(*MAPS, "common-scale")),
    _card("level-share", "Share of a level", "share", SHARE, "none", "Of the squared error of features at all levels.",
          invariances=(*MAPS, "common-scale")),
]  # fmt: skip
_PATCHED = [
    _precision("patched-ap", "AP of the teacher's head", "Where the named parts of its maps are the student's.",
               citation=OWN),
    _card("ap-lost", "AP lost", "share", DIFFERENCE, "lower", "Shapley's value of a part of the maps, under the "
          "teacher's head; fitted: through the best linear map.", citation="Shapley 1953; kdscope",
          invariances=(*FOUND, "scores")),
]  # fmt: skip
_BY_ANALYSIS = {
    "detection": [*_PRECISION, *_AGREEMENT],
    "detection-attention": _ATTENTION,
    "detection-outcomes": _OUTCOMES,
    "detection-patch-in": _PATCHED,
}
CARDS: dict[str, DetectionCard] = {
    name: replace(card, family=family) for family, cards in _BY_ANALYSIS.items() for name, card in cards
}
DIRECTIONS = {name: card.direction for name, card in CARDS.items()}
RANGES = {name: card.range for name, card in CARDS.items()}


def label_of(name: str) -> str:
    """What an axis says: the title, and the unit where it is not told by that.

    >>> label_of("row-kl"), label_of("lift")
    ('KL of the heads (nats)', 'Lift')
    """
    card = CARDS[name]
    return f"{card.title} ({card.unit})" if card.unit not in ("times", "mistakes an image") else card.title
