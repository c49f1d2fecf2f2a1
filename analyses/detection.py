"""How good is each detector, by object size, and do student and teacher find the same things?

Average precision as COCO defines it (Lin et al., ECCV 2014), of each network and each way of training, with paired
differences over images and seeds; and the fidelity of detections, between a student that had no teacher (the floor) and
a second seed (the ceiling). What heads say of the same rows is compared where both have them. And the same over epochs,
where a run kept probes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import ALONE, PAIRS, Cast, Pair, Party, cast
from kdscope.analyses.compare import FLOORS, Finding
from kdscope.analyses.detection_agreement import agreement_findings
from kdscope.analyses.detection_dense import dense_findings
from kdscope.analyses.detection_epochs import agreement_over_epochs, moments_of, rows_over_epochs, scores_over_epochs
from kdscope.analyses.detection_scores import score_rows
from kdscope.analyses.detection_views import everyone
from kdscope.analyses.detection_words import notes, short
from kdscope.analyses.kin import distinct
from kdscope.errors import KDScopeError
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "area", "class", "iou", "part", "head", "background"),
    *("group", "a_group", "method", "architecture", "seed"),
    *("seeds", "epoch", "control", "gain", "gain_low", "gain_high", "confidence", "excluded"),
)


@analysis(
    "detection",
    summary="How good are the detectors, by object size, and do student and teacher find the same things?",
    citation="Lin et al., ECCV 2014; kdscope",
    sources=("teacher", "baseline"),
)
def detection(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    heads: bool = True,
    confidence: float = 0.95,
) -> Report:
    """Average precision and fidelity of detectors, as one tidy table.

    Args:
        splits: one or more, with commas.
        teacher, baseline: as for fidelity.
        heads: whether to compare what heads say of the same rows, for which both networks run once.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair ("truth" for a network against the boxes, else
        `kdscope.analyses.cast.PAIRS`), role, area, class and iou ("all", or what the number is of), part and head (of
        rows), background (its weight in a soft loss, of the divergence from what that asks for), seed ("all": mean over
        `seeds` trainings), epoch (of the probe images, after that many epochs; else none, of all), control, and gain
        over the floor with its paired interval.

    Raises:
        KDScopeError: a network that classifies images, caches of different images.
    """
    roles, alone = cast_of(subjects, teacher, baseline)
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    for split in [part.strip() for part in splits.split(",") if part.strip()]:
        networks = everyone(roles, alone, split)
        moments = moments_of(networks, split)
        own = [*score_rows(roles, networks, confidence), *scores_over_epochs(roles, moments, confidence)]
        if roles is not None:
            found = agreement_findings(roles, networks, confidence)
            found += agreement_over_epochs(roles, moments, confidence)
            own += [row_of(roles, f, seed) | {"iou": key[1]} for key, f, seed in found]
            of_rows, left_out = dense_findings(roles, split, confidence) if heads else ([], [])
            of_rows += rows_over_epochs(roles, split, confidence) if heads else ()
            own += [row_of(roles, f, seed) | key._asdict() for key, f, seed in of_rows]
            said += left_out
        rows += [{"layer": "", "view": "none", **row, "split": split} for row in own]
    table = ordered(tidy([row | {"analysis": "detection", "confidence": confidence} for row in rows], COLUMNS))
    table["epoch"] = table["epoch"].astype("Int64")
    return Report(table, short(table), (*(roles.notes if roles else ()), *said, *notes(table)))


def cast_of(
    subjects: Sequence[Subject], teacher: Sequence[Subject], baseline: Sequence[Subject]
) -> tuple[Cast | None, list[Subject]]:
    """The roles, and those who have none; where there is nobody to be compared with, no roles."""
    taught = any(subject.teachers for subject in subjects)
    if not taught and not teacher and len(distinct(subjects)) < 2:
        return None, list(subjects)
    roles = cast(subjects, teacher, baseline)
    return roles, list(roles.others)


def row_of(roles: Cast, finding: Finding, seed: str) -> dict[str, Any]:
    """A row of a table for a finding of a pair."""
    pair, result, gain = finding.pair, finding.result, finding.gain
    name = roles.group_name if seed == "all" else roles.name
    b = pair.b.subjects[0]
    return result.row(
        a=name(pair.a), b=name(pair.b), pair=pair.pair, group=roles.group_name(pair.b),
        a_group=roles.group_name(pair.a), method=b.method, architecture=b.architecture,
        seed="" if seed == "None" else seed, seeds=finding.seeds,
        epoch=finding.epoch, control=_named(result.control, pair, name), gain=gain and gain.value,
        gain_low=gain and gain.ci_low, gain_high=gain and gain.ci_high, excluded=result.excluded,
    )  # fmt: skip


def _named(control: str, pair: Pair, name: Callable[[Party], str]) -> str:
    """Controls in words, with the name of the student alone."""
    if pair.baseline is None:
        return control
    return control.replace(FLOORS[ALONE], f"{FLOORS[ALONE]} ({name(pair.baseline)})")


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Split by split, networks against the boxes first, then the pairs in the order of `PAIRS`, epochs last, all seeds
    before each."""
    if not len(table):
        raise KDScopeError("there is nothing to be measured")
    keys = pd.DataFrame(
        {
            "split": table["split"].map(list(dict.fromkeys(table["split"])).index),
            "pair": table["pair"].map({name: k for k, name in enumerate(("truth", *PAIRS))}),
            "epoch": table["epoch"].astype(float).fillna(-1.0) if "epoch" in table else -1.0,
            "measure": table["measure"].map(list(dict.fromkeys(table["measure"])).index),
            "group": table["group"].fillna("").map(list(dict.fromkeys(table["group"].fillna(""))).index),
            "all": (table["seed"] != "all").astype(int),
        }
    )
    return table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)
