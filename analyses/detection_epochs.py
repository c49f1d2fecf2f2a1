"""How students became what they are: average precision, agreement and rows on the probe images, epoch by epoch.

A run that was trained with `--probe-every N` kept what its student found in some images after every N epochs, and where
it had a teacher, what both heads said of the same rows. The teacher is what it is now, on the same images.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kdscope.analyses.cast import ALONE, Cast, Pair
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection_agreement import Key, compared_pairs
from kdscope.analyses.detection_dense import Rows, rows_of
from kdscope.analyses.detection_scores import EVERY, in_area, own_rows, ranked
from kdscope.analyses.detection_views import Seen, as_result
from kdscope.analyses.feature_layers import rows_of as places_in
from kdscope.detection.measures.agreement import detection_agreement
from kdscope.detection.measures.cards import DIRECTIONS, RANGES
from kdscope.detection.stored import found_in, objects_in, sizes_in
from kdscope.measures.result import Result

SHOWN = ("teacher-student", ALONE)
AGREEMENT: Key = ("agree-f1", "0.5")


@dataclass(frozen=True, eq=False)
class Moment:
    """Students as they were after an epoch, and their teachers as they are, on the same images.

    Attributes:
        epoch: how many epochs the students had behind them.
        students: those that kept a probe of these images then. teachers: all of them.
    """

    epoch: int
    students: tuple[Seen, ...]
    teachers: tuple[Seen, ...]


def moments_of(networks: Mapping[tuple, Seen], split: str) -> list[Moment]:
    """Every epoch that any of the networks kept a probe of; those that kept other images have one of their own.

    Raises:
        KDScopeError: a teacher whose cache does not hold the images of a probe.
    """
    kept: dict[tuple, list[Seen]] = {}
    for one in networks.values():
        for epoch in one.subject.probe_epochs(split) if one.role != "teacher" else ():
            probe = one.subject.probe(epoch, split)
            then = Seen(one.party, one.role, probe, found_in(probe), objects_in(probe), sizes_in(probe))
            kept.setdefault((epoch, probe.index.tobytes()), []).append(then)
    teachers: dict[bytes, tuple[Seen, ...]] = {}
    for (_, index), students in kept.items():
        if index not in teachers:
            teaching = [one for one in networks.values() if one.role == "teacher"]
            teachers[index] = tuple(on_images_of(one, students[0]) for one in teaching)
    return [Moment(key[0], tuple(kept[key]), teachers[key[1]]) for key in sorted(kept)]


def on_images_of(one: Seen, probe: Seen) -> Seen:
    """What a network found in the images of a probe alone."""
    rows = places_in(one.cache, probe.cache)
    found, objects = [one.found[k] for k in rows], one.objects.subset(torch.from_numpy(rows))
    return replace(one, found=found, objects=objects, sizes=one.sizes[rows])


def scores_over_epochs(roles: Cast | None, moments: Iterable[Moment], confidence: float) -> Iterator[dict[str, Any]]:
    """Rows of AP and AP50, between the student alone at the same epoch and the teacher."""
    for moment in moments:
        students, teachers = (ranked(some, _headlines) for some in (moment.students, moment.teachers))
        for row in own_rows(roles, students, confidence, teachers):
            yield row | {"epoch": moment.epoch}


def _headlines(one: Seen) -> dict:
    return {key: score for key, score in in_area(one, EVERY).items() if key[0] in ("ap", "ap50") and key[2] == EVERY}


def agreement_over_epochs(
    roles: Cast, moments: Iterable[Moment], confidence: float
) -> Iterator[tuple[Key, Finding, str]]:
    """Agree-F1 at IoU 0.5 of students with their teacher, above that of students that never met it."""
    every = _shown(roles)
    for moment in moments:
        there = {one.party.key: one for one in (*moment.students, *moment.teachers)}
        both = [(pair, there.get(pair.a.key), there.get(pair.b.key)) for pair in every]
        measured = {
            pair.key: {AGREEMENT: _agreement(a, b, confidence)}
            for pair, a, b in both
            if a is not None and b is not None
        }
        for finding, seed in _with_seeds(every, measured, moment.epoch, confidence):
            yield AGREEMENT, finding, seed


def _agreement(a: Seen, b: Seen, confidence: float) -> Result:
    return as_result(AGREEMENT[0], detection_agreement(a.cut, b.cut, float(AGREEMENT[1])).f1, confidence)


def rows_over_epochs(roles: Cast, split: str, confidence: float) -> Iterator[tuple[Rows, Finding, str]]:
    """What the heads of students and of the teacher that they learned from said of the same rows."""
    every = [pair for pair in _shown(roles) if pair.pair == SHOWN[0]]
    measured: dict[tuple[int, Rows], dict[tuple, dict[Rows, Result]]] = {}
    for pair in every:
        student = pair.b.subjects[0]
        for epoch in student.probe_epochs(split, "pair"):
            probe = student.probe(epoch, split, "pair")
            if probe.identity["teacher"] == pair.a.subjects[0].weights:  # not one that was named by --teacher
                for key, result in rows_of(probe, confidence).items():
                    measured.setdefault((epoch, key), {})[pair.key] = {key: result}
    for (epoch, key), found in sorted(measured.items(), key=lambda item: item[0][0]):
        for finding, seed in _with_seeds(every, found, epoch, confidence):
            yield key, finding, seed


def _shown(roles: Cast) -> list[Pair]:
    """Students, those that never met the teacher too, each beside it once."""
    return [pair for pair in compared_pairs(roles) if pair.pair in SHOWN]


def _with_seeds(
    every: Sequence[Pair], measured: Mapping[tuple, Mapping[Any, Result]], epoch: int, confidence: float
) -> list[tuple[Finding, str]]:
    """Findings of an epoch with their seeds, and those of all seeds together."""
    framed = in_frames(every, measured, confidence, DIRECTIONS)
    framed = [replace(finding, epoch=epoch) for finding in framed]
    together = [(finding, "all") for finding in over_groups(framed, confidence, ranges=RANGES)]
    return [*((finding, str(finding.pair.b.seed)) for finding in framed), *together]
