"""How far apart are the two predicted distributions? Kullback-Leibler both ways and Jensen-Shannon, in nats.

At temperature 1 unless another is asked for, and never with a factor T^2 or 10: such belong to losses. Kullback &
Leibler, Ann. Math. Stat. 1951; Lin, IEEE Trans. Inf. Theory 1991; Stanton et al., NeurIPS 2021, eq. 3.
"""

import math
from typing import Any, ClassVar

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair

STANTON_KL = "Stanton et al., NeurIPS 2021, eq. 3"


def kl_divergence(p_log: np.ndarray, q_log: np.ndarray) -> np.ndarray:
    """KL(p || q) = sum_c p_c (log p_c - log q_c) of log-probabilities [B, C], in nats [B], float64.

    >>> from kdscope.measures.pair import log_softmax
    >>> p, q = log_softmax(np.array([[2.0, 0, 0]])), log_softmax(np.array([[0, 1.0, 0]]))
    >>> kl_divergence(p, q).round(7), kl_divergence(q, p).round(7)
    (array([0.7793651]), array([0.8403338]))
    """
    # The sum is never negative but for rounding.
    return np.maximum((np.exp(p_log) * (p_log - q_log)).sum(axis=1), 0.0)


def js_divergence(p_log: np.ndarray, q_log: np.ndarray) -> np.ndarray:
    """JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats [B], from 0 to ln 2.

    >>> from kdscope.measures.pair import log_softmax
    >>> p, q = log_softmax(np.array([[2.0, 0, 0]])), log_softmax(np.array([[0, 1.0, 0]]))
    >>> js_divergence(p, q).round(7)
    array([0.185749])
    """
    middle = np.logaddexp(p_log, q_log) - math.log(2)
    return np.minimum((kl_divergence(p_log, middle) + kl_divergence(q_log, middle)) / 2, math.log(2))


class Divergence(LogitMean):
    """A divergence between softmax(z_t / T) and softmax(z_s / T), mean over images.

    Args:
        temperature: T > 0, of both.

    Raises:
        KDScopeError: if the temperature is not above 0.
    """

    def __init__(self, definition: str = "kdscope", *, temperature: float = 1.0):
        super().__init__(definition)
        if not temperature > 0:
            raise KDScopeError(f"measure {self.card.name!r} at temperature {temperature}; it must be above 0")
        self.temperature = temperature

    def options(self) -> dict[str, Any]:
        return super().options() | {"temperature": self.temperature}

    def log_probs(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        return pair.teacher_log_probs(self.temperature), pair.student_log_probs(self.temperature)


@measure
class KLTeacherStudent(Divergence):
    """KL(teacher || student): nats lost by coding the teacher's predictions with the student's.

    >>> z_t, z_s = [[2.0, 0, 0]], [[0, 1.0, 0]]
    >>> round(KLTeacherStudent().update(z_t, z_s).compute().value, 7)
    0.7793651
    >>> round(KLTeacherStudent("guo2024-code").update(z_t, z_s).compute().value, 5)
    8.40334
    """

    card = Card("kl-teacher-student", "KL(teacher || student)", "nats", (0, math.inf), "lower", STANTON_KL)
    definitions: ClassVar = {
        "stanton2021": Definition(
            "Stanton et al., NeurIPS 2021, released code",
            "the unweighted mean over batches of 128: an image in the short last batch counts more than others",
            batch_size=128,
        ),
        "guo2024-code": Definition(
            "Guo et al., arXiv 2405.00739, released code",
            "ten times KL(student || teacher), the reverse of what is written; unweighted mean over batches of 128",
            ensemble="mean-logit",
            batch_size=128,
        ),
    }

    def per_sample(self, pair: Pair) -> np.ndarray:
        teacher, student = self.log_probs(pair)
        if self.definition == "guo2024-code":
            return 10 * kl_divergence(student, teacher)
        return kl_divergence(teacher, student)


@measure
class KLStudentTeacher(Divergence):
    """KL(student || teacher): large where the student is sure of what the teacher rules out.

    >>> round(KLStudentTeacher().update([[2.0, 0, 0]], [[0, 1.0, 0]]).compute().value, 7)
    0.8403338
    """

    card = Card(
        "kl-student-teacher", "KL(student || teacher)", "nats", (0, math.inf), "lower", "Kullback & Leibler 1951"
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        teacher, student = self.log_probs(pair)
        return kl_divergence(student, teacher)


@measure
class JensenShannon(Divergence):
    """Jensen-Shannon divergence: symmetric, at most ln 2 = 0.693 nats.

    >>> round(JensenShannon().update([[2.0, 0, 0]], [[0, 1.0, 0]]).compute().value, 7)
    0.185749
    """

    card = Card(
        *("js", "Jensen-Shannon divergence", "nats", (0, math.log(2)), "lower", "Lin 1991, eq. 4.1"),
        ("gauge", "sample-order", "class-relabelling", "swap"),
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        return js_divergence(*self.log_probs(pair))
