"""A lower bound: never above the truth nor above ln N, tight where it can be, about 0 where nothing is shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known import gaussians
from scipy.special import logsumexp

from kdscope.errors import KDScopeError
from kdscope.measures.infonce import contrast, info_nce


def bounds(d, nats, seeds=3, **options):
    return [info_nce(*gaussians(d, nats, seed=seed, **options)).per_sample.mean() for seed in range(seeds)]


@pytest.mark.parametrize(
    ("d", "nats", "spread", "short"),
    [(1, 0.5, True, 0.03), (1, 2.0, True, 0.09), (2, 2.0, True, 0.05), (8, 2.0, True, 0.11), (32, 2.0, False, 0.15)],
)
def test_close_below_the_truth_where_features_are_gaussian(d, nats, spread, short):
    found = np.mean(bounds(d, nats, spread=spread))
    assert nats - short < found < nats + 0.01


def test_it_says_less_where_much_has_to_be_learned_and_never_more():
    assert 1.5 < np.mean(bounds(32, 2.0)) < 1.75  # 2 nats in 32 equal parts, from 2,000 images
    assert 3.7 < np.mean(bounds(2, 4.0)) < 3.85  # 2.2 nats below the ceiling


@pytest.mark.parametrize("d", [1, 8, 64])
def test_independent_features_share_nothing(d):
    assert -0.05 < np.mean(bounds(d, 0.0)) < 0.003


def test_never_above_the_ceiling():
    x = np.random.default_rng(0).normal(size=(2_000, 8))
    bound = info_nce(x, x)  # without bound, in truth
    assert (bound.candidates, bound.ceiling) == (500, pytest.approx(np.log(500)))
    assert (bound.per_sample <= bound.ceiling + 1e-9).all()
    assert bound.ceiling - 0.05 < bound.per_sample.mean() < bound.ceiling
    assert info_nce(x[:512], x[:512]).ceiling == pytest.approx(4.85, abs=0.005)  # ln 128
    assert info_nce(x[:128], x[:128]).per_sample.mean() < np.log(32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), scale=st.floats(0, 30))
def test_no_critic_says_more_than_ln_n(seed, n, scale):
    rng = np.random.default_rng(seed)
    u, v, w, b = (scale * rng.normal(size=shape) for shape in ((n, 3), (n, 3), 3, 6))
    found = contrast(w, b, u, v)
    scores = np.array([[w @ (p * q) + b @ np.r_[q, q * q] for q in v] for p in u])
    direct = np.diag(scores) - logsumexp(scores, axis=1) + np.log(n)
    assert np.allclose(found, direct, atol=1e-9 * (1 + np.abs(scores).max()))
    assert (found <= np.log(n) + 1e-9).all()


def test_rotation_scale_and_shift_change_nothing():
    x, y = gaussians(4, 1.0, n=400)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 4)))[0].T
    plain, moved = info_nce(x, y), info_nce(3 * x @ turn + 7, 0.1 * y[:, ::-1] - 2)
    assert moved.per_sample.mean() == pytest.approx(plain.per_sample.mean(), abs=1e-4)


def test_one_outlier_does_not_rule():
    x, y = gaussians(4, 1.0)
    plain = info_nce(x, y).per_sample.mean()
    x[0], y[0] = 100, -100
    assert info_nce(x, y).per_sample.mean() == pytest.approx(plain, abs=0.1)


def test_what_is_not_linear_is_not_seen():
    x = np.random.default_rng(0).normal(size=(1_000, 1))
    assert abs(info_nce(x, np.abs(x)).per_sample.mean()) < 0.05


def test_bad_features():
    x = np.random.default_rng(0).normal(size=(100, 2))
    for a, b, message in (
        (x[:79], x[:79], "79 images for InfoNCE; at least 80"),
        (x, x[:99], "of the same images"),
        (x, np.ones((100, 3)), "constant"),
        (x, np.full((100, 3), np.nan), "NaN or infinite"),
    ):
        with pytest.raises(KDScopeError, match=message):
            info_nce(a, b)
