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
    known = sum(each.n > 0 for each in results)  # a training without a number is not in the mean
    return Line(first.about | about | {"seed": "all", "seeds": known}, result, gain, objects)


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
    floor_objects: float | None = None,
) -> Line:
    """Of a number with draws of the same images as its floor's, and for shares of how many objects each is."""
    result, gain = _of_few(scored(measure, score, images, confidence), objects, confidence), None
    if floor is not None:
        gap = floor.minus(score) if DIRECTIONS[measure] == "lower" else score.minus(floor)
        gain = scored(measure, gap, images, confidence, differences(RANGES.get(measure, EVERYTHING)))
        below = _of_few(scored(measure, floor, images, confidence), floor_objects, confidence)
        if result.draws is None or below.draws is None:
            gain = between_ends(gain, *((below, result) if DIRECTIONS[measure] == "lower" else (result, below)))
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


def between_ends(gain: Result, first: Result, second: Result) -> Result:
    """The gain of the first share over the second, from the least to the most that their intervals leave.

    So two of two are not surely more than none of two, but four of four than none of four (Fisher's exact test says the
    same). It holds whatever the two have in common, and is rather too wide.

    >>> sure = Result("transfer", 1.0, None, 2, 0.34, 1.0)
    >>> gain = between_ends(sure, sure, replace(sure, value=0.0, ci_low=0.0, ci_high=0.66))
    >>> round(gain.ci_low, 2), gain.ci_high
    (-0.32, 1.0)
    """
    return replace(gain, ci_low=first.ci_low - second.ci_high, ci_high=first.ci_high - second.ci_low, draws=None)


def _of_few(result: Result, objects: float | None, confidence: float) -> Result:
    """With Wilson's interval, and no draws, where no resampled image changes a share, say as none was found."""
    if objects is None or RANGES.get(result.measure) != (0.0, 1.0) or result.ci_low != result.ci_high:
        return result
    low, high = wilson(result.value, objects, confidence)
    return replace(result, ci_low=low, ci_high=high, draws=None)


def _mean(values: Sequence[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
