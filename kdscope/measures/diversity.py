"""How different are networks, and views? Disagreement, entropy, ensemble gain, affinity and diversity of a view.

Predictive entropy and the idea: Guo et al., arXiv 2405.00739, appendix H. Affinity and diversity of augmentations:
Gontijo-Lopes et al., "Tradeoffs in Data Augmentation", ICLR 2021. Two views of the same images take the places of
teacher (clean) and student (augmented) in the measures of a view.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.logits import LogitMean, LogitMeasure
from kdscope.measures.pair import Pair
from kdscope.measures.result import Result
from kdscope.measures.statistics import exact_mean, student_interval, wilson

FAMILY = "diversity"
AUGMENTED = "Gontijo-Lopes et al., ICLR 2021, section 3"
PAIRED = "paired difference of accuracies"
GUO = "Guo et al., arXiv 2405.00739, eq. 5 and released code"


def predictive_entropy(log_probs: np.ndarray) -> np.ndarray:
    """-sum_c p_c log p_c [B] of log-probabilities [B, C], nats, in [0, ln C].

    >>> predictive_entropy(np.log([[0.5, 0.5], [0.25, 0.75]])).round(4)
    array([0.6931, 0.5623])
    """
    return -(np.exp(log_probs) * log_probs).sum(axis=1)


def ratio_of_means(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """mean(a) / mean(b) of numbers >= 0 of the same images [N], with its interval: (ratio, low, high).

    The interval is a t interval of the logarithm, whose standard error is, to first order, that of the mean of
    a_i / mean(a) - b_i / mean(b): paired, and above 0 as the ratio is. NaN where mean(b) is 0, for there is no ratio.

    >>> ratio_of_means(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    (2.0, 2.0, 2.0)
    """
    if np.shape(a) != np.shape(b):
        raise KDScopeError(f"paired values of {np.shape(a)} and {np.shape(b)} images; they must be of the same images")
    above, below, n = exact_mean(a), exact_mean(b), len(a)
    if not below > 0:
        return math.nan, math.nan, math.nan
    if above == 0:
        return 0.0, 0.0, wilson(0.0, n, confidence)[1] / below
    error = math.sqrt(float(np.square(a / above - b / below).sum()) / max(n - 1, 1) / n)
    low, high = student_interval(math.log(above / below), error, n, confidence)
    return math.fsum(a) / math.fsum(b), math.exp(low), math.exp(high)


@measure
class Disagreement(LogitMean):
    """Share of images for which the class of the largest logit is not the same: 1 - agreement.

    >>> Disagreement().update([[2.0, 0, 0], [0, 3.0, 0]], [[0, 1.0, 0], [0, 1.0, 0]]).compute().value
    0.5
    """

    card = Card(
        *("disagreement", "Top-1 disagreement", "share", (0, 1), "lower", "1 - agreement (Stanton et al., eq. 2)"),
        (*ORDER_ONLY, "swap"),
        family=FAMILY,
    )
    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        return pair.teacher_top != pair.student_top


@measure
class PredictiveEntropy(LogitMean):
    """Mean entropy of the student's softmax at T = 1, nats.

    >>> round(PredictiveEntropy().update([[0.0, 0, 0]], [[2.0, 0, 0]]).compute().value, 6)
    0.665573
    """

    card = Card(
        *("predictive-entropy", "Predictive entropy", "nats", (0, math.inf), "none", f"{GUO}, H.1"), family=FAMILY
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        return predictive_entropy(pair.student_log_probs())


@measure
class AccuracyShift(LogitMean):
    """Accuracy on the augmented images (student) less that on the clean ones (teacher), of one network.

    >>> AccuracyShift().update([[1.0, 0], [1.0, 0]], [[1.0, 0], [0, 1.0]], [0, 0]).compute().value
    -0.5
    """

    card = Card(
        *("accuracy-shift", "Accuracy, augmented less clean", "share", (-1, 1), "none", PAIRED),
        ORDER_ONLY,
        ("labels",),
        family=FAMILY,
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        return (pair.student_top == pair.labels).astype(np.float64) - (pair.teacher_top == pair.labels)


class Ratio(LogitMeasure):
    """The mean of one number over that of another, of the same images; no image counts where the second is 0."""

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._parts: list[np.ndarray] = []

    @abstractmethod
    def both(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """The numbers [B] above and below the line."""

    def add(self, pair: Pair) -> None:
        self._parts.append(np.stack(self.both(pair)).astype(np.float64))
        self.seen += len(pair)

    def absorb(self, other: "Ratio") -> None:
        self._parts.extend(other._parts)

    def point(self) -> float:
        return ratio_of_means(*np.concatenate(self._parts, axis=1))[0]

    def finish(self, confidence: float, seed: int) -> Result:
        value, low, high = ratio_of_means(*np.concatenate(self._parts, axis=1), confidence)
        n = 0 if math.isnan(value) else self.seen
        return Result(
            measure=self.card.name, value=value, per_sample=None, n=n, ci_low=low, ci_high=high,
            definition=self.definition, source=self.defined.citation, excluded=self.seen - n,
        )  # fmt: skip


@measure
class Affinity(Ratio):
    """Accuracy on augmented images (student) over that on clean ones (teacher): 1 where the view shifts nothing.

    The definition asks for a network that was trained on *clean* images, as the ruler by which views are compared.

    >>> Affinity().update([[1.0, 0], [1.0, 0]], [[1.0, 0], [0, 1.0]], [0, 0]).compute().value
    0.5
    """

    card = Card(
        *("affinity", "Affinity of the view", "ratio", (0, math.inf), "none", AUGMENTED),
        ORDER_ONLY,
        ("labels",),
        resampling="jackknife",
        family=FAMILY,
    )
    definitions: ClassVar = {
        "guo2024-code": Definition(
            GUO,
            defect="measured by the trained student itself, which may have learned to see through the very view: it is "
            "about that student, and compares no two views; the released code also takes cropped views for clean ones",
        )
    }

    def both(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        return pair.student_top == pair.labels, pair.teacher_top == pair.labels


@measure
class ViewDiversity(Ratio):
    """Cross-entropy on augmented training images (student) over that on clean ones (teacher), of one network.

    >>> round(ViewDiversity().update([[0.0, 0]], [[0.0, np.log(3)]], [0]).compute().value, 6)
    2.0
    """

    card = Card(
        *("view-diversity", "Diversity of the view", "ratio", (0, math.inf), "none", AUGMENTED),
        needs=("labels",),
        resampling="jackknife",
        family=FAMILY,
    )

    def both(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(pair))
        return tuple(-p[rows, pair.labels] for p in (pair.student_log_probs(), pair.teacher_log_probs()))
