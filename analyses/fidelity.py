"""How closely does the student follow its teacher, and is that more than two networks that never met would agree?

Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021; Guo et al., arXiv 2405.00739. Every student
against each of its teachers and their ensemble, on train and on test, between a floor and a ceiling
(`kdscope.analyses.cast`); over seeds; over epochs, where a run kept probes; and what the teacher changed, by image.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.answers import splits_of
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import PAIRS, TAUGHT, Cast, Pair, cast, pairs
from kdscope.analyses.compare import Finding, measure_caches, measure_pairs, over_groups
from kdscope.analyses.compared_blocks import Excerpt
from kdscope.analyses.fidelity_words import short, verdicts
from kdscope.analyses.options import definitions
from kdscope.measures.logits import suitable
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "group", "a_group", "method", "architecture", "seed", "seeds", "epoch"),
    *("baseline", "control", "gain", "gain_low", "gain_high", "confidence", "excluded"),
)


@analysis(
    "fidelity",
    summary="How closely does the student follow its teacher, between floor and ceiling?",
    citation="Stanton et al., NeurIPS 2021; Guo et al., arXiv 2405.00739",
    sources=("teacher", "baseline"),
)
def fidelity(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str | None = None,
    view: str = "none",
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """All fidelity measures of each student against each teacher, and of the controls, as one tidy table.

    Args:
        splits: names, or one text with commas; default: train and test, as far as bare caches have them.
        view: the augmentation under which all are shown the same images.
        definition: "guo2024-code" or "stanton2021" add rows of that definition to those of the sound one.
        teacher: whom to compare the students with, instead of the teachers that they had.
        baseline: students that were trained without a teacher; else those among the sources.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair (`kdscope.analyses.cast.PAIRS`), group and a_group
        (what a and b have in common with their other seeds), seed ("all": mean over `seeds` trainings, with an
        interval over seeds and images), epoch, control (what floor and ceiling are), and gain: by how much b is nearer
        to a than the floor is (for accuracy: by how much better), with its paired interval.

    Raises:
        KDScopeError: no student or no teacher among the sources, an unknown definition, caches of different images.
    """
    roles = cast(subjects, teacher, baseline)
    parts = splits_of(splits, roles)
    findings: list[tuple[str, str, Finding]] = []
    for part in parts:
        for named in definitions(definition, suitable(["labels", "baseline_logits"]), "fidelity"):
            found = measure_pairs(pairs(roles), part, view, named, confidence)
            if view == "none":
                found += [f for pair in pairs(roles) for f in _over_epochs(pair, part, named, confidence)]
            findings += [(part, str(f.pair.b.seed), f) for f in found]
            findings += [(part, "all", f) for f in over_groups(found, confidence)]
    rows = [_row(roles, part, view, seed, finding) | {"confidence": confidence} for part, seed, finding in findings]
    table = _ordered(tidy(rows, COLUMNS))
    return Report(table, short(table), (*roles.notes, *verdicts(table, parts[-1])))


def _over_epochs(pair: Pair, split: str, definition: str, confidence: float) -> Iterator[Finding]:
    """The pair on the probe set, at each epoch that b kept a probe of."""
    if pair.pair not in (*TAUGHT, "floor:independent-student") or (pair.pair not in TAUGHT and pair.baseline):
        return
    bare, student = Pair(pair.pair, pair.a, pair.b), pair.b.subjects[0]
    index, teachers = None, []
    for epoch in student.probe_epochs(split):
        probe = student.probe(epoch, split)
        if index is None or not np.array_equal(index, probe.index):
            index = probe.index
            teachers = [Excerpt(subject.cache(split), index) for subject in pair.a.subjects]
        for teacher in teachers:
            teacher.check_compatible(probe)
        for result in measure_caches(bare, teachers, probe, None, definition, confidence).values():
            yield Finding(bare, result, epoch=epoch)


def _row(roles: Cast, split: str, view: str, seed: str, finding: Finding) -> dict[str, Any]:
    pair, result = finding.pair, finding.result
    together = seed == "all"
    name = roles.group_name if together else roles.name
    gain = finding.gain
    b = pair.b.subjects[0]
    return result.row(
        analysis="fidelity", a=name(pair.a), b=name(pair.b), layer="", split=split, view=view, pair=pair.pair,
        group=roles.group_name(pair.b), a_group=roles.group_name(pair.a), method=b.method, architecture=b.architecture,
        seed="" if seed == "None" else seed, seeds=finding.seeds, epoch=finding.epoch,
        baseline=name(pair.baseline) if pair.baseline else "", control=result.control,
        gain=gain and gain.value, gain_low=gain and gain.ci_low, gain_high=gain and gain.ci_high,
        excluded=result.excluded,
    )  # fmt: skip


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Split by split, the pairs in the order of `PAIRS`, all seeds together before each alone, epochs last."""
    keys = {
        "split": lambda column: column.map(list(dict.fromkeys(column)).index),
        "pair": lambda column: column.map(PAIRS.index),
        "epoch": lambda column: column.fillna(-1),
        "seed": lambda column: column.map(lambda seed: (-1, "") if seed == "all" else (0, seed.zfill(9))),
    }
    names = ["split", "pair", "epoch", "group", "a_group", "seed", "b", "a", "definition"]
    order = pd.DataFrame({name: keys.get(name, lambda column: column)(table[name]) for name in names})
    table = table.loc[order.sort_values(names, kind="stable").index].reset_index(drop=True)
    table["epoch"] = table["epoch"].astype("Int64")
    return table
