"""Measures of what teacher and student say of the same images: their logits go in, one number comes out."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.base import Measure, SampleMean
from kdscope.measures.pair import Pair, pairs


class LogitMeasure(Measure):
    """A measure on logits of teacher and student, and where its card says so on labels and a baseline's logits."""

    def update(
        self, teacher_logits: Any, student_logits: Any, labels: Any = None, baseline_logits: Any = None
    ) -> "LogitMeasure":
        """Adds images; returns itself.

        Args:
            teacher_logits, student_logits, baseline_logits: [B, C], numpy or torch, any floating dtype. The baseline
                is a student trained without a teacher.
            labels: integers [B] in 0..C-1.

        Raises:
            KDScopeError: as `kdscope.measures.pair.pairs`, or where what the card says it needs is missing. The
                state is then as it was before.
        """
        update_all([self], teacher_logits, student_logits, labels, baseline_logits)
        return self

    @abstractmethod
    def add(self, pair: Pair) -> None:
        """Adds one checked chunk to the state, and to `seen`."""


class LogitMean(LogitMeasure, SampleMean):
    """A measure on logits that is a mean over images."""

    def add(self, pair: Pair) -> None:
        self.keep(self.per_sample(pair))

    @abstractmethod
    def per_sample(self, pair: Pair) -> np.ndarray:
        """The number of each image [B], NaN where it does not count."""


def update_all(
    measures: Sequence[LogitMeasure],
    teacher_logits: Any,
    student_logits: Any,
    labels: Any = None,
    baseline_logits: Any = None,
) -> None:
    """Adds the same images to several measures; what they share (softmax, top classes) is computed once.

    Arguments and errors as those of `LogitMeasure.update`.

    >>> several = [MEASURES["agreement"](), MEASURES["js"]()]
    >>> update_all(several, [[0.0, 1.0]], [[0.0, 2.0]])
    >>> [one.compute().n for one in several]
    [1, 1]
    """
    given = {"labels": labels, "baseline_logits": baseline_logits}
    needed = set()
    for measure in measures:
        needed.update(measure.card.needs)
        for name in measure.card.needs:
            if given[name] is None:
                raise KDScopeError(f"measure {measure.card.name!r} needs {name.replace('_', ' ')}, and none are given")
    given = {name: array if name in needed else None for name, array in given.items()}
    first = measures[0].seen if measures else 0
    for pair in pairs(teacher_logits, student_logits, **given, first=first):
        for measure in measures:
            measure.add(pair)


def suitable(given: Iterable[str] = (), definition: str = "kdscope", family: str = "fidelity") -> list[str]:
    """Names of the measures on logits of a family that need no more than what is `given`, and know the definition.

    >>> suitable(definition="guo2024-code")
    ['agreement', 'kl-teacher-student']
    >>> "kappa" in suitable(), "accuracy" in suitable(), "accuracy" in suitable(["labels"])
    (True, False, True)
    """
    given = set(given)
    return [
        name
        for name in MEASURES
        if issubclass(MEASURES[name], LogitMeasure)
        and MEASURES[name].card.family == family
        and given.issuperset(MEASURES[name].card.needs)
        and definition in MEASURES[name].definitions
    ]
