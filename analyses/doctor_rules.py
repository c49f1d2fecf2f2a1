"""What the numbers of the doctor's tests mean: a verdict, and the reason in words (without the number itself)."""

import math
from collections.abc import Iterator
from typing import Any

from kdscope.features.checkup import Findings
from kdscope.measures.trust import GAUGE, Tried

TRUST, CAUTION, REFUSE = "trust", "caution", "do not trust"
VERDICTS = (REFUSE, CAUTION, TRUST)  # the worst first
ROUNDING = 1e-4  # relative, of float32 through a network
MAPS = 1e-2  # of a Grad-CAM, whose gradients of centred logits cancel
FEW = 5.0  # images for each pair of classes
Verdict = tuple[str, str]


def of_measure(tried: Tried) -> Iterator[dict[str, Any]]:
    """The rows of one measure on one pair: test, value (the deviation), found, expected, verdict, reason."""
    if tried.error:
        yield _row("applies", math.nan, math.nan, math.nan, (REFUSE, tried.error))
        return
    if math.isnan(tried.value):
        yield _row("applies", math.nan, math.nan, math.nan, (CAUTION, "no image counts for it"))
        return
    yield _row("gauge", tried.moved, tried.gauged, tried.value, _gauge(tried))
    if tried.card.direction == "none":
        return
    if not math.isnan(tried.best):
        yield _row("identity", tried.short, tried.itself, tried.best, _identity(tried))
    known = tried.card.null is not None
    mean = sum(tried.shuffled) / len(tried.shuffled)
    ends = {"ci_low": min(tried.shuffled), "ci_high": max(tried.shuffled)}
    yield _row("null", abs(tried.bias) if known else math.nan, mean, tried.card.null, _null(tried)) | ends


def _gauge(tried: Tried) -> Verdict:
    if tried.moved <= GAUGE:
        return TRUST, ""
    return REFUSE, "moves when a constant is added to all logits of an image: no property of the predictor"


def _identity(tried: Tried) -> Verdict:
    if math.isnan(tried.itself):
        return CAUTION, "has no value for a network against itself"
    if tried.short <= GAUGE:
        return TRUST, ""
    return (
        REFUSE,
        "a network against itself does not get the best value: it always names one class, or this is no likeness",
    )


def _null(tried: Tried) -> Verdict:
    if any(map(math.isnan, tried.shuffled)):
        return CAUTION, "has no value for shuffled images"
    if not math.isnan(tried.bias):
        effect = abs(tried.value - tried.card.null)
        sure = abs(tried.bias) > 4 * tried.noise + 1e-6
        if sure and abs(tried.bias) > 0.5 * effect:
            if not tried.beats:
                return REFUSE, "shuffled images give as much: bias, or what holds for every image"
            return CAUTION, "most of it is there for shuffled images, too: read it above its floor, not above its null"
        if sure and abs(tried.bias) > 0.1 * effect:
            return CAUTION, "shuffled images do not quite give its null: read it above its floor"
    if not tried.beats:
        return CAUTION, "not told from shuffled images: too few count, or nothing is shared"
    return TRUST, ""


def of_support(images: int, classes: int) -> dict[str, Any]:
    """Images for each pair of classes, that mutual information of top classes counts in."""
    each = images / classes**2
    verdict = (TRUST, "")
    if each < FEW:
        reason = f"fewer than {FEW:.0f} images for each pair of classes: trust soft and adjusted forms"
        verdict = (CAUTION if each >= 1 else REFUSE, reason)
    return _row("support", each, images, FEW * classes**2, verdict)


def of_dimensions(images: int, dimensions: int) -> dict[str, Any]:
    """Images for each dimension of a layer."""
    few = (CAUTION, "fewer images than dimensions: trust the debiased form only, with its interval")
    return _row("support", images / dimensions, images, dimensions, few if images < dimensions else (TRUST, ""))


def of_network(found: Findings) -> Iterator[tuple[str, dict[str, Any]]]:
    """(layer, row) for each finding of a network."""
    for test, numbers in found.items():
        expected = None if test == "float16" else 0.0
        for name, value in numbers.items():
            yield name, _row(test, value, value, expected, _of_finding(test, name, value))


def _of_finding(test: str, name: str, value: float) -> Verdict:
    broken, limit, verdict, reason = RULES[test]
    if test == "gauge":
        reason = f"{name.partition('/')[0]} maps {reason}"
    if broken(value, limit):
        return verdict, reason
    if test == "float16" and value > 0.5:
        return CAUTION, "more than half of the range of float16; extract with dtype bfloat16 to be safe"
    return TRUST, ""


def _above(value: float, limit: float) -> bool:
    return not value <= limit  # NaN is above


RULES = {
    "weights": (_above, 0, REFUSE, "weights that are NaN or infinite"),
    "finite": (_above, 0, REFUSE, "images whose features are NaN or infinite"),
    "determinism": (_above, ROUNDING, REFUSE, "two passes in eval mode differ: something draws at random"),
    "batch-independence": (_above, ROUNDING * 10, REFUSE, "an image's logits depend on the others in its batch"),
    "statistics": (_above, 0, REFUSE, "a pass in eval mode changes this buffer: the network is not the same after it"),
    "in-place": (_above, 0, CAUTION, "overwritten in place: hooks must clone (kdscope's do)"),
    "capture": (_above, 0, REFUSE, "kdscope's own hook gives something else than the layer"),
    "float16": (_above, 1, CAUTION, "beyond float16 where kept whole; extract with dtype bfloat16"),
    "gauge": (_above, MAPS, REFUSE, "move with the gauge of the head: no property of the predictor"),
}


def _row(test: str, value: float, found: float, expected: float | None, verdict: Verdict) -> dict[str, Any]:
    return {
        "test": test, "value": value, "found": found, "expected": math.nan if expected is None else expected,
        "verdict": verdict[0], "reason": " ".join(verdict[1].split()),
    }  # fmt: skip
