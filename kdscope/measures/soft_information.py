"""Mutual information of soft labels: of classes drawn from what each network says of the same image.

J = P_T^T P_S / n is the joint distribution of a class drawn from the teacher's prediction and one from the student's;
I(J) its mutual information. The bias is about 15 times smaller than that of hard labels; it is a property of networks
and temperature together.
"""

from typing import Any

import numpy as np
from scipy.special import xlogy

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, measure
from kdscope.measures.logits import LogitMeasure
from kdscope.measures.pair import Pair, log_softmax
from kdscope.measures.result import Result
from kdscope.measures.statistics import jackknife_interval

BLOCKS = 20
CELLS = 2**25  # float64 numbers of the state: 256 MiB


def soft_information(joint: np.ndarray) -> float:
    """Mutual information of a joint distribution [C, C] (any positive total), nats.

    >>> round(soft_information(np.eye(2)), 6), soft_information(np.ones((2, 2)))
    (0.693147, 0.0)
    """
    joint = joint / joint.sum()
    sums = [xlogy(p, p).sum() for p in (joint, joint.sum(axis=0), joint.sum(axis=1))]
    return max(0.0, float(sums[0] - sums[1] - sums[2]))


@measure
class SoftInformation(LogitMeasure):
    """I(J), nats, at a temperature; the state is J, summed over blocks of images that the interval leaves out in turn.

    >>> z = 50 * np.eye(2)
    >>> round(SoftInformation().update(z, z).compute().value, 6)
    0.693147
    """

    card = Card(
        *("soft-mutual-information", "Mutual information of soft labels", "nats", (0, np.inf), "higher"),
        *("joint of drawn classes", ("gauge", "sample-order", "class-relabelling", "swap"), (), "jackknife"),
        family="mutual-information",
    )

    def __init__(self, definition: str = "kdscope", temperature: float = 1.0):
        super().__init__(definition)
        log_softmax(np.zeros(1), temperature)  # says so if it is not above 0
        self.temperature = temperature
        self._sums: np.ndarray | None = None

    def options(self) -> dict[str, Any]:
        return super().options() | {"temperature": self.temperature}

    def add(self, pair: Pair) -> None:
        if self._sums is None:
            blocks = min(BLOCKS, CELLS // pair.classes**2)
            if blocks < 2:
                raise KDScopeError(f"measure {self.card.name!r} holds C x C sums; {pair.classes} classes are too many")
            self._sums = np.zeros((blocks, pair.classes, pair.classes))
        p, q = (np.exp(of(self.temperature)) for of in (pair.teacher_log_probs, pair.student_log_probs))
        blocks = len(self._sums)
        for block in range(blocks):
            rows = slice((block - self.seen) % blocks, None, blocks)
            self._sums[block] += p[rows].T @ q[rows]
        self.seen += len(pair)

    def absorb(self, other: Any) -> None:
        if self._sums is None or other._sums is None:
            self._sums = other._sums.copy() if self._sums is None and other._sums is not None else self._sums
        elif self._sums.shape != other._sums.shape:
            raise KDScopeError(f"measure {self.card.name!r} cannot be merged: the numbers of classes differ")
        else:
            self._sums += other._sums

    def point(self) -> float:
        return soft_information(self._sums.sum(axis=0))

    def finish(self, confidence: float, seed: int) -> Result:
        whole, value = self._sums.sum(axis=0), self.point()
        blocks = self._sums[: self.seen] if self.seen > 1 else self._sums[:0]
        parts = np.array([soft_information(whole - block) for block in blocks])
        low, high = jackknife_interval(value, parts, confidence=confidence)
        return Result(
            measure=self.card.name,
            value=value,
            per_sample=None,
            n=self.seen,
            ci_low=low if np.isnan(low) else max(0.0, low),
            ci_high=high,
            definition=self.definition,
            source=self.defined.citation,
        )
