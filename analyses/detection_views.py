"""What the networks of a cast found in the images of a split, each network once, and on which scale they are cut."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdscope.analyses.cast import Cast, Party
from kdscope.detection.average_precision import COCO_IOU, areas_for
from kdscope.detection.data.record import Objects
from kdscope.detection.matching import ALL, Matches, match
from kdscope.detection.measures.agreement import best_score
from kdscope.detection.measures.found import Found
from kdscope.detection.stored import found_in, objects_in, sizes_in
from kdscope.detection.subjects import detection_cache
from kdscope.features.cache import FeatureCache
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean
from kdscope.sources import Subject

ROLES = ("teacher", "student", "independent-student", "network")
LEVELS = COCO_IOU


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network found.

    Attributes:
        party: the network; role: one of `ROLES`, "network" where no other is known.
        cache: of kind "detection".
        found: of each image; objects: of the same images; sizes: int64 [N, 2], (height, width).
    """

    party: Party
    role: str
    cache: FeatureCache
    found: Sequence[Found]
    objects: Objects
    sizes: np.ndarray

    @property
    def subject(self) -> Subject:
        return self.party.subjects[0]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.cache.classes

    @property
    def cap(self) -> int:
        """Detections that an image may have."""
        return int(self.cache.identity.get("most", 100))

    @cached_property
    def areas(self) -> dict[str, tuple[float, float]]:
        """Ranges of object sizes in pixels: COCO's, or of generated scenes, which have one size, parts of it."""
        areas = areas_for(self.cache.identity["dataset"])
        scale = float(self.sizes[0].prod()) if areas.relative else 1.0
        return {"all": ALL} | {name: (low * scale, high * scale) for name, (low, high) in areas.ranges.items()}

    @cached_property
    def matches(self) -> dict[str, Matches]:
        """By area, at the thresholds .5 to .95."""
        return {name: match(self.found, self.objects, LEVELS, self.cap, area) for name, area in self.areas.items()}

    @cached_property
    def cut(self) -> list[Found]:
        """Detections with at least the score at which the network's own F1 at IoU .5 is largest.

        Scores of two networks are not comparable; where each would be used, they are.
        """
        matches = self.matches["all"]
        counts = matches.right[0] | matches.wrong[0]
        score = best_score(matches.scores[counts], matches.right[0, counts], int(matches.counted.sum()))
        return [some.above(score) for some in self.found]

    @cached_property
    def used(self) -> Matches:
        """What those detections find, at the thresholds .5 to .95."""
        return match(self.cut, self.objects, LEVELS, self.cap)


def seen(party: Party, role: str, split: str) -> Seen:
    """What a network found in a split, from its cache.

    Raises:
        KDScopeError: a network that classifies images.
    """
    cache = detection_cache(party.subjects[0], split)
    return Seen(party, role, cache, found_in(cache), objects_in(cache), sizes_in(cache))


def everyone(roles: Cast | None, alone: Iterable[Subject], split: str) -> dict[tuple, Seen]:
    """All networks of a cast, by the keys of their parties: teachers, students, students that had no teacher, others.

    Raises:
        KDScopeError: caches of different images or classes.
    """
    found: dict[tuple, Seen] = {}
    parts = {"teacher": [], "student": [], "independent-student": [], "network": list(alone)}
    for student in roles.students if roles else ():
        parts["teacher"] += student.teachers
        parts["student"].append(student.subject)
        parts["independent-student"] += student.independent
    for role, subjects in parts.items():
        for subject in subjects:
            party = Party((subject,))
            if party.key not in found:
                found[party.key] = seen(party, role, split)
                next(iter(found.values())).cache.check_compatible(found[party.key].cache)
    return found


def as_result(measure: str, values: np.ndarray, confidence: float = 0.95, source: str = "kdscope") -> Result:
    """The mean of values [N], NaN where an image does not count, with its bootstrap interval."""
    known = values[~np.isnan(values)]
    low, high = bootstrap_mean(known, confidence=confidence)
    return Result(
        measure, exact_mean(known), values, len(known), low, high, source=source, excluded=len(values) - len(known)
    )
