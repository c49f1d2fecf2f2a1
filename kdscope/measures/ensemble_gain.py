"""What does an ensemble gain over its members, image by image?

Accuracies on the same images differ by far less than either is uncertain, so that the difference is paired.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, Measure, measure
from kdscope.measures.diversity import FAMILY, PAIRED
from kdscope.measures.pair import pairs
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean


class _Gain(Measure):
    """Who is right of an ensemble and its members: bool parts [1 + M, B], the ensemble first."""

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._parts: list[np.ndarray] = []

    def update(self, ensemble_logits: Any, member_logits: Sequence[Any], labels: Any) -> "_Gain":
        """Adds images: logits [B, C] of the ensemble and of each member, labels int [B]; returns itself.

        Raises:
            KDScopeError: no members, or as `kdscope.measures.pair.pairs`.
        """
        if not len(member_logits):
            raise KDScopeError("an ensemble of no networks; give at least one")
        chunks = ([*pairs(ensemble_logits, member, labels)] for member in member_logits)
        found = [[np.stack([p.teacher_top == p.labels, p.student_top == p.labels]) for p in each] for each in chunks]
        joined = [np.concatenate(each, axis=1) for each in found]
        self._parts.append(np.stack([joined[0][0], *(each[1] for each in joined)]))
        self.seen += self._parts[-1].shape[1]
        return self

    def absorb(self, other: "_Gain") -> None:
        self._parts.extend(other._parts)

    def right(self) -> np.ndarray:
        return np.concatenate(self._parts, axis=1).astype(np.float64)

    @abstractmethod
    def beside(self, members: np.ndarray) -> np.ndarray:
        """What the ensemble is compared with [N], of members' right answers [M, N]."""

    def ceiling(self) -> float:
        """The gain of an oracle that picks a member that is right wherever there is one."""
        members = self.right()[1:]
        return exact_mean(members.max(axis=0) - self.beside(members))

    def gains(self) -> np.ndarray:
        right = self.right()
        return right[0] - self.beside(right[1:])

    def point(self) -> float:
        return exact_mean(self.gains())

    def finish(self, confidence: float, seed: int) -> Result:
        gains = self.gains()
        low, high = bootstrap_mean(gains, confidence=confidence, seed=seed)
        return Result(
            measure=self.card.name, value=exact_mean(gains), per_sample=gains, n=self.seen, ci_low=low, ci_high=high,
            definition=self.definition, source=self.defined.citation,
        )  # fmt: skip


@measure
class EnsembleGain(_Gain):
    """Accuracy of an ensemble less the mean accuracy of its members, paired by image.

    >>> EnsembleGain().update([[1.0, 0]], [[[1.0, 0]], [[0, 1.0]]], [0]).compute().value
    0.5
    """

    card = Card(
        *("ensemble-gain", "Gain over the mean member", "share", (-1, 1), "none", PAIRED),
        ORDER_ONLY,
        ("labels",),
        family=FAMILY,
    )

    def beside(self, members: np.ndarray) -> np.ndarray:
        return members.mean(axis=0)


@measure
class EnsembleGainBest(_Gain):
    """Accuracy of an ensemble less that of its best member, paired by image.

    The best is picked on these same images, where it had luck: the gain errs low.

    >>> EnsembleGainBest().update([[1.0, 0]], [[[1.0, 0]], [[0, 1.0]]], [0]).compute().value
    0.0
    """

    card = Card(
        *("ensemble-gain-best", "Gain over the best member", "share", (-1, 1), "none", PAIRED),
        ORDER_ONLY,
        ("labels",),
        family=FAMILY,
    )

    def beside(self, members: np.ndarray) -> np.ndarray:
        return members[members.mean(axis=1).argmax()]
