"""Intervals of average precision: resampled images equal sets that hold them twice; trainings add Student's t."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

from kdscope.detection.data.record import Objects
from kdscope.detection.matching import average_precisions, match
from kdscope.detection.measures.found import Found
from kdscope.detection.measures.resampling import Score, image_weights, over_trainings, precisions, recalls

CLASSES, THRESHOLDS = 3, (0.5, 0.75)


def scene(seed: int, images: int = 12) -> tuple[list[Found], list, list]:
    """Detections and objects: about half of the objects found, and as many detections that find nothing."""
    rng = np.random.default_rng(seed)
    found, boxes, labels = [], [], []
    for _ in range(images):
        n = int(rng.integers(0, 4))
        corner = rng.uniform(0, 80, (n, 2))
        box = np.concatenate([corner, corner + rng.uniform(10, 40, (n, 2))], axis=1)
        label = rng.integers(1, CLASSES + 1, n)
        kept = rng.random(n) < 0.6
        other = rng.uniform(0, 80, (2, 2))
        said = np.concatenate([(box + rng.normal(0, 2, box.shape))[kept], np.hstack([other, other + 20])])
        names = np.concatenate([label[kept], rng.integers(1, CLASSES + 1, 2)])
        found.append(Found.of(said, np.round(rng.random(len(said)), 3), names))
        boxes.append(torch.tensor(box, dtype=torch.float32).view(-1, 4))
        labels.append(label.tolist())
    return found, boxes, labels


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_is_how_often_an_image_stands_in_the_set(seed):
    found, boxes, labels = scene(seed)
    weights = np.concatenate([np.ones((1, 12), dtype=int), image_weights(12, 5, seed)])
    objects = Objects.of(boxes, labels)
    matches = match(found, objects, THRESHOLDS)
    said = precisions(matches, objects.labels.numpy(), objects.image.numpy(), CLASSES, weights)
    part = recalls(matches, objects.labels.numpy(), objects.image.numpy(), CLASSES, weights)
    for row, weight in enumerate(weights):
        rows = np.repeat(np.arange(12), weight)
        again = Objects.of([boxes[i] for i in rows], [labels[i] for i in rows])
        repeated = match([found[i] for i in rows], again, THRESHOLDS)
        known = average_precisions(repeated, again.labels.numpy(), CLASSES)
        np.testing.assert_allclose(said[row], known, atol=1e-12)
        for label in range(1, CLASSES + 1):
            own = again.labels.numpy() == label
            if own.any():
                np.testing.assert_allclose(part[row, :, label - 1], repeated.hits[:, own].mean(axis=1))
            else:
                assert np.isnan(part[row, :, label - 1]).all()


def test_draws_of_blocks_are_those_of_the_whole(monkeypatch):
    found, boxes, labels = scene(0)
    objects, weights = Objects.of(boxes, labels), image_weights(12, 7)
    matches = match(found, objects, THRESHOLDS)
    whole = precisions(matches, objects.labels.numpy(), objects.image.numpy(), CLASSES, weights)
    monkeypatch.setattr("kdscope.detection.measures.resampling.AT_ONCE", 1)
    parts = precisions(matches, objects.labels.numpy(), objects.image.numpy(), CLASSES, weights)
    np.testing.assert_allclose(whole, parts, atol=1e-12)


def test_a_paired_difference_is_narrower_than_both():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 1, 4000), rng.normal(0, 0.1, (2, 4000))
    a, b = (Score(m, m + shared + noise) for m, noise in zip((1.0, 0.5), own, strict=True))
    low, high = a.minus(b).interval()
    assert a.minus(b).value == 0.5
    # a difference of two normals of 0.1 has 0.1 * sqrt(2); 95% are 1.96 of these either way
    assert low == pytest.approx(0.5 - 1.96 * 0.1 * 2**0.5, abs=0.03)
    assert high == pytest.approx(0.5 + 1.96 * 0.1 * 2**0.5, abs=0.03)


def test_trainings_add_students_t():
    shared = np.random.default_rng(0).normal(0, 0.02, 4000)
    same = [Score(v, v + shared) for v in (0.2, 0.3, 0.4)]
    together = over_trainings(same)
    low, high = together.interval()
    half = math.hypot(4.302653 * 0.1 / math.sqrt(3), 1.96 * 0.02)  # t of two degrees of freedom at 0.975
    assert together.value == pytest.approx(0.3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.01)
    assert together.interval(within=(0.2, 1.0)) == (0.2, high)
    assert over_trainings(same[:1]) is same[0]
    unknown = Score(math.nan, np.full(4000, math.nan))
    assert over_trainings([unknown, *same]).interval() == (low, high)
    lone = over_trainings([unknown, same[0]])
    assert lone.value == 0.2
    assert np.isnan(lone.interval()).all()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_of_trainings_hold_as_often_as_they_say(seeds):
    """Of seeds three times as far apart as images leave a number. Draws of the trainings held 77, 84 and 90 %."""
    rng, held, trials = np.random.default_rng(seeds), 0, 800
    images = rng.normal(0, 0.01, 300)
    for _ in range(trials):
        values = rng.normal(0, 0.03, seeds) + rng.normal(0, 0.01)
        low, high = over_trainings([Score(v, v + images) for v in values]).interval()
        held += low <= 0 <= high
    assert held / trials >= 0.935  # 0.95 less two errors of 800 trials


def test_what_is_not_paired_has_the_interval_of_welch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.1, 4), rng.normal(0.3, 0.02, 3)
    first, second = (over_trainings([Score(v, np.full(9, v)) for v in values]) for values in (a, b))
    low, high = first.minus(second).interval()
    known = ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx((known.low, known.high))
    one = Score(0.5, np.full(9, 0.5)).minus(second)  # of a lone training nothing but itself is known
    assert (one.error, one.freedom) == (second.error, 2)


def test_nothing_known_gives_no_interval():
    assert np.isnan(Score(float("nan"), np.full(5, np.nan)).interval()).all()
