"""Lines of a table of detectors: a number with its gain over a floor, and one more line for all seeds of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdscope.detection.measures.cards import DIRECTIONS, RANGES
from kdscope.detection.measures.resampling import Score
from kdscope.measures.result import Result
from kdscope.measures.seeds import EVERYTHING, differences, over_seeds
from kdscope.measures.statistics import wilson


@dataclass(frozen=True)
class Line:
    """A number of a network or a pair.

    Attributes:
        about: what else stands in its row. gain: by how much it is better than the floor: lower where
            its card says so.
        objects: of how many things it is a share, or how many there are.
    """

    about: Mapping[str, Any]
    result: Result
    gain: Result | None = None
    objects: float | None = None

    def row(self) -> dict[str, Any]:
        gain = self.gain
        found = self.result.row(**self.about, control=self.result.control)
        found |= {"gain": gain.value, "gain_low": gain.ci_low, "gain_high": gain.ci_high} if gain else {}
        return found | ({} if self.objects is None else {"objects": self.objects})


def all_seeds(lines: Sequence[Line], about: Mapping[str, Any], confidence: float) -> Line:
    """The mean over trainings, with the interval of `over_seeds`; `about` is what its row says otherwise."""
    results, gains, first = [line.result for line in lines], [line.gain for line in lines], lines[0]
    within = RANGES.get(first.result.measure, EVERYTHING)
    floors, counts = [result.floor for result in results], [line.objects for line in lines]
    result = over_seeds(results, confidence=confidence, within=within)
    result = result.with_frame(None if None in floors else _mean(floors))
    gain = over_seeds(gains, confidence=confidence, within=differences(within)) if None not in gains else None
    objects = None if None in counts else _mean(counts)
    result = _of_few(result, objects, confidence)
    return Line(first.about | about | {"seed": "all", "seeds": len(lines)}, result, gain, objects)


def line_of(
    measure: str,
    score: Score,
    images: int,
    about: Mapping[str, Any],
    *,
    confidence: float,
    floor: Score | None = None,
    control: str = "",
    objects: float | None = None,
) -> Line:
    """Of a number with draws of the same images as its floor's."""
    result, gain = _of_few(scored(measure, score, images, confidence), objects, confidence), None
    if floor is not None:
        gap = floor.minus(score) if DIRECTIONS[measure] == "lower" else score.minus(floor)
        gain = scored(measure, gap, images, confidence, differences(RANGES.get(measure, EVERYTHING)))
        result = result.with_frame(floor.value, control=control)
    return Line(about, result, gain, objects)


def scored(
    measure: str, score: Score, images: int, confidence: float, within: tuple[float, float] | None = None
) -> Result:
    """The number with its interval; n is 0 where it is not known."""
    low, high = score.interval(confidence, within or RANGES.get(measure, EVERYTHING))
    count = 0 if np.isnan(score.value) else images
    return Result(measure, score.value, None, count, low, high, source="kdscope", draws=score.draws)


def bounded(result: Result, within: tuple[float, float]) -> Result:
    """With an interval that ends where the number does."""
    low, high = np.clip((result.ci_low, result.ci_high), *within)
    return replace(result, ci_low=float(low), ci_high=float(high))


def _of_few(result: Result, objects: float | None, confidence: float) -> Result:
    """With Wilson's interval where none or all of some objects were found: of resampled images none differs in that."""
    if objects is None or result.value not in (0.0, 1.0) or RANGES.get(result.measure) != (0.0, 1.0):
        return result
    if result.ci_low != result.ci_high:
        return result
    low, high = wilson(result.value, objects, confidence)
    return replace(result, ci_low=low, ci_high=high)


def _mean(values: Sequence[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
