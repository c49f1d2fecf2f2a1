"""What became of each object, and of each kind of mistake: what came from the teacher, what was lost?

Every object is found or missed by teacher, student alone and distilled student: transfer, what lies beyond the teacher,
and harm, beside the same three numbers of a second seed of the student alone, which no teacher can explain. Students
alone that one is asked about are of other seeds than its own. Mistakes by kind with what each costs (Bolya et al.,
ECCV 2020), and the share of false positives that are the teacher's too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import ALONE, Cast, Party
from kdscope.analyses.detection import cast_of, ordered
from kdscope.analyses.detection_lines import Line, all_seeds, line_of
from kdscope.analyses.detection_maps import EVERY
from kdscope.analyses.detection_mistakes import mistake_rows
from kdscope.analyses.detection_views import LEVELS, Seen, everyone
from kdscope.analyses.detection_words import outcome_notes, outcomes_short
from kdscope.analyses.kin import identify
from kdscope.detection.measures.outcomes import OUTCOMES, outcomes, table_of_outcomes
from kdscope.detection.measures.resampling import Score, mean_of
from kdscope.errors import KDScopeError
from kdscope.measures.result import Result
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "iou", "area", "class", "kind", "outcome", "objects", "group", "a_group", "method"),
    *("architecture", "seed", "seeds", "baseline", "control", "gain", "gain_low", "gain_high", "confidence"),
)
IOUS = (0.5, 0.75)
CONTROL = "floor: a second seed of the student alone"


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
        a share is of (the mean over comparisons); baseline, the students alone that B is; gain over the floor: more of
        what was transferred or kept, less harm and mistakes. Rows of the pair "floor:independent-student" are the
        floors: the same with a student alone in the place of K.

    Raises:
        KDScopeError: a network that classifies images, caches of different images, no student or no teacher.
    """
    roles, alone = cast_of(subjects, teacher, baseline)
    if roles is None:
        raise KDScopeError(f"{subjects[0].name} has no teacher to be compared with; name one by --teacher RUN")
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    for split in [part.strip() for part in splits.split(",") if part.strip()]:
        networks = everyone(roles, alone, split)
        found = [*_objects(roles, networks, confidence, said), *mistake_rows(roles, networks, confidence)]
        rows += [{"layer": "", "view": "none", "definition": "kdscope", **row, "split": split} for row in found]
    named = {"analysis": "detection-outcomes", "confidence": confidence}
    table = ordered(tidy([row | named for row in rows], COLUMNS))
    return Report(table, outcomes_short(table), (*roles.notes, *dict.fromkeys(said), *outcome_notes(table)))


class Became(NamedTuple):
    """What became of the objects of an area and class at an IoU: shares, of how many objects each, and who found them.

    cells: float64 [2, 2, 2], how many objects T, B and K missed (0) or found (1).
    """

    shares: dict[str, Score]
    objects: dict[str, float]
    cells: np.ndarray


Where = tuple[str, str, str]  # IoU, area, class


def _objects(
    roles: Cast, networks: Mapping[tuple, Seen], confidence: float, said: list[str]
) -> Iterator[dict[str, Any]]:
    """Each student with its teacher and students alone, and each of these in the place of the student."""
    known: dict[tuple, dict[Where, Became]] = {}
    trials: dict[tuple, dict[tuple, list[Line]]] = {}

    def became(t: Seen, one: Subject, beside: Sequence[Subject]) -> dict[Where, Became]:
        key = (t.party.key, identify(one), *map(identify, beside))
        if key not in known:
            k, every = networks[Party((one,)).key], [networks[Party((b,)).key] for b in beside]
            known[key] = _over([_became(t, b, k) for b in every])
        return known[key]

    def enter(pair: str, t: Seen, one: Subject, beside: Sequence[Subject], floor: Mapping[Where, Became]) -> None:
        group = trials.setdefault((pair, t.subject.group, one.group), {})
        if identify(one) not in group:
            k = networks[Party((one,)).key]
            about = _about(roles, pair, t, k, beside)
            group[identify(one)] = list(_lines(became(t, one, beside), floor, about, len(k.found), confidence))

    for student in roles.students:
        group = [one for one in student.independent if one.group == student.independent[0].group]
        if not group:
            continue
        t, (beside, second) = networks[Party(student.teachers[:1]).key], opponents(student.subject, group)
        if any(_same_seed(one, student.subject) for one in beside):
            said.append(
                f"{roles.name(Party((student.subject,)))} stands beside a student alone of its own seed, which began "
                "with its weights, so that both miss the same: give one of another seed"
            )
        floors = [became(t, one, opponents(one, group)[0]) for one in second]
        enter("teacher-student", t, student.subject, beside, _over(floors))
        for one in group if second else ():
            enter(ALONE, t, one, opponents(one, group)[0], {})
    for members in trials.values():
        for lines in zip(*members.values(), strict=True):
            about = lines[0].about
            named = {"a": about["a_group"], "b": about["group"], "baseline": about["baseline_group"]}
            yield from ([all_seeds(lines, named, confidence).row()] if len(lines) > 1 else [])
            yield from (line.row() for line in lines)


