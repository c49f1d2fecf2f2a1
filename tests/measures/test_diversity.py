"""Disagreement, entropy, ensemble gain, affinity and diversity of views, against closed forms."""

import math

import numpy as np
import pytest

from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.diversity import predictive_entropy, ratio_of_means


def logits(top, classes=3, sure=4.0):
    return sure * np.eye(classes)[np.asarray(top)]


def test_entropy_in_closed_form():
    z = np.array([[2.0, 0, 0], [0, 0, 0]])
    p = math.exp(2) / (math.exp(2) + 2)
    value = MEASURES["predictive-entropy"]().update(z, z).compute()
    assert value.per_sample == pytest.approx([0.665573, math.log(3)], abs=1e-6)
    assert value.per_sample[0] == pytest.approx(-p * math.log(p) - (1 - p) * math.log((1 - p) / 2))
    assert predictive_entropy(np.log(np.full((1, 7), 1 / 7))) == pytest.approx(math.log(7))


def test_an_entropy_of_certainty_is_none():
    assert MEASURES["predictive-entropy"]().update(logits([0], sure=1e4), logits([0], sure=1e4)).estimate() == 0


def test_disagreement_is_one_less_agreement():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200, 5))
    found = MEASURES["disagreement"]().update(a, b).estimate()
    assert found == pytest.approx(1 - MEASURES["agreement"]().update(a, b).estimate())
    assert MEASURES["disagreement"]().update(a, a + 3).estimate() == 0


def test_gain_over_the_mean_and_the_best_member():
    labels = np.zeros(4, int)
    members = [logits([0, 0, 0, 1]), logits([0, 1, 1, 0])]  # right on 3/4 and 2/4
    joined = logits([0, 0, 0, 0])
    mean, best = (MEASURES[n]().update(joined, members, labels) for n in ("ensemble-gain", "ensemble-gain-best"))
    assert mean.compute().value == 1 - 5 / 8
    assert best.compute().value == 1 / 4
    assert (mean.ceiling(), best.ceiling()) == (3 / 8, 1 / 4)
    assert mean.compute().per_sample.tolist() == [0, 0.5, 0.5, 0.5]
    assert MEASURES["ensemble-gain"]().update(joined, [joined, joined], labels).compute().ci_high == 0


@pytest.mark.parametrize("name", ["ensemble-gain", "ensemble-gain-best"])
def test_batches_and_ranks_of_gains_add_up(name):
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(4, 60, 3)), rng.integers(0, 3, 60)
    whole = MEASURES[name]().update(z[0], z[1:], labels).compute()
    parts = [MEASURES[name]().update(z[0, rows], z[1:, rows], labels[rows]) for rows in (slice(0, 7), slice(7, 60))]
    merged = parts[0].merge(parts[1]).compute()
    assert (merged.value, merged.ci_low, merged.n) == (whole.value, whole.ci_low, 60)
    with pytest.raises(KDScopeError, match="an ensemble of no networks"):
        MEASURES[name]().update(z[0], [], labels)


def test_affinity_and_diversity_of_a_view():
    labels = np.zeros(10, int)
    clean, seen = logits([0] * 8 + [1] * 2), logits([0] * 6 + [1] * 4)
    for definition in ("kdscope", "guo2024-code"):
        assert MEASURES["affinity"](definition).update(clean, seen, labels).estimate() == 0.75
    assert MEASURES["accuracy-shift"]().update(clean, seen, labels).estimate() == pytest.approx(-0.2)
    halves, quarters = (np.tile(np.log([[p, 1 - p]]), (10, 1)) for p in (0.5, 0.25))
    assert MEASURES["view-diversity"]().update(halves, quarters, labels).compute().value == pytest.approx(2)
    same = MEASURES["view-diversity"]().update(clean, clean, labels).compute()
    assert (same.value, same.ci_low, same.ci_high) == (1, 1, 1)


def test_no_ratio_to_nothing():
    labels, wrong, right = np.zeros(10, int), logits([1] * 10), logits([0] * 10)
    none = MEASURES["affinity"]().update(wrong, right, labels).compute()
    assert math.isnan(none.value)
    assert (none.n, none.excluded) == (0, 10)
    zero = MEASURES["affinity"]().update(right, wrong, labels).compute()
    assert (zero.value, zero.ci_low) == (0, 0)
    assert 0.2 < zero.ci_high < 0.4
    with pytest.raises(KDScopeError, match="must be of the same images"):
        ratio_of_means(np.ones(3), np.ones(4))


def test_the_interval_of_a_ratio_covers_and_is_paired():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        shared = rng.exponential(size=200)
        a, b = 2 * shared + rng.exponential(size=200), shared + rng.exponential(size=200)
        _, low, high = ratio_of_means(a, b)
        hits += low < 1.5 < high
    assert 0.92 < hits / 400 < 0.975
    ratio, low, high = ratio_of_means(3 * shared, shared)
    assert (ratio, low, high) == pytest.approx((3, 3, 3))
