"""Do teacher and student name the same class? Top-1 agreement, also where the teacher is right and where it is wrong.

Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021, eq. 2; Guo et al., arXiv 2405.00739, eq. 3.
Agreement is bounded by the two accuracies alone (`agreement_bounds`), and networks that never met agree too
(`expected_agreement`): a bare number says little.
"""

from typing import ClassVar

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair

STANTON = "Stanton et al., NeurIPS 2021, eq. 2"
ORDER_ONLY = ("gauge", "sample-order", "class-relabelling", "monotone")


def agreement_bounds(teacher_accuracy: float, student_accuracy: float) -> tuple[float, float]:
    """max(0, a_t + a_s - 1) <= agreement <= 1 - |a_t - a_s| (Stanton et al., section 3), shares in [0, 1].

    >>> [round(bound, 2) for bound in agreement_bounds(0.75, 0.95)]
    [0.7, 0.8]
    """
    for accuracy in (teacher_accuracy, student_accuracy):
        if not 0 <= accuracy <= 1:
            raise KDScopeError(f"an accuracy of {accuracy}; it must be a share between 0 and 1")
    return max(0.0, teacher_accuracy + student_accuracy - 1), 1 - abs(teacher_accuracy - student_accuracy)


def expected_agreement(
    teacher_top: np.ndarray, student_top: np.ndarray, classes: int, labels: np.ndarray | None = None
) -> float:
    """Agreement to expect of two networks that are independent: sum_c p_t(c) p_s(c) over the classes named.

    Args:
        teacher_top, student_top: int [N] in 0..classes-1.
        labels: int [N]; where given, independent *given the true class*: sum_y p(y) sum_c p_t(c|y) p_s(c|y), the
            chance of agreeing on right answers and on the common errors of each class.

    >>> expected_agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), 2)
    0.5
    >>> expected_agreement(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 2, np.array([0, 0, 1, 1]))
    0.75
    """
    groups = np.zeros(len(teacher_top), dtype=np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
    size = np.bincount(groups)
    shape = (len(size), classes)
    of_teacher, of_student = (
        np.bincount(groups * classes + np.asarray(top), minlength=len(size) * classes).reshape(shape).astype(np.float64)
        for top in (teacher_top, student_top)
    )
    together = (of_teacher * of_student).sum(axis=1)
    return float((together / np.maximum(size, 1)).sum() / len(groups))


def lift(agreement: float, expected: float) -> float:
    """agreement / expected: how many times more often than by chance they agree; NaN where chance is none.

    >>> round(lift(0.9, 0.3), 3)
    3.0
    """
    return agreement / expected if expected else float("nan")


@measure
class Agreement(LogitMean):
    """Share of images for which the class of the largest logit is the same.

    >>> result = Agreement().update([[2.0, 0, 0], [0, 3.0, 0]], [[0, 1.0, 0], [0, 1.0, 0]]).compute()
    >>> result.value, result.per_sample
    (0.5, array([0., 1.]))
    """

    card = Card("agreement", "Top-1 agreement", "share", (0, 1), "higher", STANTON, (*ORDER_ONLY, "swap"))
    definitions: ClassVar = {
        # The same: that code counts over the whole set (only a helper of it averages batch means).
        "stanton2021": Definition(STANTON),
        "guo2024-code": Definition(
            "Guo et al., arXiv 2405.00739, released code",
            "the unweighted mean over batches of 128: an image in the short last batch counts more than others",
            ensemble="mean-logit",
            batch_size=128,
        ),
    }
    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        return pair.teacher_top == pair.student_top


@measure
class AgreementWhereRight(LogitMean):
    """Agreement among the images that the teacher gets right: share of its truths that the student tells too.

    >>> AgreementWhereRight().update([[2.0, 0], [2.0, 0]], [[1.0, 0], [0, 1.0]], [0, 1]).compute().value
    1.0
    """

    card = Card(
        *("agreement-teacher-right", "Agreement where the teacher is right", "share", (0, 1), "higher", STANTON),
        *(ORDER_ONLY, ("labels",)),
    )
    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        return np.where(pair.teacher_top == pair.labels, pair.teacher_top == pair.student_top, np.nan)


@measure
class AgreementWhereWrong(LogitMean):
    """Agreement among the images that the teacher gets wrong: share of its errors that the student makes too.

    No image counts where the teacher is always right: the value is then NaN, and n is 0.

    >>> AgreementWhereWrong().update([[2.0, 0], [2.0, 0]], [[1.0, 0], [0, 1.0]], [0, 1]).compute().value
    0.0
    """

    card = Card(
        *("agreement-teacher-wrong", "Agreement where the teacher is wrong", "share", (0, 1), "higher", STANTON),
        *(ORDER_ONLY, ("labels",)),
    )
    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        return np.where(pair.teacher_top != pair.labels, pair.teacher_top == pair.student_top, np.nan)
