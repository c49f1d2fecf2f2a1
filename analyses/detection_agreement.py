"""Do student and teacher find the same things? Agreement of detections, between floors and ceilings."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from kdscope.analyses.cast import ALONE, Cast, Pair, Party, pairs
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection_lines import scored
from kdscope.analyses.detection_views import LEVELS, Seen, as_result
from kdscope.detection.data.record import Objects
from kdscope.detection.matching import match
from kdscope.detection.measures.agreement import detection_agreement
from kdscope.detection.measures.cards import DIRECTIONS, RANGES
from kdscope.detection.measures.found import Found
from kdscope.detection.measures.resampling import RESAMPLES, Score, image_weights, mean_score, precisions
from kdscope.measures.controls import derangement
from kdscope.measures.result import Result

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
    every = compared_pairs(roles)
    measured: dict[tuple, dict[Key, Result]] = {}
    for pair in every:
        a, b = (networks.get(Party(party.subjects).key) for party in (pair.a, pair.b))
        if a is not None and b is not None:
            shuffled = pair.b.kind == "shuffled"
            measured[pair.key] = compared(a, b, shuffled, confidence)
            precision = fidelity_ap(a, b, shuffled)
            measured[pair.key]["fidelity-ap", MEAN] = scored("fidelity-ap", precision, len(a.found), confidence)
    found = []
    for key in dict.fromkeys(key for results in measured.values() for key in results):
        of_key = {pair: {key: results[key]} for pair, results in measured.items() if key in results}
        framed = in_frames(every, of_key, confidence, DIRECTIONS)
        together = over_groups(framed, confidence, ranges=RANGES)
        found += [(key, finding, str(finding.pair.b.seed)) for finding in framed]
        found += [(key, finding, "all") for finding in together]
    return found


def compared_pairs(roles: Cast) -> list[Pair]:
    """The pairs of two detectors, each once; a random one finds nothing, which is no control."""
    every = [pair for pair in pairs(roles) if len(pair.a.subjects) == 1 and pair.b.kind != "random-init"]
    plain = {(pair.pair, pair.a.key, pair.b.key) for pair in every if pair.baseline is None}
    return [
        pair for pair in every
        if pair.pair != ALONE or pair.baseline is None or (pair.pair, pair.a.key, pair.b.key) not in plain
    ]  # fmt: skip


def compared(a: Seen, b: Seen, shuffled: bool = False, confidence: float = 0.95) -> dict[Key, Result]:
    """Agreement of b with a at each IoU and over all of them."""
    t, s = a.cut, exchanged(b.cut) if shuffled else b.cut
    by_iou = {f"{iou:g}": detection_agreement(t, s, iou) for iou in LEVELS}
    found: dict[Key, Result] = {}
    for name, column in FIELDS.items():
        values = {iou: getattr(agreement, column) for iou, agreement in by_iou.items()}
        if name in CURVES:
            values |= {MEAN: np.mean(list(values.values()), axis=0)}
        else:
            values = {"0.5": values["0.5"]}
        found |= {(name, iou): as_result(name, each, confidence) for iou, each in values.items()}
    return found


def exchanged(found: Sequence[Found]) -> list[Found]:
    """Each image with what was found in another one; a lone image stays."""
    return [found[k] for k in derangement(len(found))] if len(found) > 1 else list(found)


def fidelity_ap(a: Seen, b: Seen, shuffled: bool = False) -> Score:
    """Average precision of b where what a finds, cut at its own best score, are the objects."""
    truth = Objects.of([torch.from_numpy(some.boxes) for some in a.cut], [some.labels for some in a.cut])
    matches = match(exchanged(b.found) if shuffled else b.found, truth, LEVELS, b.cap)
    images = len(a.found)
    weights = np.concatenate([np.ones((1, images), dtype=np.int64), image_weights(images, RESAMPLES)])
    return mean_score(precisions(matches, truth.labels.numpy(), truth.image.numpy(), len(a.classes), weights))
