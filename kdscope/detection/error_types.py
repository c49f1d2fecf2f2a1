"""What kind of mistakes does a detector make, and how many of them are its teacher's?

Bolya, Foley, Hays & Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020. Every false
positive is of the first of these kinds that it fits: `localisation` (an object of its class, overlap from t_b to t_f),
`classification` (an object of another class, at least t_f), `duplicate` (an object of its class that a better
detection has), `background` (no object above t_b), `both`. An object is `missed` that nothing found and no error of
the first two kinds stands for. What a kind costs is the AP that is gained where an oracle mends it alone: wrong labels
and boxes become right (once for each object), the others vanish, missed objects are not asked for.

Kinds and their numbers are those of the authors' code (tidecv 1.0.1; with crowds, it counts what its own AP ignores as
errors). A cost is that of one kind alone, the others left as they are. From this the code departs in three things, as
`definition="code"` does: of the errors of localisation *and* classification that stand for one object it mends the best
alone, so that mending one kind leaves out an object whose best error is of the other; a class without objects counts as
an AP of 0 if something was found of it, and so does one whose objects were all missed and are asked for no more, so
that AP is not COCO's; a cost below 0 is told as 0. In thirty random sets without crowds it gives the code's numbers to
1e-12, after recall is read at COCO's points there (they differ in the last bit).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdscope.detection.data.record import Objects
from kdscope.detection.matching import NONE, Matches, match, precision_at
from kdscope.detection.measures.found import Found, assigned, box_iou
from kdscope.errors import KDScopeError, unknown

KINDS = ("localisation", "classification", "duplicate", "background", "both")
MISSED = "missed"
DEFINITIONS = ("paper", "code")


@dataclass(frozen=True)
class Errors:
    """The mistakes of a detector: D detections and M objects of all images, one after another.

    Attributes:
        matches: at t_f.
        kind: int64 [D], a position in KINDS, or -1 where a detection is right or does not count.
        target: int64 [D], the object that an error of localisation or classification stands for, or -1.
        missed: bool [M]. cost: by kind, AP that an oracle for that kind alone would gain; `ap`: at t_f, as it is.
    """

    matches: Matches
    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray
    cost: dict[str, float]
    ap: float

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        of = {name: int((self.kind == k).sum()) for k, name in enumerate(KINDS)}
        return of | {MISSED: int(self.missed.sum())}


def error_types(
    found: Sequence[Found],
    objects: Objects,
    t_f: float = 0.5,
    t_b: float = 0.1,
    cap: int = 100,
    definition: str = "paper",
) -> Errors:
    """The errors of what was found in some images.

    Args:
        found: of each image. objects: of the same images; crowds make no detection wrong.
        t_f: overlap from which an object is found. t_b: overlap below which there is none.
        cap: detections of one class in one image that count at most.
        definition: of costs and of AP, "paper" or "code".

    Raises:
        KDScopeError: thresholds that are not 0 < t_b < t_f <= 1, other numbers of images, an unknown definition.

    >>> import torch
    >>> objects = Objects.of([torch.tensor([[0.0, 0, 10, 10]])], [[1]])
    >>> errors = error_types([Found.of([[0, 0, 10, 3]], [0.9], [1])], objects)
    >>> {kind: n for kind, n in errors.counts.items() if n}, round(errors.cost["localisation"], 6)
    ({'localisation': 1}, 1.0)
    """
    if not 0 < t_b < t_f <= 1:
        raise KDScopeError(f"overlaps t_b {t_b} and t_f {t_f}: 0 < t_b < t_f <= 1 is needed, such as 0.1 and 0.5")
    if definition not in DEFINITIONS:
        raise unknown("definition", definition, DEFINITIONS, "error_types")
    matches = match(found, objects, (t_f,), cap)
    counted, labels = matches.counted, objects.labels.numpy()
    wrong, taken = matches.wrong[0], matches.hits[0]
    boxes, starts = objects.boxes.numpy().astype(np.float64), objects.offsets.numpy()
    kind, target = np.full(len(wrong), NONE), np.full(len(wrong), NONE)
    for i, some in enumerate(found):
        rows = np.arange(*matches.offsets[i : i + 2])
        rows = rows[wrong[rows]]
        here = np.arange(starts[i], starts[i + 1])
        here = here[counted[here]]
        overlap = box_iou(some.boxes[rows - matches.offsets[i]], boxes[here])
        kind[rows], place = _kinds(overlap, matches.labels[rows, None] == labels[here], taken[here], t_f, t_b)
        target[rows[place != NONE]] = here[place[place != NONE]]
    stood_for = np.zeros(len(counted), dtype=bool)
    stood_for[target[target != NONE]] = True
    missed = counted & ~taken & ~stood_for
    cost, ap = _costs(matches, labels, kind, target, missed, definition == "code")
    return Errors(matches, kind, target, missed, cost, ap)


def inherited(student: Sequence[Found], teacher: Sequence[Found], iou: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """How many false positives of a student are its teacher's too, and how many it has: int64 [N] each, by image.

    Args:
        student, teacher: the false positives of each in the same images; a pair has one class and IoU >= `iou`, and
            each belongs to one pair at most.

    >>> one = Found.of([[0, 0, 10, 10]], [0.5], [1])
    >>> [x.tolist() for x in inherited([one, one], [one, Found.of([], [], [])])]
    [[1, 0], [1, 1]]
    """
    shared = [len(assigned(t, s, iou)[0]) for t, s in zip(teacher, student, strict=True)]
    return np.array(shared, dtype=np.int64), np.array([len(s.scores) for s in student], dtype=np.int64)


def false_positives(found: Sequence[Found], matches: Matches) -> list[Found]:
    """The detections that are wrong at the first threshold, image by image."""
    parts = np.split(matches.wrong[0], matches.offsets[1:-1])
    return [Found(*(column[wrong] for column in some)) for some, wrong in zip(found, parts, strict=True)]


def _kinds(
    overlap: np.ndarray, own: np.ndarray, taken: np.ndarray, t_f: float, t_b: float
) -> tuple[np.ndarray, np.ndarray]:
    """The kind [d] of each wrong detection of an image, and the object [d] it stands for, or -1; overlap is [d, g]."""
    if not overlap.shape[1]:
        return np.full(len(overlap), KINDS.index("background")), np.full(len(overlap), NONE)
    same, other = np.where(own, overlap, -1.0), np.where(own, -1.0, overlap)
    tests = {
        "localisation": (same.max(1) >= t_b) & (same.max(1) < t_f),
        "classification": other.max(1) >= t_f,
        "duplicate": np.where(taken, same, -1.0).max(1) >= t_f,
        "background": overlap.max(1) < t_b,
    }
    kind = np.select([*tests.values()], [KINDS.index(name) for name in tests], KINDS.index("both"))
    place = np.select([kind == 0, kind == 1], [same.argmax(1), other.argmax(1)], NONE)
    return kind, place


def _costs(
    matches: Matches, labels: np.ndarray, kind: np.ndarray, target: np.ndarray, missed: np.ndarray, code: bool
) -> tuple[dict[str, float], float]:
    """AP gained by mending each kind alone, and AP as it is."""
    right, counts = matches.right[0], matches.right[0] | matches.wrong[0]
    asked = np.bincount(labels[matches.counted], minlength=1 + max(matches.labels.max(initial=0), 0))
    ap = _mean_ap(matches.scores, matches.labels, right, counts, asked, code)
    cost = {}
    either = _first_for_each(matches.scores, target, kind <= KINDS.index("classification"), matches.hits[0])
    for k, name in enumerate(KINDS):
        of = kind == k
        mended = of & (either if code else _first_for_each(matches.scores, target, of, matches.hits[0]))
        said = np.where(mended, labels[target], matches.labels) if mended.any() else matches.labels
        kept = counts & (~of | mended)
        cost[name] = _mean_ap(matches.scores, said, right | mended, kept, asked, code) - ap
    left = asked - np.bincount(labels[missed], minlength=len(asked))
    cost[MISSED] = _mean_ap(matches.scores, matches.labels, right, counts, left, code) - ap
    return {name: max(value, 0.0) if code else value for name, value in cost.items()}, ap


def _first_for_each(scores: np.ndarray, target: np.ndarray, of: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Of the detections `of` that stand for an object that is still free, the best for each: bool [D]."""
    rows = np.flatnonzero(of & (target != NONE))
    rows = rows[~taken[target[rows]]]
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    _, first = np.unique(target[rows], return_index=True)
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[rows[first]] = True
    return chosen


def _mean_ap(
    scores: np.ndarray, said: np.ndarray, right: np.ndarray, kept: np.ndarray, asked: np.ndarray, code: bool
) -> float:
    """AP over the classes that are asked for; by the authors' code also those of which something was found: 0."""
    known = asked + np.bincount(said[kept], minlength=len(asked)) if code else asked
    there = np.flatnonzero(known)
    if not len(there):
        return float("nan")
    parts = [kept & (said == label) for label in there]
    values = [
        precision_at(scores[of], right[of], asked[label]).mean() if asked[label] else 0.0
        for of, label in zip(parts, there, strict=True)
    ]
    return float(np.mean(values))
