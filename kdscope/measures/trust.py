"""Whether a measure of two networks' logits does what its card says, on the very logits that it is asked about.

Three tests: a random gauge on both heads moves no number; shuffled images give the card's null; a network against
itself gives the card's best. They see faults of a measure, and also that the data are too few for a sound one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.base import Card
from kdscope.measures.controls import add_gauge, derangement
from kdscope.measures.ensemble import combine_logits
from kdscope.measures.logits import LogitMeasure, update_all

SHUFFLES = 19  # so that being better than all of them has a chance of 1 in 20
GAUGE = 1e-6  # what rounding may do, of a number of the order of 1


@dataclass(frozen=True)
class Heads:
    """Logits [N, C] of the members of each side, of a baseline where there is one, and labels [N]."""

    teacher: tuple[np.ndarray, ...]
    student: tuple[np.ndarray, ...]
    labels: np.ndarray | None = None
    baseline: np.ndarray | None = None

    @property
    def n(self) -> int:
        return len(self.student[0])

    def gauged(self, seed: int = 0) -> "Heads":
        """Every network's logits with a gauge of its own."""
        teacher, student = (
            tuple(add_gauge(logits, seed + 100 * k + m) for m, logits in enumerate(side))
            for k, side in enumerate((self.teacher, self.student))
        )
        baseline = None if self.baseline is None else add_gauge(self.baseline, seed + 200)
        return Heads(teacher, student, self.labels, baseline)

    def shuffled(self, seed: int = 0) -> "Heads":
        """The student on other images."""
        order = derangement(self.n, seed)
        return replace(self, student=tuple(logits[order] for logits in self.student))

    def alone(self) -> "Heads":
        """The student, and itself as its teacher."""
        return replace(self, teacher=self.student)


def estimates(measures: Sequence[LogitMeasure], heads: Heads) -> list[float]:
    """The value of each measure; NaN where no image counts. The given measures are left as they are.

    >>> from kdscope.measures import MEASURES
    >>> z = np.eye(3)
    >>> estimates([MEASURES["agreement"]()], Heads((z,), (z,)))
    [1.0]
    """
    found: dict[int, float] = {}
    # Each definition says how several teachers are combined; those that agree share one pass.
    for how in dict.fromkeys(measure.defined.ensemble for measure in measures):
        fresh = {k: m.fresh() for k, m in enumerate(measures) if m.defined.ensemble == how}
        sides = (heads.teacher, heads.student)
        teacher, student = (side[0] if len(side) == 1 else combine_logits(side, how) for side in sides)
        update_all(list(fresh.values()), teacher, student, heads.labels, heads.baseline)
        found |= {k: m.estimate() for k, m in fresh.items()}
    return [found[k] for k in range(len(measures))]


@dataclass(frozen=True)
class Tried:
    """What a measure gave: `value` as it is, and under each test; `error` where it refused.

    Attributes:
        gauged: with a random gauge. itself: of the student against itself. shuffled: [SHUFFLES], of shuffled images.
    """

    card: Card
    definition: str
    value: float = math.nan
    gauged: float = math.nan
    itself: float = math.nan
    shuffled: tuple[float, ...] = ()
    error: str = ""

    @property
    def moved(self) -> float:
        """By how much the gauge moves it, of a number of the order of 1."""
        return abs(self.gauged - self.value) / max(1.0, abs(self.value))

    @property
    def best(self) -> float:
        """What a network against itself should give; NaN where the card knows none.

        That is where no value is the best, or it is infinite, or it depends on a third network.
        """
        if self.card.direction == "none" or "baseline_logits" in self.card.needs:
            return math.nan
        end = self.card.range[1 if self.card.direction == "higher" else 0]
        return end if math.isfinite(end) else math.nan

    @property
    def short(self) -> float:
        """By how much a network falls short of that against itself."""
        return abs(self.itself - self.best)

    @property
    def bias(self) -> float:
        """The mean over shuffles less the card's null; NaN where the card has none."""
        return float(np.mean(self.shuffled)) - self.card.null if self.card.null is not None else math.nan

    @property
    def noise(self) -> float:
        """Standard error of the mean over shuffles."""
        return float(np.std(self.shuffled, ddof=1)) / math.sqrt(len(self.shuffled))

    @property
    def beats(self) -> bool:
        """Whether its value is more alike than that of each shuffle."""
        if self.card.direction == "higher":
            return self.value > max(self.shuffled)
        return self.value < min(self.shuffled)


def put_to_test(measures: Sequence[LogitMeasure], heads: Heads, seed: int = 0) -> list[Tried]:
    """Each measure as it is, gauged, on itself and shuffled.

    A measure that refuses these logits (a KDScopeError) says so in its own `error`, and does not keep the others.

    >>> from kdscope.measures import MEASURES
    >>> z = np.random.default_rng(0).normal(size=(200, 4))
    >>> tried = put_to_test([MEASURES["kappa"]()], Heads((z,), (z + 0.1,)))[0]
    >>> tried.moved < GAUGE, tried.short < GAUGE, tried.beats
    (True, True, True)
    """
    asked = [Tried(measure.card, measure.definition) for measure in measures]
    try:
        columns = [estimates(measures, one) for one in (heads, heads.gauged(seed), heads.alone())]
        drawn = [estimates(measures, heads.shuffled(seed + k)) for k in range(SHUFFLES)]
    except KDScopeError as error:
        if len(measures) == 1:
            return [replace(asked[0], error=str(error))]
        return [tried for measure in measures for tried in put_to_test([measure], heads, seed)]
    return [
        replace(one, value=value, gauged=gauged, itself=itself, shuffled=shuffled)
        for one, value, gauged, itself, shuffled in zip(asked, *columns, zip(*drawn, strict=True), strict=True)
    ]
