"""Agreement beyond chance: Cohen's kappa (Educational and Psychological Measurement, 1960).

kappa = (p_o - p_e) / (1 - p_e), with p_o the agreement and p_e what the networks' class frequencies alone would give.
"""

from typing import Any

import numpy as np

from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, measure
from kdscope.measures.logits import LogitMeasure
from kdscope.measures.pair import Pair
from kdscope.measures.result import Result


def cohen_kappa(teacher_top: np.ndarray, student_top: np.ndarray) -> float:
    """Cohen's kappa of two int vectors [N] of classes; from -1 to 1.

    Where both always name one and the same class there is nothing beyond chance: 0.

    >>> round(cohen_kappa(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])), 12)
    0.5
    """
    codes, counts, classes = _cells(teacher_top, student_top)
    return float(_kappa(codes, counts[None], classes)[0])


def kappa_draws(codes: np.ndarray, counts: np.ndarray, classes: int, resamples: int, seed: int) -> np.ndarray:
    """Kappas [R] of bootstrap samples of the images, drawn as counts of the cells of the confusion matrix that occur.

    Args:
        codes: int64 [M], teacher's class * classes + student's class, each once, ascending.
        counts: [M], how many images fall there.
    """
    rng = np.random.default_rng(seed)
    n = int(counts.sum())
    rows = max(1, 2**21 // max(len(codes), classes))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([_kappa(codes, rng.multinomial(n, counts / n, size=size), classes) for size in sizes])


def _cells(teacher_top: np.ndarray, student_top: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The cells of the confusion matrix that occur, how many images each holds, and the width of the matrix."""
    classes = int(max(teacher_top.max(), student_top.max())) + 1
    codes, counts = np.unique(np.asarray(teacher_top, dtype=np.int64) * classes + student_top, return_counts=True)
    return codes, counts, classes


def _kappa(codes: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """Kappa [R] of R confusion matrices, each the counts [R, M] of the same M cells."""
    teacher, student = np.divmod(codes, classes)
    n = counts.sum(axis=1).astype(np.float64)
    agreed = counts[:, teacher == student].sum(axis=1) / n
    chance = (_margin(teacher, counts, classes) * _margin(student, counts, classes)).sum(axis=1) / n**2
    # 1 - p_e is a multiple of 1/n^2 or nothing.
    room = np.where(chance > 1 - 0.5 / n**2, np.inf, 1 - chance)
    return (agreed - chance) / room


def _margin(group: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)
    margin = np.zeros((len(counts), classes))
    margin[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return margin


@measure
class Kappa(LogitMeasure):
    """Cohen's kappa of the top classes. The interval is the percentile bootstrap over images.

    >>> z = np.eye(2)
    >>> round(Kappa().update(z[[0, 0, 1, 1]], z[[0, 0, 1, 0]]).compute().value, 12)
    0.5
    """

    card = Card(
        *("kappa", "Cohen's kappa", "kappa", (-1, 1), "higher", "Cohen 1960"),
        *((*ORDER_ONLY, "swap"), (), "bootstrap", 0.0),
    )

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._tops: list[np.ndarray] = []

    def add(self, pair: Pair) -> None:
        # Not the C x C counts: with 21,841 classes they would fill 4 GB, and one pair an image never does.
        self._tops.append(np.stack([pair.teacher_top, pair.student_top]))
        self.seen += len(pair)

    def absorb(self, other: Any) -> None:
        self._tops.extend(other._tops)

    def point(self) -> float:
        return cohen_kappa(*np.concatenate(self._tops, axis=1))

    def finish(self, confidence: float, seed: int) -> Result:
        codes, counts, classes = _cells(*np.concatenate(self._tops, axis=1))
        draws = kappa_draws(codes, counts, classes, resamples=1000, seed=seed)
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Result(
            measure=self.card.name,
            value=self.point(),
            per_sample=None,
            n=self.seen,
            ci_low=float(low),
            ci_high=float(high),
            definition=self.definition,
            source=self.defined.citation,
        )
