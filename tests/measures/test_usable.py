"""What features tell: probes against closed forms, and where nearest neighbours fail."""

import math
from copy import deepcopy

import numpy as np
import pytest
from known import gaussians
from scipy.spatial.distance import cdist
from scipy.special import digamma

from kdscope.errors import KDScopeError
from kdscope.measures.ksg import ksg, ksg_interval, reduced_ksg
from kdscope.measures.usable import usable_information


def by_distances(x, y, k=4):
    """`ksg` from all distances, which is quicker in many dimensions."""
    apart = [cdist(z, z, "chebyshev") for z in (x, y)]
    for distances in apart:
        np.fill_diagonal(distances, np.inf)
    radius = np.partition(np.maximum(*apart), k - 1, axis=1)[:, k - 1 : k]
    counts = [(distances < radius).sum(axis=1) + 1 for distances in apart]
    return digamma(k) + digamma(len(x)) - sum(digamma(count).mean() for count in counts)


@pytest.mark.parametrize("d", [1, 3, 12])
def test_neighbours_are_those_of_all_distances(d):
    x, y = gaussians(d, 1.0, 500)
    assert ksg(x, y) == pytest.approx(by_distances(x, y), abs=1e-12)
    assert ksg(x, y, 3) == pytest.approx(by_distances(x, y, 3), abs=1e-12)


@pytest.fixture(scope="module")
def stated_draws():
    """2 nats in n = 2,000 images, one generator through all dimensions; then in 128, or in 1 dimension of 32."""
    rng = np.random.default_rng(0)
    drawn = {d: gaussians(d, 2.0, seed=rng) for d in (1, 2, 8, 32)}
    drawn["1 of 32"] = gaussians(32, 2.0, spread=False, seed=deepcopy(rng))
    return drawn | {128: gaussians(128, 2.0, seed=rng)}


@pytest.mark.parametrize(("d", "stated"), [(1, 2.01), (2, 2.01), (8, 0.97), (32, 0.22), (128, 0.04), ("1 of 32", 0.08)])
def test_neighbours_lose_two_nats_in_many_dimensions(d, stated, stated_draws):
    found = ksg if d in (1, 2) else by_distances
    assert found(*stated_draws[d]) == pytest.approx(stated, abs=0.005)


@pytest.mark.parametrize(("d", "mean"), [(1, 2.007), (2, 1.98), (8, 1.02), (32, 0.245), ("1 of 32", 0.085)])
def test_neighbours_on_average_over_draws(d, mean):
    shape = {"d": 32, "spread": False} if d == "1 of 32" else {"d": d}
    found = [by_distances(*gaussians(nats=2.0, seed=seed, **shape)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(mean, abs=0.015)


@pytest.mark.parametrize(("n", "said"), [(1_000, 11.4), (2_000, 6.4)])
def test_gaussian_entropies_say_three_times_too_much_in_128_dimensions(n, said):
    # What to do without: the plug-in estimate of correlated Gaussians, from log-determinants; the truth is 2.
    found = []
    for seed in range(4):
        x, y = gaussians(128, 2.0, n, seed=seed)
        together = np.corrcoef(x, y, rowvar=False)
        logs = [np.linalg.slogdet(part)[1] for part in (together[:128, :128], together[128:, 128:], together)]
        found.append((logs[0] + logs[1] - logs[2]) / 2)
    assert np.mean(found) == pytest.approx(said, abs=0.05)


def test_principal_components_find_what_they_hold():
    x, y = gaussians(30, 2.0, spread=False)
    x[:, 0] *= 20
    y[:, 0] *= 20
    found = reduced_ksg(x, y, 2)
    assert found.value > 1.3
    assert found.shares[0] == pytest.approx(402 / 431, abs=0.02)


def test_neighbours_need_images_and_few_components():
    with pytest.raises(KDScopeError, match="5 images for 4 neighbours; at least 6"):
        ksg(np.zeros((5, 1)), np.zeros((5, 1)))
    with pytest.raises(KDScopeError, match="9 components"):
        reduced_ksg(np.zeros((50, 9)), np.zeros((50, 9)), 9)
    with pytest.raises(KDScopeError, match="constant"):
        reduced_ksg(np.zeros((50, 9)), np.zeros((50, 9)))


def test_a_probe_reaches_the_truth_where_it_is_linear():
    rng = np.random.default_rng(0)
    n, flip = 3_000, 0.2
    z = rng.integers(0, 2, n)
    y = np.where(rng.random(n) < flip, 1 - z, z)
    gained = usable_information(z[:, None] + 0.0, y)
    h = -(flip * np.log(flip) + (1 - flip) * np.log(1 - flip))
    assert gained.mean() == pytest.approx(np.log(2) - h, abs=0.03)
    assert usable_information(rng.normal(size=(n, 5)), y).mean() == pytest.approx(0, abs=0.01)


def test_soft_labels_beyond_the_hard_label():
    rng = np.random.default_rng(0)
    n = 1_500
    y, dark = rng.integers(0, 2, (2, n))
    soft = np.full((n, 4), 0.05)
    soft[np.arange(n), y] = 0.6
    soft[np.arange(n), 2 + dark] = 0.3  # what the label does not say
    hard = np.eye(2)[y]
    blind, seeing = hard + 0.0, np.hstack([hard, np.eye(2)[dark]])
    assert usable_information(blind, soft, hard).mean() == pytest.approx(0, abs=0.005)
    known = 0.35 * (np.log(2) + 6 / 7 * np.log(6 / 7) + 1 / 7 * np.log(1 / 7))
    assert usable_information(seeing, soft, hard).mean() == pytest.approx(known, abs=0.01)
    assert usable_information(seeing, soft).mean() > known + 0.1


def test_bad_features():
    with pytest.raises(KDScopeError, match="NaN or infinite in 1 of 30 images"):
        usable_information(np.r_[np.full((1, 2), np.nan), np.zeros((29, 2))], np.arange(30) % 2)
    with pytest.raises(KDScopeError, match="5 images in 3 folds"):
        usable_information(np.zeros((5, 2)), np.arange(5) % 2)
    with pytest.raises(KDScopeError, match="of the same images"):
        usable_information(np.zeros((5, 2)), np.arange(6) % 2)


def test_the_interval_of_neighbours_covers_what_is_known():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(25):
        x = rng.normal(size=(300, 1))
        low, high = ksg_interval(x, x + rng.normal(size=(300, 1)), 1)
        hits += low < math.log(2) / 2 < high
    assert hits >= 22


def test_a_bootstrap_with_replacement_is_invalid_for_neighbours():
    x, y = gaussians(1, 0.0, 500)
    rng = np.random.default_rng(0)
    drawn = [ksg(x[rows], y[rows]) for rows in rng.integers(0, 500, (10, 500))]
    halves = [ksg(x[rows], y[rows]) for rows in (rng.permutation(500)[:250] for _ in range(10))]
    assert np.mean(drawn) > 0.35  # a copy is a neighbour in both
    assert abs(np.mean(halves)) < 0.08
