"""What the teacher changed: the student against one trained without a teacher (the baseline), image by image.

With t, b, s the top classes of teacher, baseline and student, and y the true one:

    teacher    baseline   student             is called
    t = y      b != y     s = y               inherited truth
    t != y     b = y      s = t               inherited error
    t != y     b != y     s = y               own discovery
    any        b = y      s != y, s != t      forgotten
    any        b = y      s = y               nothing changed
    any        b != y     s != y              nothing changed (an error remained, perhaps another one)

So the four shares account for the whole difference between the two students:
accuracy(student) - accuracy(baseline) = truths + discoveries - errors - forgotten.

Two trainings of one recipe differ as well: the floor of each share is what a second student trained without a teacher
gets in the student's place.
"""

import numpy as np

from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, measure
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair

ORIGINS = ("inherited-truths", "inherited-errors", "own-discoveries", "forgotten")
SOURCE = "four-way decomposition of the change in accuracy, kdscope"


def origins(
    teacher_top: np.ndarray, student_top: np.ndarray, baseline_top: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Which row of the table each image falls into: int8 [B], the position in `ORIGINS`, -1 where nothing changed.

    Args:
        teacher_top, student_top, baseline_top, labels: int [B].

    >>> t, b, s, y = np.array([[0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 2], [0, 0, 0]]).T.tolist() + [[0] * 5]
    >>> origins(*(np.array(x) for x in (t, s, b, y))).tolist()
    [0, 1, 2, 3, -1]
    """
    taught, known, learned = teacher_top == labels, baseline_top == labels, student_top == labels
    codes = np.full(len(labels), -1, dtype=np.int8)
    codes[learned & ~known & taught] = 0
    codes[learned & ~known & ~taught] = 2
    codes[~learned & known & (student_top == teacher_top)] = 1
    codes[~learned & known & (student_top != teacher_top)] = 3
    return codes


class Origin(LogitMean):
    """Share of all images that fall into one row of the table."""

    proportion = True

    def per_sample(self, pair: Pair) -> np.ndarray:
        codes = origins(pair.teacher_top, pair.student_top, pair.baseline_top, pair.labels)
        return codes == ORIGINS.index(self.card.name)


def _card(name: str, title: str, direction: str) -> Card:
    return Card(name, title, "share", (0, 1), direction, SOURCE, ORDER_ONLY, ("labels", "baseline_logits"))


@measure
class InheritedTruths(Origin):
    """The teacher is right, the baseline wrong, and the student right.

    >>> z = np.eye(2)
    >>> InheritedTruths().update(z[[0, 0]], z[[0, 1]], [0, 0], z[[1, 1]]).compute().value
    0.5
    """

    card = _card("inherited-truths", "Inherited truths", "higher")


@measure
class InheritedErrors(Origin):
    """The baseline is right, the teacher wrong, and the student makes the teacher's very error.

    >>> z = np.eye(2)
    >>> InheritedErrors().update(z[[1, 1]], z[[1, 0]], [0, 0], z[[0, 0]]).compute().value
    0.5
    """

    card = _card("inherited-errors", "Inherited errors", "higher")


@measure
class OwnDiscoveries(Origin):
    """Teacher and baseline are wrong, and the student is right.

    >>> z = np.eye(2)
    >>> OwnDiscoveries().update(z[[1, 1]], z[[1, 0]], [0, 0], z[[1, 1]]).compute().value
    0.5
    """

    card = _card("own-discoveries", "Own discoveries", "none")


@measure
class Forgotten(Origin):
    """The baseline is right, and the student makes an error that is not the teacher's.

    >>> z = np.eye(2)
    >>> Forgotten().update(z[[0, 0]], z[[1, 0]], [0, 0], z[[0, 0]]).compute().value
    0.5
    """

    card = _card("forgotten", "Forgotten", "none")
