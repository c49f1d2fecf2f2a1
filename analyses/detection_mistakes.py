"""What the mistakes of each detector cost, kind by kind, and which false positives of a student are its teacher's."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from kdscope.analyses.cast import Cast, Party, Student
from kdscope.analyses.detection_lines import Line, all_seeds, bounded, line_of
from kdscope.analyses.detection_maps import EVERY
from kdscope.analyses.detection_views import Seen, as_result
from kdscope.detection.error_types import KINDS, MISSED, error_types, false_positives, inherited
from kdscope.detection.measures.cards import RANGES
from kdscope.detection.measures.resampling import ratio
from kdscope.measures.result import Result
from kdscope.measures.seeds import differences
from kdscope.measures.statistics import jackknife_interval, paired_bootstrap

BLOCKS = 20  # of images, each left out once: a cost is no mean over images


class Mistakes(NamedTuple):
    """Of one network: AP that each kind costs, with each block of images left out, and how many an image has."""

    cost: dict[str, float]
    left_out: dict[str, np.ndarray]
    by_image: dict[str, np.ndarray]


def mistakes_of(one: Seen) -> Mistakes:
    """The mistakes of a network among all its detections, at IoU .5."""
    errors = error_types(one.found, one.objects, cap=one.cap)
    images = len(one.found)
    blocks = np.array_split(np.random.default_rng(0).permutation(images), min(BLOCKS, images))
    costs = []
    for block in blocks if images > 1 else ():
        rest = np.setdiff1d(np.arange(images), block)
        some = [one.found[k] for k in rest]
        costs.append(error_types(some, one.objects.subset(torch.from_numpy(rest)), cap=one.cap).cost)
    where = np.repeat(np.arange(images), np.diff(errors.matches.offsets))
    counts = {name: np.bincount(where[errors.kind == k], minlength=images) for k, name in enumerate(KINDS)}
    counts[MISSED] = np.bincount(one.objects.image.numpy()[errors.missed], minlength=images)
    left_out = {kind: np.array([cost[kind] for cost in costs]) for kind in errors.cost}
    return Mistakes(errors.cost, left_out, counts)


def mistake_rows(roles: Cast, networks: Mapping[tuple, Seen], confidence: float) -> Iterator[dict[str, Any]]:
    """Of each network what its mistakes cost and how many there are; of students which are their teacher's too."""
    every = {key: mistakes_of(one) for key, one in networks.items()}
    rivals = {Party((s.subject,)).key: Party(s.independent[:1]) for s in roles.students if s.independent}
    lines: dict[tuple, list[Line]] = {}
    baselines: dict[tuple, str] = {}
    for key, one in networks.items():
        rival = rivals.get(key)
        beside = (every[rival.key], f"floor: student alone ({roles.group_name(rival)})") if rival else None
        for kind in (*KINDS, MISSED):
            for what, line in (("cost", _cost), ("count", _count)):
                about = _of(roles, one) | {"kind": kind}
                found = line(every[key], beside, about, len(one.found), confidence)
                lines.setdefault((one.subject.group, what, kind), []).append(found)
    for student in roles.students:
        key = (student.subject.group, "inherited", student.teachers[0].group)
        lines.setdefault(key, []).append(_inherited(roles, student, networks, confidence))
        baselines |= {key: roles.group_name(Party(student.independent[:1]))} if student.independent else {}
    for key, own in lines.items():
        about = own[0].about
        named = {"b": about["group"], "a": about.get("a_group") or about["a"]}
        named |= {"baseline": baselines[key]} if key in baselines else {}
        yield from ([all_seeds(own, named, confidence).row()] if len(own) > 1 else [])
        yield from (line.row() for line in own)


def _of(roles: Cast, one: Seen) -> dict[str, Any]:
    return {
        "a": "true boxes", "b": roles.name(one.party), "group": roles.group_name(one.party), "pair": "truth",
        "method": one.subject.method, "architecture": one.subject.architecture, "role": one.role, "iou": "0.5",
        "seed": "" if one.party.seed is None else str(one.party.seed), "seeds": 1, "area": EVERY, "class": EVERY,
    }  # fmt: skip


def _cost(
    mine: Mistakes, beside: tuple[Mistakes, str] | None, about: dict[str, Any], images: int, confidence: float
) -> Line:
    """What a kind of mistake costs, and by how much less than the student alone; no mean over images."""
    kind = about["kind"]
    within = RANGES["error-cost"]

    def of(value: float, left: np.ndarray) -> Result:
        return Result("error-cost", value, None, images, *jackknife_interval(value, left, confidence=confidence))

    result = bounded(of(mine.cost[kind], mine.left_out[kind]), within)
    if beside is None:
        return Line(about, result)
    rival, control = beside
    gain = of(rival.cost[kind] - mine.cost[kind], rival.left_out[kind] - mine.left_out[kind])
    return Line(about, result.with_frame(rival.cost[kind], control=control), bounded(gain, differences(within)))


def _count(
    mine: Mistakes, beside: tuple[Mistakes, str] | None, about: dict[str, Any], images: int, confidence: float
) -> Line:
    """How many mistakes of a kind an image has, and by how many fewer than those of the student alone."""
    values = mine.by_image[about["kind"]].astype(float)
    result, objects = as_result("errors-per-image", values, confidence), int(values.sum())
    if beside is None:
        return Line(about, result, objects=objects)
    rival, control = beside
    theirs = rival.by_image[about["kind"]].astype(float)
    value, low, high = paired_bootstrap(theirs, values, confidence=confidence)
    gain = replace(result, value=value, ci_low=low, ci_high=high, per_sample=theirs - values)
    return Line(about, result.with_frame(float(theirs.mean()), control=control), gain, objects)


def _inherited(roles: Cast, student: Student, networks: Mapping[tuple, Seen], confidence: float) -> Line:
    """Which share of the student's false positives is its teacher's too, and of those of the student alone.

    That of the student's own seed serves: unlike what became of objects, the share does not depend on what it missed.
    """
    t, k = (networks[Party((s,)).key] for s in (student.teachers[0], student.subject))
    theirs = false_positives(t.cut, t.used)
    shared, total = inherited(false_positives(k.cut, k.used), theirs)
    about = _of(roles, k) | {
        "a": roles.name(t.party), "pair": "teacher-student", "a_group": roles.group_name(t.party)
    }  # fmt: skip
    framed: dict[str, Any] = {}
    if student.independent:
        alone = Party(student.independent[:1])
        b = networks[alone.key]
        about["baseline"] = roles.name(alone)
        kept, every = inherited(false_positives(b.cut, b.used), theirs)
        framed |= {"floor": ratio(kept, every), "floor_objects": int(every.sum())}
        framed["control"] = f"floor: student alone ({roles.group_name(alone)})"
    score, objects = ratio(shared, total), int(total.sum())
    named = "inherited-false-positives"
    return line_of(named, score, len(k.found), about, confidence=confidence, objects=objects, **framed)
