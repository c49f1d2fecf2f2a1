"""Where do a student's features cost average precision, if the teacher's own head has to work with them?

Parts of the teacher's maps are replaced by the student's, in every combination, and the teacher's head goes on from
there. Shapley's values share what is lost out among objects, the ring around them and the rest, or among the levels of
the pyramid: in points of AP, not in units of features, and they add up to all of it exactly.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import ALONE, Cast, Pair
from kdscope.analyses.detection import cast_of, ordered
from kdscope.analyses.detection_agreement import compared_pairs
from kdscope.analyses.detection_attention_pairs import FITTED
from kdscope.analyses.detection_lines import all_seeds, line_of
from kdscope.analyses.detection_views import LEVELS
from kdscope.analyses.detection_words import patch_notes, patch_short
from kdscope.analyses.options import chosen
from kdscope.detection.matching import match
from kdscope.detection.measures.resampling import Score, image_weights, mean_score, precisions
from kdscope.detection.measures.shapley import shapley, subsets
from kdscope.detection.patch import named
from kdscope.detection.stored import found_in, objects_in
from kdscope.detection.subjects import pair_cache
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "by", "part", "group", "a_group", "method", "architecture", "seed", "seeds", "control"),
    *("gain", "gain_low", "gain_high", "confidence"),
)
KINDS = ("regions", "levels")
DEFINITIONS = ("kdscope", FITTED)
RESAMPLES = 200  # of each combination
TEACHER, ALL = "none", "all"


@analysis(
    "detection-patch-in",
    summary="Where do a student's features cost average precision under the teacher's head?",
    citation="kdscope; Shapley 1953",
    sources=("teacher", "baseline"),
)
def detection_patch_in(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    by: str = "regions,levels",
    definition: Sequence[str] | str = DEFINITIONS,
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """AP that is lost in each region and level, of each student and of the student alone, as a tidy table.

    Args:
        by: "regions" (8 combinations), "levels" (2 to the number of levels), or both with a comma.
        definition: what f makes of the student's maps: "kdscope" what its run trained, else the identity, which no
            student alone was ever asked to fit; "fitted" what least squares finds on up to 200 training images, of all
            students alike. Each costs a cache of its own, so that those that are named here are the only ones.
        splits, teacher, baseline, confidence: as for the analysis `detection`.

    Returns:
        A report whose table has, besides the shared columns: by and part; measure "ap-lost" (Shapley's value of a part;
        "all": their sum), whose gain is by how much less is lost than by the student alone, and "patched-ap" (of the
        teacher's head where the parts, joined by "+", are the student's).

    Raises:
        KDScopeError: a network that classifies images, maps that do not fit in each other's place, an unknown `by` or
            definition.
    """
    roles, _ = cast_of(subjects, teacher, baseline)
    if roles is None:
        raise KDScopeError(f"{subjects[0].name} has no teacher to be compared with; name one by --teacher RUN")
    kinds = [kind.strip() for kind in by.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in KINDS:
            raise KDScopeError(f"parts by {kind!r} are unknown; they are by regions or levels")
    asked = chosen(definition, DEFINITIONS, "detection-patch-in")
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    for split in [part.strip() for part in splits.split(",") if part.strip()]:
        for name, kind in itertools.product(asked, kinds):
            own = {"split": split, "definition": name}
            rows += [row | own for row in _rows(roles, split, kind, name == FITTED, confidence, said)]
    if not rows:
        raise KDScopeError(said[0] if said else "no student's features fit in the place of its teacher's")
    shared = {"analysis": "detection-patch-in", "layer": "", "view": "none"}
    table = ordered(tidy([row | shared | {"confidence": confidence} for row in rows], COLUMNS))
    return Report(table, patch_short(table), (*roles.notes, *said, *patch_notes(table)))


def _rows(
    roles: Cast, split: str, kind: str, fitted: bool, confidence: float, said: list[str]
) -> Iterator[dict[str, Any]]:
    """Each pair and the same of the student alone, and all seeds of a training together."""
    every = [pair for pair in compared_pairs(roles) if pair.pair in ("teacher-student", ALONE)]
    scores: dict[tuple, dict[tuple[str, str], Score]] = {}
    groups: dict[tuple, list[Pair]] = {}
    images = 0
    for pair in every:
        try:
            cache = pair_cache(pair.b.subjects[0], pair.a.subjects[0], split, f"patched-{kind}", fitted=fitted)
        except KDScopeError as error:
            said.append(f"{roles.name(pair.b)} in the place of {roles.name(pair.a)} was left out: {error}")
            continue
        scores[pair.key], images = losses(cache), len(cache)
        groups.setdefault((pair.pair, pair.a.groups, pair.b.groups), []).append(pair)
    for members in groups.values():
        for measure, part in scores[members[0].key]:
            own = [
                line_of(
                    measure, scores[pair.key][measure, part], images,
                    _about(roles, pair) | {"part": part, "by": kind}, confidence=confidence,
                    **(_floor(roles, pair, every, scores, part) if measure == "ap-lost" else {}),
                )
                for pair in members
            ]  # fmt: skip
            named = {"a": own[0].about["a_group"], "b": own[0].about["group"]}
            yield from ([all_seeds(own, named, confidence).row()] if len(own) > 1 else [])
            yield from (line.row() for line in own)


def _floor(
    roles: Cast, pair: Pair, every: Sequence[Pair], scores: Mapping[tuple, dict[tuple[str, str], Score]], part: str
) -> dict[str, Any]:
    """The student alone in the place of the same teacher's maps."""
    if pair.pair == ALONE or pair.baseline is None:
        return {}
    fits = [p for p in every if p.pair == ALONE and p.a.key == pair.a.key and p.b.key == pair.baseline.key]
    if not fits or fits[0].key not in scores:
        return {}
    control = f"floor: student alone ({roles.group_name(pair.baseline)})"
    return {"floor": scores[fits[0].key]["ap-lost", part], "control": control}


