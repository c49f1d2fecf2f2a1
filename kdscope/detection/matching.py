"""Which detection found which object: the matching rule of COCO, with what it matched kept for the analyses.

Lin et al., "Microsoft COCO", ECCV 2014, and its public tools: in each image and class the detections, from the highest
score down, each take the object with the most overlap that is still free, if that is at least the threshold. Crowds
and objects outside the asked-for range of areas are taken only when no other object can be, can be crowds any number of
times, and make a detection count as neither right nor wrong; the overlap with a crowd is the part of the detection that
lies in it.

Detections are compared rank by rank: the k-th best of every image and class at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdscope.detection.data.record import Objects
from kdscope.detection.measures.found import Found
from kdscope.errors import KDScopeError

NONE = -1
RECALLS = np.linspace(0.0, 1.0, 101)  # at which precision is read, as COCO does
ALL = (0.0, 1e10)  # pixels, what COCO's tools call all areas
AT_ONCE = 2**21  # comparisons of a detection with an object held in memory


class Matches(NamedTuple):
    """What was matched at T thresholds: D detections of all images, one after another, and M objects.

    Attributes:
        offsets: int64 [N + 1]; image i has the detections offsets[i] to offsets[i + 1], in the order they were given.
        scores, labels: of the detections, [D].
        object: int64 [T, D], the row of the object that each found, or -1.
        ignored: bool [T, D], detections that count as neither right nor wrong.
        capped: bool [D], detections beyond the cap, as if they had not been made.
        finder: int64 [T, M], the detection that found each object, or -1; of a crowd always -1.
        counted: bool [M], the objects that are to be found.
    """

    offsets: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    object: np.ndarray
    ignored: np.ndarray
    capped: np.ndarray
    finder: np.ndarray
    counted: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool [T, D], true positives."""
        return (self.object != NONE) & ~self.ignored & ~self.capped

    @property
    def wrong(self) -> np.ndarray:
        """bool [T, D], false positives."""
        return (self.object == NONE) & ~self.ignored & ~self.capped

    @property
    def hits(self) -> np.ndarray:
        """bool [T, M], the objects that were found."""
        return (self.finder != NONE) & self.counted


def match(
    found: Sequence[Found],
    objects: Objects,
    iou_thresholds: Sequence[float] = (0.5,),
    cap: int = 100,
    area: tuple[float, float] = ALL,
) -> Matches:
    """Match the detections of each image to its objects.

    Args:
        found: of each image; boxes in the pixels of the objects' boxes.
        objects: of the same images.
        iou_thresholds: in (0, 1].
        cap: detections of one class in one image that count at most, the best by score.
        area: what the areas of counted objects are between, both ends included. Detections outside that found nothing
            are ignored (so, always, are boxes inside out, as by COCO's tools).

    Raises:
        KDScopeError: detections of another number of images.

    >>> import torch
    >>> objects = Objects.of([torch.tensor([[0.0, 0, 10, 10]])], [[1]])
    >>> matches = match([Found.of([[20, 20, 30, 30], [0, 0, 10, 8]], [0.9, 0.8], [1, 1])], objects, [0.5, 0.9])
    >>> matches.right.tolist(), matches.hits.tolist()
    ([[False, True], [False, False]], [[True], [False]])
    """
    if len(found) != len(objects):
        raise KDScopeError(f"detections of {len(found)} images and objects of {len(objects)}")
    thresholds = np.minimum(np.asarray(iou_thresholds, dtype=np.float64), 1 - 1e-10)  # as COCO's tools do
    counts = np.array([len(some.scores) for some in found], dtype=np.int64)
    boxes = np.concatenate([np.zeros((0, 4)), *(some.boxes for some in found)])
    scores = np.concatenate([np.zeros(0), *(some.scores for some in found)])
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(some.labels for some in found)])
    truth, truth_labels = objects.boxes.numpy().astype(np.float64), objects.labels.numpy()
    crowd, areas = objects.crowd.numpy(), objects.area.numpy()
    low, high = area
    counted = ~crowd & (areas >= low) & (areas <= high)

    classes = 1 + max(labels.max(initial=0), truth_labels.max(initial=0))
    group = np.repeat(np.arange(len(found)), counts) * classes + labels
    truth_group = objects.image.numpy() * classes + truth_labels
    order = np.lexsort((-scores, group))  # stable, so of equal scores the first comes first
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = _within(group[order])
    capped = rank >= cap
    order = order[~capped[order]]
    truth_order = np.lexsort((~counted, truth_group))  # what counts comes first

    matches = Matches(
        np.concatenate([[0], counts.cumsum()]),
        scores,
        labels,
        np.full((len(thresholds), len(scores)), NONE),
        np.zeros((len(thresholds), len(scores)), dtype=bool),
        capped,
        np.full((len(thresholds), len(truth)), NONE),
        counted,
    )
    for rows, columns in _chunks(group[order], truth_group[truth_order], len(thresholds)):
        _match_groups(matches, thresholds, boxes, truth, crowd, _filled(order, rows), _filled(truth_order, columns))
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    matches.ignored[:] |= (matches.object == NONE) & ((sizes < low) | (sizes > high))
    return matches


