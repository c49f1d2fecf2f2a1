"""Is a network right as often as it says? Calibration error of the top class, and its null.

A perfectly calibrated model of 100 classes has an ECE of 0.011 at n = 10,000 (15 bins), and of 0.044 at n = 500: what a
calibrated model of the same confidences would get (`calibrated_null`) belongs beside each value. All of it is about
one network: the student, where two are given.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.bins import BINS, equal_mass, equal_width
from kdscope.measures.contingency import jackknife
from kdscope.measures.logits import LogitMeasure
from kdscope.measures.pair import Pair
from kdscope.measures.result import Result
from kdscope.measures.smooth import cells, smooth_error
from kdscope.measures.statistics import student_interval

FAMILY = "calibration"
DRAWS = 100
GAUGE = ("gauge", "sample-order", "class-relabelling")


def calibration_error(bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
    """Expected calibration error, sum_b n_b / n |accuracy_b - confidence_b|, and its values with one image left out.

    Args:
        bins: int [N] (`equal_width`, `equal_mass`); confidence: [N], of the top class; correct: bool [N].

    Returns:
        (value, values [N]); bins stay where they are when an image is left out.

    >>> c, right = np.array([0.95] * 4 + [0.55] * 2 + [0.15]), np.array([1, 1, 1, 0, 1, 0, 0])
    >>> round(calibration_error(equal_width(c, 10), c, right)[0], 12)
    0.15
    """
    gap = confidence - correct
    sums = np.bincount(bins, gap)
    n, whole = len(gap), np.abs(sums).sum()
    without = whole - np.abs(sums)[bins] + np.abs(sums[bins] - gap)
    return float(whole / n), without / max(n - 1, 1)


def unweighted_error(bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray, count: int) -> float:
    """The mean over all `count` bins, empty ones as 0, however few images a bin holds (released code of Guo et al.).

    >>> c, right = np.array([0.95] * 4 + [0.55] * 2 + [0.15]), np.array([1, 1, 1, 0, 1, 0, 0])
    >>> round(unweighted_error(equal_width(c, 10), c, right, 10), 12)
    0.04
    """
    return float((np.abs(np.bincount(bins, confidence - correct)) / np.maximum(np.bincount(bins), 1)).sum() / count)


def debiased_square(bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
    """Squared L2 calibration error without its bias, and its values with one image left out (Kumar et al. 2019).

    sum_b n_b / n ((accuracy_b - confidence_b)^2 - accuracy_b (1 - accuracy_b) / (n_b - 1)): below 0 as often as above
    for a calibrated model of one confidence in each bin.
    """
    gap, right = confidence - correct, correct.astype(np.float64)
    size, sums, hits = (np.bincount(bins, w) for w in (np.ones(len(gap)), gap, right))

    def share(size: np.ndarray, sums: np.ndarray, hits: np.ndarray) -> np.ndarray:
        safe = np.maximum(size, 1)
        return sums**2 / safe - hits * (safe - hits) / safe / np.maximum(size - 1, 1)

    each, n = share(size, sums, hits), len(gap)
    without = each.sum() - each[bins] + share(size[bins] - 1, sums[bins] - gap, hits[bins] - right)
    return float(each.sum() / n), without / max(n - 1, 1)


def calibrated_null(
    statistic: Callable[[np.ndarray, np.ndarray], float], confidence: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """What a perfectly calibrated model of these confidences [N] gets: values [R] for answers drawn from them.

    >>> c = np.full(10_000, 0.8)
    >>> null = calibrated_null(lambda c, right: calibration_error(equal_width(c), c, right)[0], c)
    >>> bool(0.002 < null.mean() < 0.005)
    True
    """
    rng = np.random.default_rng(seed)
    return np.array([statistic(confidence, rng.random(len(confidence)) < confidence) for _ in range(draws)])


class CalibrationMeasure(LogitMeasure):
    """A number made of the confidences of the student and of whether it is right."""

    root = False

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._parts: list[np.ndarray] = []

    def add(self, pair: Pair) -> None:
        confidence = np.exp(pair.student_log_probs().max(axis=1))
        self._parts.append(np.stack([confidence, pair.student_top == pair.labels]))
        self.seen += len(pair)

    def absorb(self, other: Any) -> None:
        self._parts.extend(other._parts)

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Confidence [N] and whether it is right, bool [N], in the order in which the images came."""
        confidence, correct = np.concatenate(self._parts, axis=1)
        return np.minimum(confidence, 1.0), correct.astype(bool)

    def point(self) -> float:
        answers = self._sorted()
        return self.scale(self.error(self.bins(answers[0]), *answers)[0])

    def finish(self, confidence: float, seed: int) -> Result:
        answers = self._sorted()
        value, parts = self.error(self.bins(answers[0]), *answers)
        _, error = jackknife(value, parts, np.ones(len(parts)))
        low, high = student_interval(value, error, self.seen, confidence)
        most = 1.0 if not np.isnan(high) else high
        return Result(
            measure=self.card.name,
            value=self.scale(value),
            per_sample=None,
            n=self.seen,
            ci_low=self.scale(max(0.0, low)) if not np.isnan(low) else low,
            ci_high=min(most, self.scale(high)),
            definition=self.definition,
            source=self.defined.citation,
        )

    def null(self, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """What a perfectly calibrated model of these confidences gets [R]."""
        confidence, _ = self._sorted()
        bins = self.bins(confidence)
        return calibrated_null(lambda *answers: self.scale(self.error(bins, *answers)[0]), confidence, draws, seed)

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """So that no order of batches or ranks changes a sum."""
        confidence, correct = self.answers()
        order = np.lexsort((correct, confidence))
        return confidence[order], correct[order]

    def scale(self, value: float) -> float:
        """The value from what is jackknifed."""
        return float(np.sqrt(max(0.0, value))) if self.root and not np.isnan(value) else value

    def bins(self, confidence: np.ndarray) -> np.ndarray:
        """The bin [N] of each confidence."""
        return equal_mass(confidence)

    def error(self, bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
        """The number, and its values [N] with one image left out."""
        return calibration_error(bins, confidence, correct)


@measure
class CalibrationError(CalibrationMeasure):
    """ECE, 15 bins of equal width.

    >>> round(CalibrationError().update([[0.0, 0]] * 4, [[0.0, 0]] * 4, [0, 0, 0, 1]).compute().value, 12)
    0.25
    """

    card = Card(
        *("ece", "Expected calibration error", "share", (0, 1), "none", "Naeini et al., AAAI 2015; Guo C. et al. 2017"),
        *(GAUGE, ("labels",), "jackknife"),
        family=FAMILY,
    )
    definitions: ClassVar[Mapping[str, Definition]] = {
        "guo2024-code": Definition(
            "Guo Z. et al., arXiv 2405.00739, released code",
            "10 bins, averaged without weights: one image alone in a bin counts as much as a thousand",
        ),
        "stanton2021": Definition("Stanton et al., NeurIPS 2021: 10 bins"),
    }

    def bins(self, confidence: np.ndarray) -> np.ndarray:
        return equal_width(confidence, BINS if self.definition == "kdscope" else 10)

    def error(self, bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
        if self.definition != "guo2024-code":
            return calibration_error(bins, confidence, correct)
        gap, size = confidence - correct, np.bincount(bins)
        sums, whole = np.bincount(bins, gap), unweighted_error(bins, confidence, correct, 10)
        each = np.abs(sums) / np.maximum(size, 1)
        return whole, whole + (np.abs(sums[bins] - gap) / np.maximum(size[bins] - 1, 1) - each[bins]) / 10


@measure
class EqualMassError(CalibrationMeasure):
    """ECE, 15 bins of equally many images (adaptive)."""

    card = Card(
        *("ece-equal-mass", "ECE, bins of equal mass", "share", (0, 1), "none", "Nguyen & O'Connor, EMNLP 2015"),
        *(GAUGE, ("labels",), "jackknife"),
        family=FAMILY,
    )


@measure
class DebiasedError(CalibrationMeasure):
    """Root of the debiased squared error over 15 bins of equal mass; 0 where noise alone explains what was found."""

    card = Card(
        *("ece-debiased", "Debiased L2 calibration error", "share", (0, 1), "none", "Kumar et al., NeurIPS 2019"),
        *(GAUGE, ("labels",), "jackknife"),
        family=FAMILY,
    )
    root = True

    def error(self, bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
        return debiased_square(bins, confidence, correct)


@measure
class SmoothError(CalibrationMeasure):
    """SmoothECE: no bins; a kernel as wide as the error itself (`kdscope.measures.smooth`)."""

    card = Card(
        *("smooth-ece", "SmoothECE", "share", (0, 1), "none", "Blasiok & Nakkiran, ICLR 2024"),
        *(GAUGE, ("labels",), "jackknife"),
        family=FAMILY,
    )

    def bins(self, confidence: np.ndarray) -> np.ndarray:
        return cells(confidence)

    def error(self, bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
        return smooth_error(bins, confidence, correct)
