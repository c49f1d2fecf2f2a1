"""Do the heads of two detectors say the same of the same rows? Objects and background apart, never together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdscope.analyses.cast import ALONE, Cast, Pair, pairs
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection_agreement import compared_pairs
from kdscope.analyses.detection_views import as_result
from kdscope.detection.measures.cards import DIRECTIONS, RANGES
from kdscope.detection.measures.dense_fidelity import PARTS, dense_fidelity, rows_of_others, tilted, worse_boxes
from kdscope.detection.subjects import pair_cache
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.controls import derangement
from kdscope.measures.result import Result
from kdscope.run import Run
from kdscope.sources import Subject

PAIRS = ("teacher-student", ALONE, "ceiling:student-seeds")
FLOORS = ("floor:random-init", "floor:shuffled")
BOXES, TILTED = "worse-boxes", "row-kl-tilted"


class Rows(NamedTuple):
    """What a number is of: measure, head, and part of its rows; and how much the background weighs in it."""

    measure: str
    head: str
    part: str
    background: float | None = None


def dense_findings(roles: Cast, split: str, confidence: float) -> tuple[list[tuple[Rows, Finding, str]], list[str]]:
    """Each measure of each pair, with its seed, and of all seeds together; and notes on what cannot be compared."""
    every = with_floors(roles)
    asked = {student.subject.weights: background_weight_of(student.subject) for student in roles.students}
    measured: dict[tuple, dict[Rows, Result]] = {}
    notes: list[str] = []
    for pair in every:
        try:
            cache = beside(pair, split)
        except KDScopeError as error:
            notes.append(f"rows of {roles.name(pair.b)} beside {roles.name(pair.a)} were left out: {error}")
            continue
        # A student by the weight that it was trained with, the students beside it by those of all.
        weights = sorted(
            {asked[pair.b.subjects[0].weights]} if pair.pair in (PAIRS[0], FLOORS[1]) else set(asked.values())
        )
        shuffled = pair.b.kind == "shuffled"
        measured[pair.key] = rows_of(cache, confidence, [weight for weight in weights if weight != 1], shuffled)
    found = []
    for key in dict.fromkeys(key for results in measured.values() for key in results):
        of_key: Mapping = {pair: {key: results[key]} for pair, results in measured.items() if key in results}
        framed = in_frames(every, of_key, confidence, DIRECTIONS)
        found += [(key, finding, str(finding.pair.b.seed)) for finding in framed]
        found += [(key, finding, "all") for finding in over_groups(framed, confidence, ranges=RANGES)]
    return found, list(dict.fromkeys(notes))


def with_floors(roles: Cast) -> list[Pair]:
    """Pairs of two detectors and their floors: an untrained network has answers to rows, and looks somewhere, too."""
    untrained = [pair for pair in pairs(roles) if pair.pair == FLOORS[0] and len(pair.a.subjects) == 1]
    return [*(pair for pair in compared_pairs(roles) if pair.pair in (*PAIRS, FLOORS[1])), *untrained]


def beside(pair: Pair, split: str, fitted: bool = False) -> FeatureCache:
    """The cache of both networks of a pair; b stands in the student's place, its maps adapted by a `fitted` f."""
    untrained = pair.b.kind == "random-init"
    return pair_cache(pair.b.subjects[0], pair.a.subjects[0], split, untrained=untrained, fitted=fitted)


def background_weight_of(subject: Subject) -> float:
    """How much the background weighed in the soft loss that a student was trained with; 1 where that had no weight."""
    if subject.folder is None or subject.prefix:
        return 1.0
    term = Run(subject.folder.parent).config.terms.get("soft-class", {})
    return float(term.get("background_weight", 1.5)) if term.get("weight", 0) > 0 else 1.0


def rows_of(
    cache: FeatureCache, confidence: float = 0.95, backgrounds: Sequence[float] = (), shuffled: bool = False
) -> dict[Rows, Result]:
    """Agreement and divergence of each head, and how often the student's box is worse than the teacher's.

    Args:
        backgrounds: weights of the background in a soft loss, for the divergence from what that asks for.
        shuffled: whether the student's answers are those to rows of another image: to another object, or background.
    """
    found: dict[Rows, Result] = {}
    if "coders" not in cache.identity:
        raise KDScopeError(f"{cache.path} does not say in what units boxes are: an earlier kdscope made it; delete it")
    for head, scores in cache.identity["heads"].items():
        labels, student, teacher, mine, theirs, targets = (
            cache.array(f"rows/{head}/{name}")[:]
            for name in ("labels", "student", "teacher", "student_deltas", "teacher_deltas", "targets")
        )
        images, image = len(labels), np.broadcast_to(np.arange(len(labels))[:, None], labels.shape)
        there = labels >= 0
        if shuffled and images > 1:
            other = rows_of_others(labels, derangement(images))
            there &= other >= 0
            student, mine = (each.reshape(-1, each.shape[-1])[other] for each in (student, mine))
        flat = labels[there], image[there]
        for part, values in dense_fidelity(teacher[there], student[there], *flat, images, scores).items():
            for measure, by_image in (("row-agreement", values.agreement), ("row-kl", values.kl)):
                found[Rows(measure, head, part)] = as_result(measure, by_image, confidence)
        for weight in backgrounds:
            asked = tilted(teacher[there], weight, scores)
            for part, values in dense_fidelity(asked, student[there], *flat, images, scores).items():
                found[Rows(TILTED, head, part, weight)] = as_result(TILTED, values.kl, confidence)
        coder = cache.identity["coders"][head]
        worse = worse_boxes(theirs[there], mine[there], targets[there], *flat, images, coder)
        found[Rows(BOXES, head, PARTS[0])] = as_result(BOXES, worse, confidence)
    return found
