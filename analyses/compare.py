"""Measures of pairs of networks from their caches, in blocks: between floor and ceiling, and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdscope.analyses.cast import TAUGHT, Pair, Party
from kdscope.analyses.compared_blocks import pair_blocks
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures import MEASURES
from kdscope.measures.logits import suitable, update_all
from kdscope.measures.result import Result
from kdscope.measures.seeds import EVERYTHING, differences, over_seeds
from kdscope.measures.statistics import centred_interval, paired_bootstrap

FLOORS = {
    "floor:independent-student": "independent student",
    "floor:random-init": "random init",
    "floor:shuffled": "shuffled images",
}
CEILINGS = {"ceiling:student-seeds": "seeds of the student", "ceiling:teacher-seeds": "seeds of the teacher"}
FIXED = ("teacher-accuracy",)  # says nothing of b, and so has no floor


@dataclass(frozen=True)
class Finding:
    """A measure of one pair, in its frame.

    Attributes:
        gain: by how much b is nearer to a than the floor is (for accuracy: better), paired image by image.
        seeds: how many pairs of trainings are behind the number.
    """

    pair: Pair
    result: Result
    gain: Result | None = None
    seeds: int = 1
    epoch: int | None = None


def measure_pairs(
    pairs: Sequence[Pair],
    split: str,
    view: str = "none",
    definition: str = "kdscope",
    confidence: float = 0.95,
    family: str = "fidelity",
) -> list[Finding]:
    """Each measure of a family that knows `definition`, of each pair of known networks, with floors and ceilings.

    Raises:
        KDScopeError: caches of different images or classes.
    """
    measured: dict[tuple, dict[str, Result]] = {}
    for pair in pairs:
        caches = _caches(pair, split, view)
        if caches is not None:
            measured[pair.key] = measure_caches(pair, *caches, definition, confidence, family)
    return in_frames(pairs, measured, confidence)


def in_frames(
    pairs: Sequence[Pair],
    measured: Mapping[tuple, Mapping[Any, Result]],
    confidence: float = 0.95,
    directions: Mapping[str, str] | None = None,
) -> list[Finding]:
    """What was measured of pairs (by their keys, then by any name), those of students between floors and ceilings.

    `directions`: "higher", "lower" or "none" is nearer, for measures that have no card.
    """
    known = [pair for pair in pairs if pair.key in measured]
    findings: list[Finding] = []
    for pair in known:
        floors, ceilings = (_floors(pair, known), _ceilings(pair, known)) if pair.pair in TAUGHT else ([], [])
        for name, result in measured[pair.key].items():
            below = [(f, measured[f.key][name]) for f in floors if name in measured[f.key]]
            above = [(c, measured[c.key][name]) for c in ceilings if name in measured[c.key]]
            findings.append(_framed(pair, result, below, above, confidence, directions or {}))
    return findings


def measure_caches(
    pair: Pair,
    a: Sequence[FeatureCache],
    b: FeatureCache,
    baseline: FeatureCache | None,
    definition: str = "kdscope",
    confidence: float = 0.95,
    family: str = "fidelity",
) -> dict[str, Result]:
    """The measures of what caches say of the same images: `a` those of a teacher or of the members of an ensemble."""
    names = suitable(["labels", *(["baseline_logits"] if baseline is not None else [])], definition, family)
    if pair.pair in FLOORS and baseline is not None:  # what does not ask for the baseline is known from another pair
        names = [name for name in names if "baseline_logits" in MEASURES[name].card.needs]
    states = {name: MEASURES[name](definition) for name in names}
    for how, chosen in _by_ensemble(states, pair.a.ensemble if definition == "kdscope" else None).items():
        for block in pair_blocks(pair.b.kind == "shuffled", a, b, baseline, how):
            try:
                update_all(chosen, *block)
            except KDScopeError as error:
                whose = {"teacher": a, "student": [b], "baseline": [baseline] if baseline is not None else []}
                paths = ", ".join(str(cache.path) for cache in whose.get(str(error).split()[0], []))
                raise KDScopeError(f"{paths}: {error}" if paths else str(error)) from error
    return {name: state.compute(confidence) for name, state in states.items() if state.seen}


def over_groups(
    findings: Sequence[Finding],
    confidence: float = 0.95,
    *,
    scaled: bool = False,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> list[Finding]:
    """One finding more for all seeds of a group together, for each pair and measure that has at least two.

    `scaled` numbers, such as logarithms, do not end where the measure does; `ranges` are of measures without a card.
    """
    groups: dict[tuple, list[Finding]] = {}
    for finding in findings:
        pair = finding.pair
        key = (pair.pair, pair.a.groups, pair.b.groups, finding.result.measure, finding.result.definition)
        groups.setdefault((*key, finding.epoch), []).append(finding)
    several = [members for members in groups.values() if len(members) > 1]
    return [
        _together(members, confidence, EVERYTHING if scaled else possible(members[0].result.measure, ranges or {}))
        for members in several
    ]


def possible(measure: str, ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """What a measure can be, by its card or by `ranges`."""
    return MEASURES[measure].card.range if measure in MEASURES else ranges.get(measure, EVERYTHING)


def _together(findings: list[Finding], confidence: float, within: tuple[float, float]) -> Finding:
    results, gains = [f.result for f in findings], [f.gain for f in findings]
    again = findings[0].pair.pair in CEILINGS  # two seeds of one training, each in two pairs
    result = over_seeds(results, confidence=confidence, within=within, ring=again).with_frame(
        *(_mean([getattr(each, side) for each in results]) for side in ("floor", "ceiling")), results[0].control
    )
    gain = over_seeds(gains, confidence=confidence, within=differences(within)) if all(gains) else None
    known = sum(each.n > 0 for each in results)  # a training for which no image counts is not in the mean
    return Finding(findings[0].pair, result, gain, known, findings[0].epoch)


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean(values))


def _framed(
    pair: Pair,
    result: Result,
    floors: Sequence[tuple[Pair, Result]],
    ceilings: Sequence[tuple[Pair, Result]],
    confidence: float,
    directions: Mapping[str, str],
) -> Finding:
    """The result between the first of its floors and the mean of its ceilings of the first kind."""
    direction = directions.get(result.measure) or MEASURES[result.measure].card.direction
    if result.measure in FIXED:
        return Finding(pair, result)
    again = [found.value for c, found in ceilings if c.pair == ceilings[0][0].pair] if direction != "none" else []
    words = [f"floor: {FLOORS[floors[0][0].pair]}"] if floors else []
    words += [f"ceiling: {CEILINGS[ceilings[0][0].pair]}"] if again else []
    floor = floors[0][1] if floors else None
    framed = result.with_frame(floor and floor.value, float(np.mean(again)) if again else None, "; ".join(words))
    return Finding(pair, framed, _gain(result, floor, direction, confidence) if floor else None)


def _floors(pair: Pair, pairs: Sequence[Pair]) -> list[Pair]:
    """Floors of a student and its teacher, the one that asks most first."""
    student = pair.b.subjects[0]
    serves = {
        "floor:independent-student": lambda f: (
            pair.baseline is not None and (pair.baseline.key in (f.b.key, f.baseline and f.baseline.key))
        ),
        "floor:random-init": lambda f: f.b.subjects[0].architecture == student.architecture,
        "floor:shuffled": lambda f: f.b.subjects[0] is student,
    }
    return [f for kind, fits in serves.items() for f in pairs if f.pair == kind and f.a.key == pair.a.key and fits(f)]


def _ceilings(pair: Pair, pairs: Sequence[Pair]) -> list[Pair]:
    """All reruns of the student; where there are none, those of its teacher."""
    of_student = [c for c in pairs if c.pair == "ceiling:student-seeds" and c.b.groups == pair.b.groups]
    of_teacher = [c for c in pairs if c.pair == "ceiling:teacher-seeds" and c.b.groups == pair.a.groups]
    return [*of_student, *of_teacher]


def _gain(result: Result, floor: Result, direction: str, confidence: float) -> Result | None:
    """By how much the result is nearer than the floor, image by image; by draws where neither is a mean over images."""
    a, b = (result, floor) if direction != "lower" else (floor, result)
    if result.definition != "kdscope":
        return None
    if a.draws is not None and b.draws is not None and len(a.draws) == len(b.draws):
        value, draws = a.value - b.value, a.draws - b.draws
        low, high = centred_interval(value, draws, confidence)
        return replace(result, value=value, ci_low=low, ci_high=high, draws=draws)
    if a.per_sample is None or b.per_sample is None or len(a.per_sample) != len(b.per_sample):
        return None
    value, low, high = paired_bootstrap(a.per_sample, b.per_sample, confidence=confidence)
    return replace(result, value=value, ci_low=low, ci_high=high, per_sample=a.per_sample - b.per_sample)


def _caches(pair: Pair, split: str, view: str) -> tuple | None:
    """Caches of a (each member), of b, and of the baseline; None where a control's network is not known."""
    a = [_cache(Party((subject,), pair.a.kind), split, view) for subject in pair.a.subjects]
    b = _cache(pair.b, split, view)
    baseline = _cache(pair.baseline, split, view) if pair.baseline else None
    if b is None or None in a:
        return None
    for other in (*a[1:], b, *([baseline] if baseline is not None else [])):
        a[0].check_compatible(other)
    return a, b, baseline


def _cache(party: Party, split: str, view: str) -> FeatureCache | None:
    subject = party.subjects[0]
    return subject.random_init(split, view) if party.kind == "random-init" else subject.cache(split, view)


def _by_ensemble(states: dict, how: str | None) -> dict[str, list]:
    """Measures by the way in which they combine several teachers: the run's own, or that of their definition."""
    groups: dict[str, list] = {}
    for state in states.values():
        groups.setdefault(how or state.defined.ensemble, []).append(state)
    return groups
