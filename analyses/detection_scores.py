"""Average precision of each network and each way of training, by area and class, and who is better than whom."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdscope.analyses.cast import ALONE, Cast, nearest_first
from kdscope.analyses.detection_maps import EVERY
from kdscope.analyses.detection_views import LEVELS, Seen
from kdscope.detection.measures.cards import DIFFERENCE, SHARE
from kdscope.detection.measures.resampling import (
    RESAMPLES,
    Score,
    image_weights,
    mean_score,
    over_trainings,
    precisions,
    recalls,
)

HEADLINE = ("ap", EVERY, EVERY)


class Ranked(NamedTuple):
    """A way of training: the networks that differ in their seeds, and the numbers of each by (measure, area, class)."""

    members: list[Seen]
    scores: list[dict[tuple[str, str, str], Score]]

    @property
    def seeds(self) -> list[int | None]:
        return [one.party.seed for one in self.members]

    def together(self, key: tuple[str, str, str]) -> Score:
        return over_trainings([scores[key] for scores in self.scores])

    def ahead_of(self, other: "Ranked", key: tuple[str, str, str]) -> Score:
        """By how much this one is better: seed by seed where both have the same seeds."""
        if self.seeds == other.seeds:
            pairs = zip(self.scores, other.scores, strict=True)
            return over_trainings([mine[key].minus(theirs[key]) for mine, theirs in pairs])
        return self.together(key).minus(other.together(key))


def scores_of(one: Seen) -> dict[tuple[str, str, str], Score]:
    """Of a network by (measure, area, class), as `in_area`, of all areas."""
    return {key: score for area in one.matches for key, score in in_area(one, area).items()}


def in_area(one: Seen, area: str) -> dict[tuple[str, str, str], Score]:
    """Of objects of an area: "ap", "ap50", "ap75" and "ar" over all classes, and of all areas AP of each class.

    The draws are the same images for every network.
    """
    images, matches = len(one.found), one.matches[area]
    weights = np.concatenate([np.ones((1, images), dtype=np.int64), image_weights(images, RESAMPLES)])
    labels, image, classes = one.objects.labels.numpy(), one.objects.image.numpy(), len(one.classes)
    ap = precisions(matches, labels, image, classes, weights)
    at = {"ap": slice(None), "ap50": [LEVELS.index(0.5)], "ap75": [LEVELS.index(0.75)]}
    scores = {(name, area, EVERY): mean_score(ap[:, some]) for name, some in at.items()}
    scores["ar", area, EVERY] = mean_score(recalls(matches, labels, image, classes, weights))
    if area == EVERY:
        scores |= {("ap", area, name): mean_score(ap[..., k : k + 1]) for k, name in enumerate(one.classes)}
    return scores


def ranked(
    networks: Iterable[Seen], measure: Callable[[Seen], dict[tuple[str, str, str], Score]] = scores_of
) -> dict[str, Ranked]:
    """The ways of training, by their groups, seeds in their order."""
    groups: dict[str, list[Seen]] = {}
    for one in networks:
        groups.setdefault(one.subject.group, []).append(one)
    ordered = {
        group: sorted(members, key=lambda one: (one.party.seed is None, one.party.seed or 0))
        for group, members in groups.items()
    }
    return {group: Ranked(members, [measure(one) for one in members]) for group, members in ordered.items()}


def score_rows(roles: Cast | None, networks: Mapping[tuple, Seen], confidence: float) -> Iterator[dict[str, Any]]:
    """Rows of each network, of all seeds of each way of training, and of the differences between these."""
    every = ranked(networks.values())
    yield from own_rows(roles, every, confidence, every)
    yield from _differences(roles, every, confidence)


def own_rows(
    roles: Cast | None, every: Mapping[str, Ranked], confidence: float, teachers: Mapping[str, Ranked]
) -> Iterator[dict[str, Any]]:
    """Rows of each network and of all seeds of each way of training, beside the student alone and the teacher."""
    for of in every.values():
        rival = _rival(of.members[0], every)
        teacher = _teacher(roles, of.members[0], teachers)
        for row in [*([None] if len(of.members) > 1 else []), *range(len(of.members))]:
            for key in of.scores[0]:
                yield _row(roles, of, row, key, rival if rival is not of else None, teacher, confidence)


def _row(
    roles: Cast | None,
    of: Ranked,
    row: int | None,
    key: tuple[str, str, str],
    rival: Ranked | None,
    teacher: Ranked | None,
    confidence: float,
) -> dict[str, Any]:
    """A number of one network, or (`row` None) of all its seeds, between the student alone and the teacher.

    One network has the student alone of its own seed for its floor, so that the gain is what lies between the two.
    """
    one = of.members[row or 0]
    score = of.together(key) if row is None else of.scores[row][key]
    gain = None
    if rival is not None:
        mine = of if row is None else Ranked([one], [of.scores[row]])
        rival = rival if row is None else _same_seed(rival, one)
        gain = mine.ahead_of(rival, key)
    floor = rival and rival.together(key).value
    ceiling = teacher and teacher.together(key).value
    frame = {"floor": rival, "ceiling": teacher}
    words = [
        f"{side}: {_name(roles, other, 0 if len(other.members) == 1 else None)}"
        for side, other in frame.items()
        if other is not None
    ]
    low, high = score.interval(confidence, SHARE)
    return {
        "measure": key[0], "area": key[1], "class": key[2], "definition": "kdscope", "a": "true boxes",
        "b": _name(roles, of, row), "group": _name(roles, of, None), "value": score.value, "ci_low": low,
        "ci_high": high, "floor": floor, "ceiling": ceiling, "n": len(one.found), "pair": "truth",
        "role": one.role, "method": one.subject.method, "architecture": one.subject.architecture,
        "seed": "all" if row is None else _seed(one),
        "seeds": len(of.members) if row is None else 1, "control": "; ".join(words), **_gain(gain, confidence),
    }  # fmt: skip


def _differences(roles: Cast | None, ranked: Mapping[str, Ranked], confidence: float) -> Iterator[dict[str, Any]]:
    """Each student beside every other student of its architecture, and beside those that had no teacher."""
    for of in ranked.values():
        for k in range(1, len(of.members)):
            gap = of.scores[k][HEADLINE].minus(of.scores[k - 1][HEADLINE])
            yield _difference(roles, of, gap, EVERY, confidence) | {
                "a": _name(roles, of, k - 1), "b": _name(roles, of, k), "seeds": 1,
                "seed": _seed(of.members[k]), "pair": f"ceiling:{of.members[0].role.split('-')[-1]}-seeds",
            }  # fmt: skip
    students = [of for of in ranked.values() if of.members[0].role == "student"]
    alone = [of for of in ranked.values() if of.members[0].role == "independent-student"]
    for mine, other in [*itertools.product(students, alone), *itertools.combinations(students, 2)]:
        first, second = mine.members[0], other.members[0]
        if first.subject.architecture != second.subject.architecture:
            continue
        for area in first.areas:
            gap = mine.ahead_of(other, ("ap", area, EVERY))
            yield _difference(roles, mine, gap, area, confidence) | {
                "a": _name(roles, other, None), "b": _name(roles, mine, None), "seed": "all",
                "pair": ALONE if other in alone else "student-student",
                "seeds": len(mine.members),
            }  # fmt: skip


def _difference(roles: Cast | None, of: Ranked, gap: Score, area: str, confidence: float) -> dict[str, Any]:
    low, high = gap.interval(confidence, DIFFERENCE)
    first = of.members[0]
    return {
        "measure": "ap-difference", "area": area, "class": EVERY, "definition": "kdscope", "value": gap.value,
        "ci_low": low, "ci_high": high, "n": len(first.found), "role": first.role, "method": first.subject.method,
        "architecture": first.subject.architecture, "group": _name(roles, of, None),
    }  # fmt: skip


def _rival(one: Seen, ranked: Mapping[str, Ranked]) -> Ranked | None:
    """The students without a teacher that this one is compared with: of its architecture, those nearest to it."""
    if one.role not in ("student", "independent-student"):
        return None
    alone = {of.members[0].subject: of for of in ranked.values() if of.members[0].role == "independent-student"}
    fitting = [subject for subject in alone if subject.architecture == one.subject.architecture]
    own = [subject for subject in fitting if subject.group == one.subject.group]
    return alone[(own or nearest_first(one.subject, fitting))[0]] if fitting else None


def _teacher(roles: Cast | None, one: Seen, ranked: Mapping[str, Ranked]) -> Ranked | None:
    """Whom this one learned from, if it is one alone."""
    students = [student for student in (roles.students if roles else ()) if student.subject is one.subject]
    groups = {teacher.group for student in students for teacher in student.teachers}
    return ranked.get(groups.pop()) if len(groups) == 1 else None


def _same_seed(rival: Ranked, one: Seen) -> Ranked:
    """The rival of the same seed; without one, all of them."""
    row = rival.seeds.index(one.party.seed) if one.party.seed in rival.seeds else None
    return rival if row is None else Ranked([rival.members[row]], [rival.scores[row]])


def _name(roles: Cast | None, of: Ranked, row: int | None) -> str:
    party = of.members[row or 0].party
    if roles is None:
        return party.subjects[0].name
    return roles.group_name(party) if row is None else roles.name(party)


def _seed(one: Seen) -> str:
    return "" if one.party.seed is None else str(one.party.seed)


def _gain(gain: Score | None, confidence: float) -> dict[str, float | None]:
    low, high = gain.interval(confidence, DIFFERENCE) if gain else (None, None)
    return {"gain": gain and gain.value, "gain_low": low, "gain_high": high}