def _about(roles: Cast, pair: Pair) -> dict[str, Any]:
    b = pair.b.subjects[0]
    return {
        "a": roles.name(pair.a), "b": roles.name(pair.b), "pair": pair.pair, "group": roles.group_name(pair.b),
        "a_group": roles.group_name(pair.a), "method": b.method, "architecture": b.architecture,
        "role": "student" if pair.pair != ALONE else "independent-student",
        "seed": "" if b.seed is None else str(b.seed), "seeds": 1,
    }  # fmt: skip


def losses(cache: FeatureCache, resamples: int = RESAMPLES) -> dict[tuple[str, str], Score]:
    """AP of the teacher's head for every set of replaced parts, and by Shapley's values what each part loses.

    Returns:
        By ("patched-ap", set) and ("ap-lost", part), with the draws of the same resampled images; ("ap-lost", "all") is
        what is lost where all parts are replaced, and the sum of the others.
    """
    objects, parts = objects_in(cache), tuple(cache.identity["parts"])
    labels, image, images = objects.labels.numpy(), objects.image.numpy(), len(cache)
    weights = np.concatenate([np.ones((1, images), dtype=np.int64), image_weights(images, resamples)])
    value: dict[frozenset, Score] = {}
    for some in subsets(parts):
        found = found_in(cache, f"detections/{named(some, parts)}")
        matches = match(found, objects, LEVELS, int(cache.identity["most"]))
        value[some] = mean_score(precisions(matches, labels, image, len(cache.classes), weights))
    scores = {("patched-ap", named(some, parts)): score for some, score in value.items()}
    # Shapley's value is linear in those of the sets: what holds of numbers holds of each draw.
    at = shapley(parts, {some: np.append(score.value, score.draws) for some, score in value.items()})
    scores |= {("ap-lost", part): Score(-float(lost[0]), -lost[1:]) for part, lost in at.items()}
    return scores | {("ap-lost", ALL): value[frozenset()].minus(value[frozenset(parts)])}
