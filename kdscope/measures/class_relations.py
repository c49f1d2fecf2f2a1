"""How far do the correlations between classes differ between two networks? The mean over pairs of classes.

Tian et al., "Contrastive Representation Distillation", ICLR 2020, figure 4 and its discussion; the matrix itself is
`kdscope.measures.logit_correlation.correlation_difference`.
"""

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, Measure, measure
from kdscope.measures.features import GROUPS, groups_of
from kdscope.measures.logit_correlation import correlation_difference
from kdscope.measures.pair import to_numpy
from kdscope.measures.result import Result
from kdscope.measures.statistics import jackknife_interval

FEWEST = 10  # images, for a correlation that is not all noise


def mean_difference(teacher_logits: np.ndarray, student_logits: np.ndarray) -> float:
    """Mean absolute difference of the correlations of two different classes; classes of constant logits are left out.

    >>> z = np.random.default_rng(0).normal(size=(100, 4))
    >>> mean_difference(z, z)
    0.0
    """
    difference = correlation_difference(teacher_logits, student_logits)
    pairs = difference[np.triu_indices(len(difference), 1)]
    known = pairs[~np.isnan(pairs)]
    return float(np.abs(known).mean()) if len(known) else float("nan")


@measure
class ClassRelations(Measure):
    """The mean absolute difference of the correlations between classes; the logits seen are kept.

    >>> z = np.random.default_rng(0).normal(size=(100, 4))
    >>> result = ClassRelations().update(z, z + 0.5 * np.random.default_rng(1).normal(size=(100, 4))).compute()
    >>> result.ci_low < result.value < result.ci_high
    True
    """

    card = Card(
        *(
            "class-relations",
            "Difference of class correlations",
            "correlation",
            (0, 2),
            "lower",
            "Tian et al., ICLR 2020",
        ),
        ("gauge", "sample-order", "class-relabelling", "swap"),
        resampling="jackknife",
        family="embedding",
    )

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, teacher_logits, student_logits) -> "ClassRelations":
        """Adds logits [B, C] of the same images; returns itself."""
        teacher, student = to_numpy(teacher_logits), to_numpy(student_logits)
        if teacher.shape != student.shape or teacher.ndim != 2:
            shapes = f"{list(teacher.shape)} and {list(student.shape)}"
            raise KDScopeError(f"logits of shapes {shapes}; they must be of the same images and classes")
        self._parts.append((teacher, student))
        self.seen += len(teacher)
        return self

    def absorb(self, other: "ClassRelations") -> None:
        self._parts.extend(other._parts)

    def point(self) -> float:
        return mean_difference(*(np.concatenate(side) for side in zip(*self._parts, strict=True)))

    def finish(self, confidence: float, seed: int) -> Result:
        if self.seen < FEWEST:
            raise KDScopeError(f"correlations of classes need at least {FEWEST} images, and there are {self.seen}")
        teacher, student = (np.concatenate(side) for side in zip(*self._parts, strict=True))
        value, group = mean_difference(teacher, student), groups_of(self.seen, min(GROUPS, self.seen // 4))
        left_out = [mean_difference(teacher[group != g], student[group != g]) for g in range(group.max() + 1)]
        low, high = jackknife_interval(value, np.array(left_out), confidence=confidence)
        known = not np.isnan(value)
        return Result(
            self.card.name, value, None, self.seen if known else 0, max(low, 0.0), min(high, 2.0),
            source=self.card.citation, excluded=0 if known else self.seen,
        )  # fmt: skip
