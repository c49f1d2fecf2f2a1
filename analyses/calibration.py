"""Is each network as often right as it says, and does the student inherit that from its teacher?

Naeini et al. 2015; Guo C. et al. 2017; Kumar et al. 2019; Blasiok & Nakkiran 2024. Every network at T = 1 and at its
best temperature, which is fitted on the other half of the images; beside each error what a perfectly calibrated model
of the same confidences would get, for that is not 0; and the gap between student and teacher on the same images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdscope.analyses.answers import SINGLE, Answers, ask, parties, splits_of, teacher_of
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.calibration_words import short, verdicts
from kdscope.analyses.cast import Cast, Party, cast
from kdscope.analyses.options import definitions
from kdscope.measures import MEASURES
from kdscope.measures.bins import BINS, reliability
from kdscope.measures.calibration import CalibrationMeasure
from kdscope.measures.contingency import jackknife
from kdscope.measures.logits import suitable, update_all
from kdscope.measures.result import Result
from kdscope.measures.seeds import differences, over_seeds
from kdscope.measures.statistics import paired_bootstrap, student_interval, wilson
from kdscope.measures.temperature import cross_fitted
from kdscope.sources import Subject

COLUMNS = (
    *("role", "group", "method", "architecture", "seed", "seeds", "temperature", "fitted"),
    *(
        "null",
        "null_low",
        "null_high",
        "p_value",
        "gap",
        "gap_low",
        "gap_high",
        "bin_low",
        "bin_high",
        "confidence",
        "control",
    ),
)
FAMILY = "calibration"
CONTROL = "floor: a perfectly calibrated model of the same confidences"


@analysis(
    "calibration",
    summary="Is each network right as often as it says, at T = 1 and at its best temperature?",
    citation="Guo C. et al., ICML 2017; Kumar et al., NeurIPS 2019; Blasiok & Nakkiran, ICLR 2024",
    sources=("teacher", "baseline"),
)
def calibration(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str | None = "test",
    view: str = "none",
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
    draws: int = 100,
) -> Report:
    """All calibration measures of each network, one row for each temperature.

    Args:
        splits: names, or one text with commas. On train a network that fits it has little to be judged on.
        view: the augmentation under which all are shown the same images.
        definition: "guo2024-code" or "stanton2021" add rows of that definition.
        teacher, baseline: as for fidelity.
        confidence: of all intervals.
        draws: sets of labels drawn for the null.

    Returns:
        A report whose table has one row for each network (b) and measure: temperature ("1" or "best"), fitted (the
        two temperatures, each fitted on the half of the images where it is not judged), null and null_low, null_high
        (a perfectly calibrated model of these confidences; `floor` is the same), p_value (share of such models with so
        large an error), and for a student (a is its teacher) gap: student less teacher, paired by image. Rows of
        measure "reliability" are the bins of its diagram: value is the accuracy, `bin_confidence` the confidence. Rows
        of seed "all" are means over seeds, whose intervals are for another training and other images.

    Raises:
        KDScopeError: no student or no teacher among the sources, an unknown definition, caches of different images.
    """
    roles = cast(subjects, teacher, baseline)
    asked = definitions(definition, suitable(["labels"], family=FAMILY), "calibration")
    rows: list[dict[str, Any]] = []
    for part in splits_of(splits, roles):
        for named in asked:
            rows += _of_split(roles, part, view, named, confidence, draws)
    table = tidy(rows, (*COLUMNS, "bin_confidence"))
    return Report(table, short(table), (*roles.notes, *verdicts(table)))


@dataclass(frozen=True)
class Found:
    """One measure of a network at one temperature: with the null's mean and ends, and the gap to its teacher."""

    party: Party
    role: str
    above: Party | None
    temperature: str
    fitted: str
    result: Result
    null: tuple[float, float, float]
    p_value: float
    gap: Result | None


def _of_split(
    roles: Cast, split: str, view: str, definition: str, confidence: float, draws: int
) -> Iterator[dict[str, Any]]:
    taught = {student.subject.name: teacher_of(student) for student in roles.students}
    states: dict[tuple, dict] = {}
    every: list[Found] = []
    for role, party in parties(roles):
        answers = ask(party, role, split, view)
        if answers is None:
            continue
        above = taught.get(party.subjects[0].name) if role == "student" else None
        for temperature in ("1", "best"):
            fitted, measured = _measure(answers, temperature, definition)
            states[party.key, temperature] = measured
            other = states.get((above.key, temperature)) if above else None
            known = (party, role, above, temperature, fitted)
            found = [
                Found(*known, *_beside(state, other and other[name], confidence, draws))
                for name, state in measured.items()
            ]
            shared = _shared(roles, found[0], split, view, definition, confidence)
            yield from (shared | _row(one) for one in found)
            if definition == "kdscope":
                yield from (shared | row for row in _diagram(measured["ece"], confidence))
            every += found
    for members in _by_seeds(every):
        yield _shared(roles, members[0], split, view, definition, confidence, len(members)) | _over(members, confidence)


