"""Is each network as often right as it says, and does the student inherit that from its teacher?

Naeini et al. 2015; Guo C. et al. 2017; Kumar et al. 2019; Blasiok & Nakkiran 2024. Every network at T = 1 and at its
best temperature, which is fitted on the other half of the images; beside each error what a perfectly calibrated model
of the same confidences would get, for that is not 0; and the gap between student and teacher on the same images.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.answers import Answers, ask, parties, splits_of, teacher_of
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, cast
from kdscope.analyses.options import definitions
from kdscope.measures import MEASURES
from kdscope.measures.calibration import BINS, CalibrationMeasure, reliability
from kdscope.measures.contingency import jackknife
from kdscope.measures.logits import suitable, update_all
from kdscope.measures.result import Result
from kdscope.measures.statistics import paired_bootstrap, student_interval, wilson
from kdscope.measures.temperature import cross_fitted
from kdscope.sources import Subject

COLUMNS = (
    *("role", "group", "method", "architecture", "seed", "temperature", "fitted", "null", "null_low", "null_high"),
    *("p_value", "gap", "gap_low", "gap_high", "bin_low", "bin_high", "confidence", "control"),
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
        measure "reliability" are the bins of its diagram: value is the accuracy, `bin_confidence` the confidence.

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
    return Report(table, _short(table), (*roles.notes, *_verdicts(table)))


def _of_split(
    roles: Cast, split: str, view: str, definition: str, confidence: float, draws: int
) -> Iterator[dict[str, Any]]:
    taught = {student.subject.name: teacher_of(student) for student in roles.students}
    states: dict[tuple, dict] = {}
    for role, party in parties(roles):
        answers = ask(party, role, split, view)
        if answers is None:
            continue
        above = taught.get(party.subjects[0].name) if role == "student" else None
        for temperature in ("1", "best"):
            fitted, found = _measure(answers, temperature, definition)
            states[party.key, temperature] = found
            other = states.get((above.key, temperature)) if above else None
            shared = {
                "analysis": "calibration", "definition": definition, "a": roles.name(above) if above else "",
                "b": roles.name(party), "layer": "", "split": split, "view": view, "role": role,
                "group": roles.group_name(party), "method": party.subjects[0].method,
                "architecture": party.subjects[0].architecture, "seed": party.seed, "temperature": temperature,
                "fitted": fitted, "confidence": confidence, "control": CONTROL,
            }  # fmt: skip
            for name, state in found.items():
                yield _row(state, other and other[name], confidence, draws) | shared
            if definition == "kdscope":
                yield from (row | shared for row in _diagram(found["ece"], confidence))


def _measure(answers: Answers, temperature: str, definition: str) -> tuple[str, dict]:
    """What was fitted, and the measures of a network at that temperature."""
    logits, fitted = answers.logits, ""
    if temperature == "best":
        logits, found = cross_fitted(logits, answers.labels)
        fitted = ", ".join(f"{value:.3g}" for value in found)
    states = {name: MEASURES[name](definition) for name in suitable(["labels"], definition, FAMILY)}
    update_all(list(states.values()), logits, logits, answers.labels)
    return fitted, states


def _row(state: Any, other: Any, confidence: float, draws: int) -> dict[str, Any]:
    result: Result = state.compute(confidence)
    null = state.null(draws)
    low, high = np.quantile(null, [(1 - confidence) / 2, (1 + confidence) / 2])
    drawn = len(null) > 1
    row = result.with_frame(floor=float(null.mean())).row() | {
        "null": float(null.mean()),
        "null_low": float(low) if drawn else np.nan,
        "null_high": float(high) if drawn else np.nan,
        "p_value": float((1 + (null >= result.value).sum()) / (1 + len(null))) if drawn else np.nan,
    }
    if other is None:
        return row
    if isinstance(state, CalibrationMeasure):
        gap, low, high = _gap(state, other, confidence)
    else:
        gap, low, high = paired_bootstrap(result.per_sample, other.compute(confidence).per_sample)
    return row | {"gap": gap, "gap_low": low, "gap_high": high}


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


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A row of text for each network, split and temperature; errors in %."""
    lines = []
    plain = table[(table["measure"] != "reliability") & (table["definition"] == "kdscope")]
    for (split, b, temperature), group in plain.groupby(["split", "b", "temperature"], sort=False):
        by = group.set_index("measure")
        ece = by.loc["ece"]
        shown = {"network": b, "split": split, "T": temperature if temperature == "1" else ece.fitted}
        shown["ECE %"] = f"{100 * ece.value:.1f} [{100 * ece.ci_low:.1f}, {100 * ece.ci_high:.1f}]"
        shown["calibrated"] = f"{100 * ece.null:.1f}"
        shown |= {title: f"{100 * by.loc[name].value:.1f}" for name, title in SHOWN.items()}
        lines.append(shown | {"NLL": f"{by.loc['nll'].value:.3f}", "Brier": f"{by.loc['brier'].value:.3f}"})
    return pd.DataFrame(lines)


SHOWN = {"ece-debiased": "debiased L2", "smooth-ece": "SmoothECE"}


def _verdicts(table: pd.DataFrame) -> list[str]:
    rows = table[(table["measure"] == "ece") & (table["definition"] == "kdscope") & (table["role"] == "student")]
    said = []
    for row in rows.itertuples():
        at = "T = 1" if row.temperature == "1" else f"its best T ({row.fitted})"
        noise = "no more than a calibrated model gets" if row.p_value > 0.05 else "more than a calibrated model gets"
        text = f"{row.b}, on {row.split}, at {at}: ECE {row.value:.3f}, {noise} ({row.null:.3f})"
        if not np.isnan(row.gap):
            sure = "" if row.gap_low > 0 or row.gap_high < 0 else ", which may be noise"
            text += f"; {abs(row.gap):.3f} {'above' if row.gap > 0 else 'below'} {row.a}{sure}"
        said.append(text)
    return said
