"""Proper scores of a network's probabilities, each beside what it would be if labels were drawn from them.

Gneiting & Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", JASA 2007. They weigh calibration and
sharpness together, and no binning decides them.
"""

from typing import Any

import numpy as np

from kdscope.measures.base import Card, measure
from kdscope.measures.calibration import DRAWS, FAMILY, GAUGE
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair


class Score(LogitMean):
    """A proper score: a mean over images, with what a calibrated model of the same predictions gets."""

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._nulls: list[np.ndarray] = []

    def add(self, pair: Pair) -> None:
        super().add(pair)
        self._nulls.append(self.expected(pair.student_log_probs()))

    def absorb(self, other: Any) -> None:
        super().absorb(other)
        self._nulls.extend(other._nulls)

    def null(self, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """The expected score [1] if labels were drawn from the predictions."""
        return np.array([np.concatenate(self._nulls).mean()])

    def expected(self, log_probs: np.ndarray) -> np.ndarray:
        """The expected score [B] of each image where its label is drawn from its prediction [B, C]."""
        raise NotImplementedError


@measure
class NegativeLogLikelihood(Score):
    """-log p of the true class, nats. Indexing [..., labels] instead gives the mean over all pairs of images.

    >>> z = 2 * np.eye(3)
    >>> round(NegativeLogLikelihood().update(z, z, [0, 1, 2]).compute().value, 7)
    0.2395448
    """

    card = Card(
        *("nll", "Negative log-likelihood", "nats", (0, np.inf), "none", "proper score", GAUGE, ("labels",)),
        family=FAMILY,
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        return -np.take_along_axis(pair.student_log_probs(), pair.labels[:, None], axis=1)[:, 0]

    def expected(self, log_probs: np.ndarray) -> np.ndarray:
        return -(np.exp(log_probs) * log_probs).sum(axis=1)


@measure
class Brier(Score):
    """sum_c (p_c - [c is true])^2, from 0 to 2.

    >>> Brier().update([[0.0, 0]], [[0.0, 0]], [0]).compute().value
    0.5
    """

    card = Card(
        *("brier", "Brier score", "squared share", (0, 2), "none", "Brier 1950", GAUGE, ("labels",)),
        family=FAMILY,
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        p = np.exp(pair.student_log_probs())
        true = np.take_along_axis(p, pair.labels[:, None], axis=1)[:, 0]
        return np.clip((p**2).sum(axis=1) - 2 * true + 1, 0, 2)

    def expected(self, log_probs: np.ndarray) -> np.ndarray:
        return 1 - np.exp(2 * log_probs).sum(axis=1)