def _shared(
    roles: Cast, found: Found, split: str, view: str, definition: str, confidence: float, seeds: int = 1
) -> dict[str, Any]:
    """What all rows of a network, or of the seeds of a group, have in common."""
    name, subject = roles.name if seeds == 1 else roles.group_name, found.party.subjects[0]
    seed = "" if found.party.seed is None else str(found.party.seed)
    return {
        "analysis": "calibration", "definition": definition, "a": name(found.above) if found.above else "",
        "b": name(found.party), "layer": "", "split": split, "view": view, "role": found.role,
        "group": roles.group_name(found.party), "method": subject.method, "architecture": subject.architecture,
        "seed": seed if seeds == 1 else "all", "seeds": seeds, "temperature": found.temperature,
        "fitted": found.fitted if seeds == 1 else "", "confidence": confidence, "control": CONTROL,
    }  # fmt: skip


def _by_seeds(found: Sequence[Found]) -> list[list[Found]]:
    """The measures that several seeds of a student, a teacher or an independent student have in common."""
    groups: dict[tuple, list[Found]] = {}
    for one in found:
        if one.role in SINGLE:
            key = (one.role, one.party.groups, one.above and one.above.groups, one.temperature, one.result.measure)
            groups.setdefault(key, []).append(one)
    return [members for members in groups.values() if len(members) > 1]


def _over(members: Sequence[Found], confidence: float) -> dict[str, Any]:
    """The mean over seeds, for another training and other images; the null is the mean of those of each seed."""
    within = MEASURES[members[0].result.measure].card.range
    result = over_seeds([one.result for one in members], confidence=confidence, within=within)
    gaps = [one.gap for one in members]
    gap = over_seeds(gaps, confidence=confidence, within=differences(within)) if all(gaps) else None
    null = tuple(float(np.mean(side)) for side in zip(*(one.null for one in members), strict=True))
    return _row(replace(members[0], result=result, null=null, p_value=np.nan, gap=gap))


def _measure(answers: Answers, temperature: str, definition: str) -> tuple[str, dict]:
    """What was fitted, and the measures of a network at that temperature."""
    logits, fitted = answers.logits, ""
    if temperature == "best":
        logits, found = cross_fitted(logits, answers.labels)
        fitted = ", ".join(f"{value:.3g}" for value in found)
    states = {name: MEASURES[name](definition) for name in suitable(["labels"], definition, FAMILY)}
    update_all(list(states.values()), logits, logits, answers.labels)
    return fitted, states


def _beside(state: Any, other: Any, confidence: float, draws: int) -> tuple:
    """The result, what calibrated models get (mean, ends, share of as large ones), and the gap to another network."""
    result: Result = state.compute(confidence)
    drawn = state.null(draws)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean, p_value = float(drawn.mean()), np.nan
    null = (mean, float(low), float(high))
    if len(drawn) > 1:
        p_value = float((1 + (drawn >= result.value).sum()) / (1 + len(drawn)))
    else:
        null = (mean, np.nan, np.nan)
    gap = None
    if isinstance(state, CalibrationMeasure) and other is not None:
        value, low, high = _gap(state, other, confidence)
        gap = replace(result, value=value, ci_low=low, ci_high=high)
    elif other is not None:
        theirs = other.compute(confidence).per_sample
        value, low, high = paired_bootstrap(result.per_sample, theirs, confidence=confidence)
        gap = replace(result, value=value, ci_low=low, ci_high=high, per_sample=result.per_sample - theirs)
    return result.with_frame(floor=mean), null, p_value, gap


def _row(found: Found) -> dict[str, Any]:
    null, gap = found.null, found.gap
    row = found.result.with_frame(floor=null[0]).row() | {
        "null": null[0], "null_low": null[1], "null_high": null[2], "p_value": found.p_value
    }  # fmt: skip
    return row if gap is None else row | {"gap": gap.value, "gap_low": gap.ci_low, "gap_high": gap.ci_high}


def _gap(state: CalibrationMeasure, other: CalibrationMeasure, confidence: float) -> tuple[float, float, float]:
    """Student less teacher, with the jackknife over the images that both saw."""
    (value, parts), (beside, others) = (
        one.error(one.bins(answers[0]), *answers) for one in (state, other) for answers in [one.answers()]
    )
    if state.root:  # the jackknife of a root that is cut off at 0 is none: to first order, by the slope of the root
        roots = [max(state.scale(value), 1e-3), max(other.scale(beside), 1e-3)]
        parts, others = (each / (2 * root) for each, root in zip((parts, others), roots, strict=True))
    _, error = jackknife(0.0, parts - others, np.ones(len(parts)))
    gap = state.point() - other.point()
    return gap, *student_interval(gap, error, len(parts), confidence)


def _diagram(state: CalibrationMeasure, confidence: float) -> Iterator[dict[str, Any]]:
    found = reliability(*state.answers(), BINS)
    columns = (found[key] for key in ("low", "high", "n", "confidence", "right"))
    for low, high, n, said, right in zip(*columns, strict=True):
        ends = wilson(float(right), float(n), confidence)
        yield {
            "measure": "reliability", "value": right, "ci_low": ends[0], "ci_high": ends[1], "floor": said, "n": n,
            "ceiling": np.nan, "bin_low": low, "bin_high": high, "bin_confidence": said,
        }  # fmt: skip
