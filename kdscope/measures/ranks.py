"""Dark knowledge as an order: do teacher and student rank the *wrong* classes alike?

Spearman's rank correlation (American Journal of Psychology, 1904) of the probabilities of all classes but the true one,
for each image. Hinton et al. (arXiv 1503.02531) hold that these carry what a teacher knows beyond the label.
"""

import numpy as np

from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, measure
from kdscope.measures.logits import LogitMean
from kdscope.measures.pair import Pair


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 0..C-1 within each row of values [B, C], equal ones sharing the mean of theirs; float64.

    >>> average_ranks(np.array([[10.0, 30.0, 10.0, 20.0]]))
    array([[0.5, 3. , 0.5, 2. ]])
    """
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.arange(values.shape[1])
    new = np.ones(values.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ranks = np.empty(values.shape)
    if new.all():
        np.put_along_axis(ranks, order, np.broadcast_to(place.astype(np.float64), values.shape), axis=1)
        return ranks
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.ones(values.shape, dtype=bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


def nontarget_rank_correlation(
    teacher_logits: np.ndarray, student_logits: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Spearman's rho [B] between the non-target classes of logits [B, C], float64; labels int [B].

    Logits stand for probabilities, whose order is theirs but which underflow to false ties. NaN where one of the two
    ranks nothing: all its non-target logits are equal, or C < 3.

    >>> z = np.array([[9.0, 3.0, 2.0, 1.0]])
    >>> nontarget_rank_correlation(z, -z, np.array([0])), nontarget_rank_correlation(z, z, np.array([0]))
    (array([-1.]), array([1.]))
    """
    rows, classes = np.arange(len(labels)), teacher_logits.shape[1]
    centred = []
    for logits in (teacher_logits, student_logits):
        rest = np.array(logits, dtype=np.float64)
        # The target alone takes the lowest rank, 0; the others' ranks 1..C-1 have mean C/2, and it drops out.
        rest[rows, labels] = -np.inf
        ranks = average_ranks(rest) - classes / 2
        ranks[rows, labels] = 0
        centred.append(ranks)
    teacher, student = centred
    spread = np.square(teacher).sum(axis=1) * np.square(student).sum(axis=1)
    correlation = (teacher * student).sum(axis=1) / np.sqrt(np.where(spread > 0, spread, np.nan))
    return np.clip(correlation, -1, 1)


@measure
class NontargetRankCorrelation(LogitMean):
    """Mean over images of Spearman's rho between teacher and student over the classes that are not the true one.

    Images for which one of them ranks nothing do not count. Two networks that never met share a ranking too, for
    classes are alike or not by themselves: read it against networks trained alone.

    >>> NontargetRankCorrelation().update([[9.0, 3, 2, 1]], [[0.0, 5, 2, 4]], [0]).compute().value
    0.5
    """

    card = Card(
        *("nontarget-rank-correlation", "Rank correlation of non-target classes", "Spearman's rho", (-1, 1), "higher"),
        *("Spearman 1904; Hinton et al., arXiv 1503.02531", (*ORDER_ONLY, "swap"), ("labels",), "bootstrap", 0.0),
    )

    def per_sample(self, pair: Pair) -> np.ndarray:
        return nontarget_rank_correlation(pair.teacher, pair.student, pair.labels)