def opponents(student: Subject, group: Sequence[Subject]) -> tuple[list[Subject], list[Subject]]:
    """The students alone that a student stands beside, and those that stand in its place for the floor.

    The first are of other seeds: one of the student's own began with its weights and saw its batches, and so misses
    what it misses, which a second seed does not. In its place stands the one of its own seed; where there is none, each
    of them, beside the others.

    >>> group = [Subject(f"alone-seed{k}", "net", "alone", seed=k) for k in range(3)]
    >>> [[one.name for one in part] for part in opponents(Subject("kd", "net", "kd", seed=1), group)]
    [['alone-seed0', 'alone-seed2'], ['alone-seed1']]
    """
    group = [one for one in group if one is not student]
    own = [one for one in group if _same_seed(one, student)]
    others = [one for one in group if one not in own]
    return (others or own), ((own or others) if len(group) > 1 else [])


def _same_seed(one: Subject, other: Subject) -> bool:
    return one.seed is not None and one.seed == other.seed


def _about(roles: Cast, pair: str, t: Seen, k: Seen, beside: Sequence[Subject]) -> dict[str, Any]:
    alone = Party(tuple(beside[:1]))
    return {
        "a": roles.name(t.party), "b": roles.name(k.party), "group": roles.group_name(k.party), "pair": pair,
        "baseline": (roles.name if len(beside) == 1 else roles.group_name)(alone), "role": k.role, "seeds": 1,
        "baseline_group": roles.group_name(alone), "a_group": roles.group_name(t.party), "method": k.subject.method,
        "architecture": k.subject.architecture, "seed": "" if k.party.seed is None else str(k.party.seed),
    }  # fmt: skip


def _became(t: Seen, b: Seen, k: Seen) -> dict[Where, Became]:
    """With one student alone."""
    found = {}
    for iou in IOUS:
        for area, label, keep in _parts(k):
            hits = [_hits(one, iou)[keep] for one in (t, b, k)]
            shares = outcomes(*hits, k.objects.image.numpy()[keep], len(k.found))
            found[f"{iou:g}", area, label] = Became(
                {name: share.score for name, share in shares.items()},
                {name: share.n for name, share in shares.items()},
                table_of_outcomes(hits).astype(float),
            )
    return found


def _over(each: Sequence[Mapping[Where, Became]]) -> dict[Where, Became]:
    """The mean over several students alone; nothing of none."""
    found = {}
    for where in each[0] if each else ():
        some = [one[where] for one in each]
        found[where] = Became(
            {name: mean_of([one.shares[name] for one in some]) for name in OUTCOMES},
            {name: float(np.mean([one.objects[name] for one in some])) for name in OUTCOMES},
            np.mean([one.cells for one in some], axis=0),
        )
    return found


def _lines(
    found: Mapping[Where, Became], floors: Mapping[Where, Became], about: dict[str, Any], images: int, confidence: float
) -> Iterator[Line]:
    for (iou, area, label), of in found.items():
        own = about | {"iou": iou, "area": area, "class": label}
        floor = floors.get((iou, area, label))
        for outcome in OUTCOMES:
            yield line_of(
                outcome, of.shares[outcome], images, own, confidence=confidence, objects=of.objects[outcome],
                floor=floor and floor.shares[outcome], floor_objects=floor and floor.objects[outcome],
                control=f"{CONTROL} ({about['baseline_group']})",
            )  # fmt: skip
        for cell in np.ndindex(2, 2, 2):
            letters = "".join(letter if one else letter.lower() for letter, one in zip("TBK", cell, strict=True))
            count = Result("objects", float(of.cells[cell]), None, images, np.nan, np.nan)
            yield Line(own | {"outcome": letters}, count)


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
