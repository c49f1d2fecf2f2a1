"""Do student and teacher find the same things? Agreement of detections, between floors and ceilings."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from kdscope.analyses.cast import Cast, Party, pairs
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection_views import LEVELS, Seen
from kdscope.detection.data.record import Objects
from kdscope.detection.matching import match
from kdscope.detection.measures.agreement import detection_agreement
from kdscope.detection.measures.found import Found
from kdscope.detection.measures.resampling import RESAMPLES, Score, image_weights, precisions
from kdscope.measures.controls import derangement
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean

SOURCE = "kdscope"
DIRECTIONS = {
    **{"agree-f1": "higher", "agree-f1-any-class": "higher", "label-agreement": "higher", "box-iou": "higher"},
    **{"score-gap": "lower", "fidelity-ap": "higher"},
}
FIELDS = {
    **{"agree-f1": "f1", "agree-f1-any-class": "f1_any_class", "label-agreement": "same_label", "box-iou": "iou"},
    **{"score-gap": "score_gap"},
}
CURVES = ("agree-f1", "agree-f1-any-class")
MEAN = "0.5:0.95"
Key = tuple[str, str]  # measure, IoU


def agreement_findings(
    roles: Cast, networks: Mapping[tuple, Seen], confidence: float
) -> list[tuple[Key, Finding, str]]:
    """Each measure of each pair and each control, with its seed, and of all the seeds of a pair together."""
    every = [pair for pair in pairs(roles) if len(pair.a.subjects) == 1 and pair.b.kind != "random-init"]
    every = list({(p.pair, p.a.key, p.b.key): p for p in reversed(every)}.values())[::-1]
    measured: dict[tuple, dict[Key, Result]] = {}
    for pair in every:
        a, b = (networks.get(Party(party.subjects).key) for party in (pair.a, pair.b))
        if a is not None and b is not None:
            measured[pair.key] = compared(a, b, pair.b.kind == "shuffled", confidence)
    found = []
    for key in dict.fromkeys(key for results in measured.values() for key in results):
        of_key = {pair: {key: results[key]} for pair, results in measured.items() if key in results}
        framed = in_frames(every, of_key, confidence, DIRECTIONS)
        found += [(key, finding, str(finding.pair.b.seed)) for finding in framed]
        found += [(key, finding, "all") for finding in over_groups(framed, confidence)]
    return found


def compared(a: Seen, b: Seen, shuffled: bool, confidence: float = 0.95) -> dict[Key, Result]:
    """Agreement of b with a at each IoU and over all of them, and AP of b where a's detections are the truth."""
    t, s, whole = a.cut, b.cut, list(b.found)
    if shuffled:
        if len(s) < 2:
            return {}
        order = derangement(len(s))
        s, whole = [s[k] for k in order], [whole[k] for k in order]
    by_iou = {f"{iou:g}": detection_agreement(t, s, iou) for iou in LEVELS}
    found: dict[Key, Result] = {}
    for name, column in FIELDS.items():
        values = {iou: getattr(agreement, column) for iou, agreement in by_iou.items()}
        if name in CURVES:
            values |= {MEAN: np.mean(list(values.values()), axis=0)}
        else:
            values = {"0.5": values["0.5"]}
        found |= {(name, iou): _result(name, each, confidence) for iou, each in values.items()}
    found["fidelity-ap", MEAN] = _fidelity_ap(t, whole, len(a.classes), b.cap, confidence)
    return found


def _result(name: str, values: np.ndarray, confidence: float) -> Result:
    known = values[~np.isnan(values)]
    low, high = bootstrap_mean(known, confidence=confidence)
    return Result(
        name, exact_mean(known), values, len(known), low, high, source=SOURCE, excluded=len(values) - len(known)
    )


def _fidelity_ap(t: Sequence[Found], s: Sequence[Found], classes: int, cap: int, confidence: float) -> Result:
    """Average precision of the student's detections where the teacher's, cut, are the objects."""
    truth = Objects.of([torch.from_numpy(some.boxes) for some in t], [some.labels for some in t])
    matches = match(s, truth, LEVELS, cap)
    weights = np.concatenate([np.ones((1, len(t)), dtype=np.int64), image_weights(len(t), RESAMPLES)])
    values = precisions(matches, truth.labels.numpy(), truth.image.numpy(), classes, weights)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=(1, 2)) / known.sum(axis=(1, 2))
    score = Score(float(mean[0]), mean[1:])
    return Result("fidelity-ap", score.value, None, len(t), *score.interval(confidence), source=SOURCE)
