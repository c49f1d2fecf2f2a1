"""How far is an average precision from that of infinitely many images? Resampled images; and over trainings, by seeds.

An image that is drawn twice counts twice: its detections and objects get the weight 2. Precision and recall are sums,
so that a resample needs neither another matching nor another sort, and equals the number of a set in which the image
stands twice. All networks get the same draws of images, so that their differences are paired. Of several trainings the
interval is that of all numbers over seeds (`kdscope.measures.seeds.seeds_and_images`).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdscope.detection.matching import RECALLS, Matches
from kdscope.measures.seeds import EVERYTHING, widened
from kdscope.measures.statistics import centred_interval

RESAMPLES = 500
AT_ONCE = 2**22  # weights of detections held in memory


class Score(NamedTuple):
    """A number of a set of images, and what it was in resampled sets [R].

    Attributes:
        error, freedom: of a mean over trainings, its standard error over them and the degrees of freedom of that.
    """

    value: float
    draws: np.ndarray
    error: float = 0.0
    freedom: float = math.inf

    def interval(self, confidence: float = 0.95, within: tuple[float, float] = EVERYTHING) -> tuple[float, float]:
        """For other images, and if it is a mean over trainings, for others of these; inside of what can be (`within`).

        >>> [round(end, 3) for end in Score(0.5, np.linspace(0, 1, 1001)).interval(0.9)]
        [0.05, 0.95]
        >>> [round(end, 2) for end in Score(0.5, np.linspace(0, 1, 1001), error=0.1, freedom=1).interval(0.9, (0, 1))]
        [0.0, 1.0]
        """
        images = centred_interval(self.value, self.draws, confidence)
        low, high = np.clip(widened(self.value, self.error, self.freedom, images, confidence), *within)
        return float(low), float(high)

    def minus(self, other: "Score") -> "Score":
        """The difference, draw by draw: paired where both were drawn from the same images.

        Means over trainings are not: for these, give differences of single trainings to `over_trainings`. If there are
        no pairs, their errors add up, with the degrees of freedom of Welch.
        """
        parts = [(each.error**2, each.freedom) for each in (self, other)]
        variance = sum(part for part, _ in parts)
        freedom = variance**2 / sum(part**2 / each for part, each in parts) if variance > 0 else math.inf
        return Score(self.value - other.value, self.draws - other.draws, math.sqrt(variance), freedom)


def image_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each image stands in each resample: int64 [R, N], rows sum to N.

    >>> image_weights(5, 3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def over_trainings(scores: Sequence[Score]) -> Score:
    """The mean over trainings on the same images; one training is itself.

    Those without a number (NaN) are left out; if one is left of several, nothing is known of another training.

    >>> together = over_trainings([Score(0.2, np.full(9, 0.2)), Score(0.4, np.full(9, 0.4))])
    >>> [round(end, 3) for end in together.interval(0.5)]
    [0.2, 0.4]
    """
    if len(scores) == 1:
        return scores[0]
    known = [score for score in scores if not math.isnan(score.value)] or list(scores)
    values, count = [score.value for score in known], len(known)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    mean = mean_of(known)
    return Score(mean.value, mean.draws, error, max(1, count - 1))


def mean_of(scores: Sequence[Score]) -> Score:
    """The mean of numbers of the same images, such as of one training in several comparisons; without those of NaN.

    >>> mean_of([Score(0.2, np.array([0.1, 0.3])), Score(0.4, np.array([0.4, 0.4]))]).draws.round(2).tolist()
    [0.25, 0.35]
    """
    known = [score for score in scores if not math.isnan(score.value)] or list(scores)
    return Score(float(np.mean([s.value for s in known])), np.mean([s.draws for s in known], axis=0))


def ratio(above: np.ndarray, below: np.ndarray) -> Score:
    """The sum of one number over that of another, by image [N] each: a share of things, of which images have several.

    >>> ratio(np.array([1.0, 0.0]), np.array([3.0, 1.0])).value
    0.25
    """
    weights = _drawn(len(below))
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (weights @ above) / (weights @ below)
    return Score(float(draws[0]), draws[1:])


@functools.lru_cache(maxsize=2)
def _drawn(images: int) -> np.ndarray:
    """Weights of the images themselves, and of their resamples: float64 [1 + R, N]."""
    return np.concatenate([np.ones((1, images)), image_weights(images) if images else np.ones((RESAMPLES, 0))])


def precisions(
    matches: Matches, labels: np.ndarray, image: np.ndarray, classes: int, weights: np.ndarray
) -> np.ndarray:
    """Average precision of each resample, threshold and class: float64 [R, T, K], NaN without an object.

    Args:
        matches: what was matched at T thresholds. labels, image: int [M], of the objects.
        classes: K, how many labels there are, from 1. weights: [R, N] of the images.

    >>> import torch
    >>> from kdscope.detection.data.record import Objects
    >>> from kdscope.detection.matching import match
    >>> from kdscope.detection.measures.found import Found
    >>> objects = Objects.of([torch.tensor([[0.0, 0, 10, 10]])] * 2, [[1], [1]])
    >>> matches = match([Found.of([[0, 0, 10, 10]], [0.9], [1]), Found.of([], [], [])], objects)
    >>> precisions(matches, np.array([1, 1]), np.array([0, 1]), 1, np.array([[1, 1], [2, 0]])).round(5).ravel().tolist()
    [0.50495, 1.0]
    """
    where = np.repeat(np.arange(len(matches.offsets) - 1), np.diff(matches.offsets))
    right, wrong = matches.right, matches.wrong
    order = np.argsort(-matches.scores, kind="stable")
    found = np.full((len(weights), len(right), classes), np.nan)
    for label in range(1, classes + 1):
        own = order[matches.labels[order] == label]
        objects, step = matches.counted & (labels == label), max(1, AT_ONCE // max(1, len(own)))
        for start in range(0, len(weights), step):
            some = weights[start : start + step].T
            each, asked = some[where[own]].astype(np.float32), some[image[objects]].sum(axis=0)
            found[start : start + step, :, label - 1] = _of_class(each, right[:, own], wrong[:, own], asked)
    return found


def _of_class(weights: np.ndarray, right: np.ndarray, wrong: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """AP [R, T] of detections in the order of their scores, each with a weight [D, R], of `asked` [R] objects."""
    found, kept = np.empty((len(asked), len(right))), None
    for row, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        if kept is None or not np.array_equal(kept, good | bad):  # mostly the same at every threshold
            kept = good | bad
            said = np.cumsum(weights * kept[:, None], axis=0)  # whole numbers, exact in float32
        # Precision is largest just where a detection is right, so the others are needed for their number alone.
        true, count = np.cumsum(weights[good], axis=0, dtype=np.float64), said[good]
        precision = np.divide(true, count, out=np.zeros_like(true), where=count > 0)
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        precision = np.concatenate([precision, np.zeros((1, len(asked)))])
        recall = np.divide(true, asked, out=np.zeros_like(true), where=asked > 0)
        places = np.stack([np.searchsorted(reached, RECALLS, side="left") for reached in recall.T.copy()], axis=1)
        found[:, row] = np.take_along_axis(precision, places, axis=0).mean(axis=0)
    return np.where(asked[:, None] > 0, found, np.nan)


def recalls(matches: Matches, labels: np.ndarray, image: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """The share of the objects that was found: float64 [R, T, K], as `precisions`."""
    found = np.full((len(weights), len(matches.hits), classes), np.nan)
    for label in range(1, classes + 1):
        own = matches.counted & (labels == label)
        each = weights[:, image[own]]
        with np.errstate(invalid="ignore"):
            found[:, :, label - 1] = (each @ matches.hits[:, own].T) / each.sum(axis=1, keepdims=True)
    return found


def mean_score(values: np.ndarray) -> Score:
    """The mean over thresholds and over the classes that have objects of [1 + R, T, K]; the first row is the number.

    >>> score = mean_score(np.array([[[0.5, np.nan]], [[0.25, 0.75]]]))
    >>> score.value, score.draws.tolist()
    (0.5, [0.5])
    """
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=(1, 2)) / known.sum(axis=(1, 2))
    return Score(float(mean[0]), mean[1:])
