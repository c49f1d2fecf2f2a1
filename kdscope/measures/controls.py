"""What a measure is worth when nothing was transferred, and whether it looks at predictions alone.

A floor: the student's images are shuffled, so that the teacher's image i meets the student's image pi(i). What
remains is what two networks share without looking at the same image; shuffled `within` the true class, it is what they
share by knowing that class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.logits import LogitMeasure, update_all
from kdscope.measures.pair import to_numpy


def derangement(n: int, seed: int = 0, within: Any = None) -> np.ndarray:
    """A random permutation [n] that leaves no image in its place: one random cycle.

    Args:
        within: int [n], classes; images are then exchanged within their class (one alone in its class has to stay).

    >>> pi = derangement(5)
    >>> sorted(pi.tolist()), bool((pi == np.arange(5)).any())
    ([0, 1, 2, 3, 4], False)
    """
    if n < 2:
        raise KDScopeError(f"{n} images cannot be shuffled; at least 2 are needed")
    groups = np.zeros(n, dtype=np.int64) if within is None else to_numpy(within)
    if groups.shape != (n,):
        raise KDScopeError(f"classes of shape {list(groups.shape)} to shuffle {n} images within; give one for each")
    order = np.lexsort((np.random.default_rng(seed).random(n), groups))
    follower = np.roll(order, -1)
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    follower[np.r_[starts[1:], n] - 1] = order[starts]
    shuffled = np.empty(n, dtype=np.int64)
    shuffled[order] = follower
    return shuffled


def shuffled_floor(
    measures: Sequence[LogitMeasure],
    teacher_logits: Any,
    student_logits: Any,
    labels: Any = None,
    baseline_logits: Any = None,
    *,
    within: Any = None,
    seed: int = 0,
) -> list[float]:
    """The value of each measure when the student's images are shuffled; teacher, labels and baseline stay paired.

    In expectation that is sum_c p_t(c) p_s(c) for agreement (`kdscope.measures.agreement.expected_agreement`) and 0 for
    kappa. The given measures are left as they are.

    Args:
        within: int [N]: shuffle within these classes.

    >>> from kdscope.measures import MEASURES
    >>> z = np.eye(4)
    >>> shuffled_floor([MEASURES["agreement"]()], z, z)
    [0.0]
    """
    student = to_numpy(student_logits)
    fresh = [measure.fresh() for measure in measures]
    shuffled = student[derangement(len(student), seed, within)]
    update_all(fresh, teacher_logits, shuffled, labels, baseline_logits)
    return [measure.estimate() for measure in fresh]


def add_gauge(logits: Any, seed: int = 0, scale: float = 10.0) -> np.ndarray:
    """Logits [B, C] with another random constant added to all logits of each image: the same predictions exactly.

    Adding one vector v to every row of a classifier's head (W + 1 v^T) does this: each image with features f gets v.f.

    >>> moved = add_gauge(np.zeros((1, 3)))
    >>> bool(moved[0, 0] == moved[0, 2] != 0)
    True
    """
    logits = np.asarray(to_numpy(logits), dtype=np.float64)
    return logits + scale * np.random.default_rng(seed).standard_normal((len(logits), 1))


def gauge_error(
    measure: LogitMeasure,
    teacher_logits: Any,
    student_logits: Any,
    labels: Any = None,
    baseline_logits: Any = None,
    *,
    seed: int = 0,
) -> float:
    """By how much the measure's value moves when both networks' logits get a random gauge; 0 but for rounding.

    What moves here reads the head's arbitrary offset, and must not be trusted.

    >>> from kdscope.measures import MEASURES
    >>> gauge_error(MEASURES["kl-teacher-student"](), [[2.0, 0, 0]], [[0, 1.0, 0]]) < 1e-12
    True
    """
    before, after = measure.fresh(), measure.fresh()
    baseline = None if baseline_logits is None else add_gauge(baseline_logits, seed + 2)
    update_all([before], teacher_logits, student_logits, labels, baseline_logits)
    update_all([after], add_gauge(teacher_logits, seed), add_gauge(student_logits, seed + 1), labels, baseline)
    return abs(after.estimate() - before.estimate())
