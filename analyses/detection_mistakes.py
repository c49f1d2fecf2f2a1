"""What the mistakes of each detector cost, kind by kind, and which false positives of a student are its teacher's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from kdscope.analyses.cast import Cast, Party, Student
from kdscope.analyses.detection_views import Seen
from kdscope.detection.error_types import KINDS, MISSED, error_types, false_positives, inherited
from kdscope.detection.measures.resampling import SHARE, Score, image_weights, over_trainings
from kdscope.measures.result import Result
from kdscope.measures.seeds import over_seeds
from kdscope.measures.statistics import bootstrap_mean, jackknife_interval

BLOCKS = 20  # of images, each left out once: a cost is no mean over images
EVERY = "all"
SCORES = {"value": "_score", "gain": "_gap"}  # beside a row, not in the table: draws of resampled images


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
    rivals = {Party((s.subject,)).key: Party(s.independent[:1]).key for s in roles.students if s.independent}
    rows: dict[tuple, list[dict[str, Any]]] = {}
    for key, one in networks.items():
        rival = every.get(rivals.get(key))
        for kind in (*KINDS, MISSED):
            rows.setdefault((one.subject.group, "cost", kind), []).append(
                _of(roles, one) | _cost(every[key], rival, kind, confidence)
            )
            rows.setdefault((one.subject.group, "count", kind), []).append(
                _of(roles, one) | _count(every[key].by_image[kind], kind, confidence)
            )
    for student in roles.students:
        key = (student.subject.group, "inherited", student.teachers[0].group)
        rows.setdefault(key, []).append(_inherited(roles, student, networks, confidence))
    for own in rows.values():
        yield from ([together(own, confidence)] if len(own) > 1 else [])
        yield from own


def together(rows: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """One row for all seeds of a training: the mean, with an interval over seeds and images."""
    ends = {"value": ("ci_low", "ci_high"), "gain": ("gain_low", "gain_high")}
    row = rows[0] | {
        "b": rows[0]["group"],
        "a": rows[0].get("a_group") or rows[0]["a"],
        "seed": "all",
        "seeds": len(rows),
    }
    for name, (low, high) in ends.items():
        if not all(name in each for each in rows):
            continue
        if SCORES[name] in row:
            score = over_trainings([each[SCORES[name]] for each in rows])
            within = SHARE if name == "value" else (-1.0, 1.0)
            row |= dict(zip((name, low, high), (score.value, *score.interval(confidence, within)), strict=True))
        else:  # a cost has no draws
            each = [Result("", row[name], None, row["n"], row[low], row[high]) for row in rows]
            mean = over_seeds(each, confidence=confidence)
            row |= {name: mean.value, low: mean.ci_low, high: mean.ci_high}
    if "floor" in row:
        row["floor"] = float(np.mean([each["floor"] for each in rows]))
    if "objects" in row:
        row["objects"] = sum(each["objects"] for each in rows)
    return row


def _of(roles: Cast, one: Seen) -> dict[str, Any]:
    return {
        "a": "true boxes", "b": roles.name(one.party), "group": roles.group_name(one.party), "pair": "truth",
        "method": one.subject.method, "architecture": one.subject.architecture, "role": one.role, "iou": "0.5",
        "seed": "" if one.party.seed is None else str(one.party.seed), "seeds": 1, "n": len(one.found),
        "area": EVERY, "class": EVERY,
    }  # fmt: skip


def _cost(mine: Mistakes, rival: Mistakes | None, kind: str, confidence: float) -> dict[str, Any]:
    value, left = mine.cost[kind], mine.left_out[kind]
    low, high = jackknife_interval(value, left, confidence=confidence)
    row = {"measure": "error-cost", "kind": kind, "value": value, "ci_low": low, "ci_high": high}
    if rival is None:
        return row
    gap = value - rival.cost[kind]
    low, high = jackknife_interval(gap, left - rival.left_out[kind], confidence=confidence)
    return row | {
        "floor": rival.cost[kind], "control": "floor: student alone", "gain": gap, "gain_low": low, "gain_high": high
    }  # fmt: skip


def _count(by_image: np.ndarray, kind: str, confidence: float) -> dict[str, Any]:
    low, high = bootstrap_mean(by_image.astype(float), confidence=confidence)
    value = float(by_image.mean()) if len(by_image) else np.nan
    return {
        "measure": "errors-per-image", "kind": kind, "value": value, "ci_low": low, "ci_high": high,
        "objects": int(by_image.sum()),
    }  # fmt: skip


def _inherited(roles: Cast, student: Student, networks: Mapping[tuple, Seen], confidence: float) -> dict[str, Any]:
    """Which share of the student's false positives is its teacher's too, and of those of the student alone."""
    t, k = (networks[Party((s,)).key] for s in (student.teachers[0], student.subject))
    theirs = false_positives(t.cut, t.used)
    shared, total = inherited(false_positives(k.cut, k.used), theirs)
    score = _share(shared, total)
    low, high = score.interval(confidence, SHARE)
    row = _of(roles, k) | {
        "measure": "inherited-false-positives", "value": score.value, "ci_low": low, "ci_high": high,
        "objects": int(total.sum()), "a": roles.name(t.party), "pair": "teacher-student",
        "a_group": roles.group_name(t.party), SCORES["value"]: score,
    }  # fmt: skip
    if not student.independent:
        return row
    alone = Party(student.independent[:1])
    b = networks[alone.key]
    floor = _share(*inherited(false_positives(b.cut, b.used), theirs))
    gap = score.minus(floor)
    low, high = gap.interval(confidence)
    return row | {
        "floor": floor.value, "control": "floor: student alone", "baseline": roles.name(alone), "gain": gap.value,
        "gain_low": low, "gain_high": high, SCORES["gain"]: gap,
    }  # fmt: skip


def _share(shared: np.ndarray, total: np.ndarray) -> Score:
    """The share of things that are in all images, and in resampled ones."""
    weights = np.concatenate([np.ones((1, len(total)), dtype=np.int64), image_weights(len(total))])
    with np.errstate(invalid="ignore"):
        draws = (weights @ shared) / (weights @ total)
    return Score(float(draws[0]), draws[1:])
