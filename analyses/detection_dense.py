"""Do the heads of two detectors say the same of the same rows? Objects and background apart, never together."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kdscope.analyses.cast import Cast, Pair
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection_agreement import compared_pairs
from kdscope.analyses.detection_views import as_result
from kdscope.detection.measures.dense_fidelity import PARTS, dense_fidelity, worse_boxes
from kdscope.detection.subjects import pair_cache
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.result import Result

DIRECTIONS = {"row-agreement": "higher", "row-kl": "lower", "worse-boxes": "lower"}
PAIRS = ("teacher-student", "floor:independent-student", "ceiling:student-seeds")
BOXES = "worse-boxes"


class Rows(NamedTuple):
    """What a number is of: measure, head, and part of its rows."""

    measure: str
    head: str
    part: str


def dense_findings(roles: Cast, split: str, confidence: float) -> tuple[list[tuple[Rows, Finding, str]], list[str]]:
    """Each measure of each pair, with its seed, and of all seeds together; and notes on what cannot be compared."""
    every = [pair for pair in compared_pairs(roles) if pair.pair in PAIRS]
    measured: dict[tuple, dict[Rows, Result]] = {}
    notes: list[str] = []
    for pair in every:
        try:
            cache = beside(pair, split)
        except KDScopeError as error:
            notes.append(f"rows of {roles.name(pair.b)} beside {roles.name(pair.a)} were left out: {error}")
            continue
        measured[pair.key] = rows_of(cache, confidence)
    found = []
    for key in dict.fromkeys(key for results in measured.values() for key in results):
        of_key: Mapping = {pair: {key: results[key]} for pair, results in measured.items() if key in results}
        framed = in_frames(every, of_key, confidence, DIRECTIONS)
        found += [(key, finding, str(finding.pair.b.seed)) for finding in framed]
        found += [(key, finding, "all") for finding in over_groups(framed, confidence)]
    return found, list(dict.fromkeys(notes))


def beside(pair: Pair, split: str) -> FeatureCache:
    """The cache of both networks of a pair; b stands in the student's place."""
    return pair_cache(pair.b.subjects[0], pair.a.subjects[0], split)


def rows_of(cache: FeatureCache, confidence: float = 0.95) -> dict[Rows, Result]:
    """Agreement and divergence of each head, and how often the student's box is worse than the teacher's."""
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
        flat = labels[there], image[there]
        for part, values in dense_fidelity(teacher[there], student[there], *flat, images, scores).items():
            for measure, by_image in (("row-agreement", values.agreement), ("row-kl", values.kl)):
                found[Rows(measure, head, part)] = as_result(measure, by_image, confidence)
        coder = cache.identity["coders"][head]
        worse = worse_boxes(theirs[there], mine[there], targets[there], *flat, images, coder)
        found[Rows(BOXES, head, PARTS[0])] = as_result(BOXES, worse, confidence)
    return found
