"""How often is the class of the largest logit the true one? Of the student, and of its teacher."""

import numpy as np

from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, measure
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair

TOP1 = "top-1 accuracy"


@measure
class Accuracy(LogitMean):
    """Top-1 accuracy of the student.

    >>> Accuracy().update([[1.0, 0], [1.0, 0]], [[1.0, 0], [0, 1.0]], [0, 0]).compute().value
    0.5
    """

    card = Card("accuracy", "Accuracy of the student", "share", (0, 1), "none", TOP1, ORDER_ONLY, ("labels",))
    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        return pair.student_top == pair.labels


@measure
class TeacherAccuracy(LogitMean):
    """Top-1 accuracy of the teacher.

    >>> TeacherAccuracy().update([[1.0, 0], [1.0, 0]], [[1.0, 0], [0, 1.0]], [0, 0]).compute().value
    1.0
    """

    card = Card("teacher-accuracy", "Accuracy of the teacher", "share", (0, 1), "none", TOP1, ORDER_ONLY, ("labels",))
    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        return pair.teacher_top == pair.labels
