"""What became of each object, and of each kind of mistake: what came from the teacher, what was lost?

Every object is found or missed by teacher, student alone and distilled student: transfer, what lies beyond the teacher,
and harm, beside the same three numbers of a second seed of the student alone, which no teacher can explain. Mistakes by
kind with what each costs (Bolya et al., ECCV 2020), and the share of false positives that are the teacher's too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Party
from kdscope.analyses.detection import cast_of, ordered
from kdscope.analyses.detection_mistakes import mistake_rows
from kdscope.analyses.detection_views import LEVELS, Seen, everyone
from kdscope.analyses.detection_words import outcome_notes, outcomes_short
from kdscope.detection.measures.outcomes import OUTCOMES, Outcome, gap_of_shares, outcomes, table_of_outcomes
from kdscope.errors import KDScopeError
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "iou", "area", "class", "kind", "outcome", "objects", "group", "a_group", "method"),
    *("architecture", "seed", "seeds", "baseline", "control", "gain", "gain_low", "gain_high", "confidence"),
)
IOUS = (0.5, 0.75)
EVERY = "all"


@analysis(
    "detection-outcomes",
    summary="Which objects and which mistakes of a student came from its teacher?",
    citation="kdscope; Bolya et al., ECCV 2020",
    sources=("teacher", "baseline"),
)
def detection_outcomes(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Outcomes of objects and kinds of mistakes, as one tidy table.

    Args:
        splits, teacher, baseline, confidence: as for the analysis `detection`.

    Returns:
        A report whose table has, besides the shared columns: iou, area and class of the objects; outcome, which cell of
        the table of outcomes a count is of (T, B and K found, such as "TbK": not B); kind of mistake; objects, how many
        a share is of; baseline, the student alone that it is compared with. Floors are those of a second seed of it.

    Raises:
        KDScopeError: a network that classifies images, caches of different images, no student or no teacher.
    """
    roles, alone = cast_of(subjects, teacher, baseline)
    if roles is None:
        raise KDScopeError(f"{subjects[0].name} has no teacher to be compared with; name one by --teacher RUN")
    rows: list[dict[str, Any]] = []
    for split in [part.strip() for part in splits.split(",") if part.strip()]:
        networks = everyone(roles, alone, split)
        found = [*_objects(roles, networks, confidence), *mistake_rows(roles, networks, confidence)]
        rows += [{"layer": "", "view": "none", "definition": "kdscope", **row, "split": split} for row in found]
    named = {"analysis": "detection-outcomes", "confidence": confidence}
    table = ordered(tidy([row | named for row in rows], COLUMNS))
    return Report(table, outcomes_short(table), (*roles.notes, *outcome_notes(table)))


def _objects(roles: Cast, networks: Mapping[tuple, Seen], confidence: float) -> Iterator[dict[str, Any]]:
    """Each student with its teacher and the student alone, and the student alone with a second seed."""
    groups: dict[tuple, list[tuple[Seen, Seen, Seen, Seen | None]]] = {}
    for student in roles.students:
        if not student.independent:
            continue
        t, b, k = (networks[Party((s,)).key] for s in (student.teachers[0], student.independent[0], student.subject))
        again = [s for s in student.independent[1:] if s.group == student.independent[0].group]
        other = networks[Party((again[0],)).key] if again else None
        groups.setdefault((t.subject.group, k.subject.group), []).append((t, b, k, other))
    for trials in groups.values():
        for members in [*([trials] if len(trials) > 1 else []), *([trial] for trial in trials)]:
            yield from _outcome_rows(roles, members, confidence)


def _outcome_rows(
    roles: Cast, trials: Sequence[tuple[Seen, Seen, Seen, Seen | None]], confidence: float
) -> Iterator[dict[str, Any]]:
    """The outcomes of some trials together: the objects of all are counted, and intervals are over images."""
    t, b, k, _ = trials[0]
    several = len(trials) > 1
    name = roles.group_name if several else roles.name
    about = {
        "a": name(t.party), "b": name(k.party), "baseline": name(b.party), "group": roles.group_name(k.party),
        "a_group": roles.group_name(t.party), "method": k.subject.method, "architecture": k.subject.architecture,
        "pair": "teacher-student", "role": k.role, "seed": "all" if several else str(k.party.seed),
        "seeds": len(trials),
    }  # fmt: skip
    for iou in IOUS:
        for area, label, keep in _parts(k):
            where = {"iou": f"{iou:g}", "area": area, "class": label, "n": len(k.found)}
            hits = [np.concatenate([_hits(trial[who], iou)[keep] for trial in trials]) for who in range(3)]
            image = np.tile(k.objects.image.numpy()[keep], len(trials))
            shares = outcomes(*hits, image, confidence)
            churned = [trial for trial in trials if trial[3] is not None]
            floors = {}
            if churned:
                other = [np.concatenate([_hits(trial[who], iou)[keep] for trial in churned]) for who in (0, 1, 3)]
                floors = outcomes(*other, np.tile(k.objects.image.numpy()[keep], len(churned)), confidence)
            for outcome in OUTCOMES:
                found, floor = shares[outcome], floors.get(outcome)
                yield about | where | {
                    "measure": outcome, "value": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high,
                    "objects": found.n, "floor": floor.value if floor else None,
                    "control": "floor: a second seed of the student alone" if floor else "",
                    **_above(hits, other if floor else None, image, outcome, confidence),
                }  # fmt: skip
            counts = table_of_outcomes(hits)
            for cell in np.ndindex(2, 2, 2):
                letters = "".join(letter if one else letter.lower() for letter, one in zip("TBK", cell, strict=True))
                yield about | where | {"measure": "objects", "outcome": letters, "value": counts[cell] / len(trials)}


def _above(
    hits: Sequence[np.ndarray], again: Sequence[np.ndarray] | None, image: np.ndarray, outcome: str, confidence: float
) -> dict[str, float]:
    """By how much the share is above that of the second seed; they are of the same images."""
    if again is None or len(again[0]) != len(hits[0]):
        return {}
    images = int(image.max(initial=-1)) + 1
    sums = [np.bincount(image, part, images) for some in (hits, again) for part in _counted(outcome, *some)]
    return _as_gain(gap_of_shares(*sums, confidence=confidence))


def _as_gain(gap: Outcome) -> dict[str, float]:
    return {"gain": gap.value, "gain_low": gap.ci_low, "gain_high": gap.ci_high}


def _counted(outcome: str, t: np.ndarray, b: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which objects count for an outcome, and of which."""
    of = {"transfer": t & ~b, "beyond-teacher": ~t & ~b, "harm": b, "kept": b}[outcome]
    return of & (~k if outcome == "harm" else k), of


def _parts(one: Seen) -> Iterator[tuple[str, str, np.ndarray]]:
    """(area, class, which objects): all, by area, by class; crowds are in none."""
    labels = one.objects.labels.numpy()
    counted = one.matches["all"].counted
    for area, matches in one.matches.items():
        yield area, EVERY, matches.counted
    for number, name in enumerate(one.classes, 1):
        yield EVERY, name, counted & (labels == number)


def _hits(one: Seen, iou: float) -> np.ndarray:
    """Which objects the detections find that the network would be used with: those above its own best score."""
    return one.used.hits[LEVELS.index(iou)]
