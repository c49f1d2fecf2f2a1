"""What features tell: probes against closed forms, and where nearest neighbours fail."""

import math

import numpy as np
import pytest

from kdscope.errors import KDScopeError
from kdscope.measures.ksg import ksg, ksg_interval, reduced_ksg
from kdscope.measures.usable import usable_information


def gaussians(d, nats, n=2_000, spread=True, seed=0):
    """x, y [n, d] that share `nats`, evenly over all dimensions or in the first alone."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n, d))
    rho = np.zeros(d)
    rho[: d if spread else 1] = np.sqrt(1 - np.exp(-2 * nats / (d if spread else 1)))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize(
    ("d", "found", "near"), [(1, 2.01, 0.06), (2, 2.01, 0.08), (8, 0.97, 0.07), (32, 0.22, 0.05), (128, 0.04, 0.03)]
)
def test_neighbours_lose_two_nats_in_many_dimensions(d, found, near):
    n = 2_000 if d < 128 else 1_000
    assert ksg(*gaussians(d, 2.0, n)) == pytest.approx(found, abs=near)


def test_neighbours_do_not_see_one_dimension_of_32():
    assert ksg(*gaussians(32, 2.0, spread=False)) == pytest.approx(0.08, abs=0.04)


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