def precision_at(scores: np.ndarray, right: np.ndarray, objects: int) -> np.ndarray:
    """Precision at the 101 recalls of COCO, made monotone from the right: float64 [101]; NaN without objects.

    Args:
        scores: [n] of the detections that are right or wrong, in the order of their images.
        right: bool [n].
        objects: how many are to be found.
    """
    if not objects:
        return np.full(len(RECALLS), np.nan)
    true = right[np.argsort(-scores, kind="mergesort")].cumsum()
    precision = true / np.arange(1, len(true) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(true / objects, RECALLS, side="left")
    return np.append(precision, 0.0)[place]


def average_precisions(matches: Matches, labels: np.ndarray, classes: int) -> np.ndarray:
    """AP of each threshold and class: float64 [T, classes], NaN for a class without objects.

    Args:
        matches: what was matched.
        labels: int64 [M], of the objects.
        classes: how many there are.

    >>> import torch
    >>> objects = Objects.of([torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])], [[1, 1]])
    >>> matches = match([Found.of([[0, 0, 10, 10]], [0.9], [1])], objects)
    >>> average_precisions(matches, objects.labels.numpy(), 1).round(5).tolist()
    [[0.50495]]
    """
    right, wrong = matches.right, matches.wrong
    table = np.empty((len(right), classes))
    for label in range(1, classes + 1):
        own, objects = matches.labels == label, int((matches.counted & (labels == label)).sum())
        for row in range(len(right)):
            of = own & (right[row] | wrong[row])
            table[row, label - 1] = precision_at(matches.scores[of], right[row, of], objects).mean()
    return table


def _within(sorted_groups: np.ndarray) -> np.ndarray:
    """The place of each within its run of equals."""
    start = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]] if len(sorted_groups) else np.zeros(0, dtype=bool)
    place = np.arange(len(sorted_groups))
    return place - np.maximum.accumulate(np.where(start, place, 0)) if len(place) else place


def _chunks(groups: np.ndarray, truth_groups: np.ndarray, thresholds: int):
    """Pairs of tables of positions, [P, K] of detections and [P, G] of objects, -1 where a group has fewer.

    Groups with detections and objects only, of like numbers of objects together.
    """
    both = np.intersect1d(groups, truth_groups)
    starts, ends = (np.searchsorted(groups, both, side) for side in ("left", "right"))
    truth_starts, truth_ends = (np.searchsorted(truth_groups, both, side) for side in ("left", "right"))
    order = np.argsort(truth_ends - truth_starts, kind="stable")
    while len(order):
        widest = (truth_ends - truth_starts)[order]
        fits = widest * np.arange(1, len(order) + 1) * thresholds <= AT_ONCE
        take = max(1, int(fits.sum()))
        now, order = order[:take], order[take:]
        yield _table(starts[now], ends[now]), _table(truth_starts[now], truth_ends[now])


def _table(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    places = starts[:, None] + np.arange(int((ends - starts).max()))
    return np.where(places < ends[:, None], places, NONE)


def _filled(order: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.where(places == NONE, NONE, order[places])


def _match_groups(
    matches: Matches,
    thresholds: np.ndarray,
    boxes: np.ndarray,
    truth: np.ndarray,
    crowd: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Match the detections `rows` [P, K] of P groups, best first, to their objects `columns` [P, G]."""
    real = columns != NONE
    is_crowd, counts = crowd[columns] & real, matches.counted[columns] & real
    free = np.broadcast_to(real, (len(thresholds), *real.shape)).copy()
    last = columns.shape[1] - 1
    for rank in range(rows.shape[1]):
        there = np.flatnonzero(rows[:, rank] != NONE)
        row = rows[there, rank]
        overlap = _overlap(boxes[row], truth[columns[there]], is_crowd[there])
        able = free[:, there] & (overlap >= thresholds[:, None, None])
        preferred = able & counts[there]
        able = np.where(preferred.any(-1, keepdims=True), preferred, able)
        # Of equal overlaps the last, as COCO's tools do.
        best = last - np.where(able, overlap, -1.0)[..., ::-1].argmax(-1)
        hit, group = np.nonzero(able.any(-1))
        place = best[hit, group]
        group = there[group]
        target = columns[group, place]
        detection = rows[group, rank]
        matches.object[hit, detection] = target
        matches.ignored[hit, detection] = ~counts[group, place]
        single = ~is_crowd[group, place]
        free[hit[single], group[single], place[single]] = False
        matches.finder[hit[single], target[single]] = detection[single]


def _overlap(boxes: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of one box [P, 4] with each of [P, G, 4]; with a crowd, the part of the box that lies in it: [P, G]."""
    low = np.maximum(boxes[:, None, :2], truth[..., :2])
    high = np.minimum(boxes[:, None, 2:], truth[..., 2:])
    shared = (high - low).clip(0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    others = (truth[..., 2:] - truth[..., :2]).prod(-1)
    union = np.where(crowd, own, own + others - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
