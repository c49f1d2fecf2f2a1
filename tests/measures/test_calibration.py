"""Calibration errors: written values, torchmetrics, calibrated models, and definitions as published."""

import numpy as np
import pytest
import torch
from known import is_such_a_draw, is_their_mean

from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.bins import equal_mass, equal_width, reliability
from kdscope.measures.calibration import calibration_error, debiased_square, unweighted_error
from kdscope.measures.pair import log_softmax
from kdscope.measures.smooth import cells, smooth_error, smoothed_error
from kdscope.measures.temperature import cross_fitted, fit_temperature

SURE = np.array([0.95] * 4 + [0.55] * 2 + [0.15])
RIGHT = np.array([1, 1, 1, 0, 1, 0, 0], dtype=bool)


def calibrated(n, scale=2.0, classes=100, seed=0):
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    z = scale * rng.normal(size=(n, classes))
    return z, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


def top(z, y):
    return np.exp(log_softmax(z).max(axis=1)), z.argmax(axis=1) == y


def test_written_values():
    assert calibration_error(equal_width(SURE, 10), SURE, RIGHT)[0] == pytest.approx(0.15)
    assert unweighted_error(equal_width(SURE, 10), SURE, RIGHT, 10) == pytest.approx(0.04)
    assert calibration_error(equal_width(np.ones(3)), np.ones(3), np.ones(3, bool))[0] == 0
    assert equal_width(np.array([0.1, 0.3, 0.6, 0.7]), 10).tolist() == [0, 2, 5, 6]  # (a, b]


def test_definitions_by_name():
    z = np.log(np.stack([SURE, 1 - SURE], axis=1))
    z[-1] = np.log([0.15, 0.85])
    labels = np.where(RIGHT, 0, 1)
    labels[-1] = 0
    sure, right = top(z, labels)
    for name, count, unweighted in (("guo2024-code", 10, True), ("stanton2021", 10, False), ("kdscope", 15, False)):
        bins = equal_width(sure, count)
        stated = unweighted_error(bins, sure, right, 10) if unweighted else calibration_error(bins, sure, right)[0]
        assert MEASURES["ece"](name).update(z, z, labels).estimate() == pytest.approx(stated, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "bins", "stated"),
    [(500, 15, 0.044), (2_000, 15, 0.021), (10_000, 15, 0.011), (50_000, 15, 0.005), (10_000, 100, 0.031)],
)
def test_a_calibrated_model_has_an_error_too(n, bins, stated):
    found, expected = [], []
    for seed in range(max(4, min(60, 100_000 // n))):
        sure, right = top(*calibrated(n, scale=2.5, seed=seed))
        places = equal_width(sure, bins)
        found.append(calibration_error(places, sure, right)[0])
        # The sum of a bin is nearly normal, around 0 and with variance sum c (1 - c): that is its mean size.
        expected.append(np.sqrt(2 / np.pi * np.bincount(places, sure * (1 - sure))).sum() / n)
    # What is stated is of one draw; the next one differs from it by a fifth to a quarter.
    assert is_such_a_draw(stated, found, digit=5e-4)
    assert is_their_mean(np.mean(expected), found, bias=0.04 * np.mean(expected))


def test_the_null_is_what_a_calibrated_model_gets():
    for name in ("ece", "ece-equal-mass", "ece-debiased", "smooth-ece", "nll", "brier"):
        z, y = calibrated(2_000)
        measure = MEASURES[name]().update(z, z, y)
        null = measure.null(100)
        if len(null) > 1:
            assert np.quantile(null, 0.001) <= measure.estimate() <= null.max() * 1.3
        else:
            result = measure.compute(0.999)
            assert result.ci_low < null[0] < result.ci_high
        over = MEASURES[name]().update(3 * z, 3 * z, y)
        assert over.estimate() > over.null(50).mean() * 1.5 + 0.01


@pytest.mark.parametrize(("norm", "bins"), [("l1", 15), ("l1", 10), ("l2", 15)])
def test_torchmetrics_says_the_same(norm, bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    z, y = calibrated(1_000, scale=3, classes=10)
    p = np.exp(log_softmax(1.7 * z))
    outside = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), 10, n_bins=bins, norm=norm).item()
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    where = equal_width(sure, bins)
    if norm == "l1":
        assert calibration_error(where, sure, right)[0] == pytest.approx(outside, abs=1e-6)
    else:
        sums, size = np.bincount(where, sure - right), np.maximum(np.bincount(where), 1)
        assert np.sqrt((sums**2 / size).sum() / len(sure)) == pytest.approx(outside, abs=1e-6)


@pytest.mark.parametrize("error", [calibration_error, debiased_square])
def test_left_out_values_are_those_of_a_loop(error):
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 1, 60)
    right = rng.random(60) < sure
    bins = equal_mass(sure, 5)
    loop = [error(np.delete(bins, i), np.delete(sure, i), np.delete(right, i))[0] for i in range(60)]
    assert error(bins, sure, right)[1] == pytest.approx(np.array(loop), abs=1e-12)


def test_the_debiased_error_has_no_bias():
    squares, plain = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        sure = np.repeat([0.3, 0.5, 0.7, 0.9], 50)
        right = rng.random(200) < sure
        bins = equal_mass(sure, 4)
        squares.append(debiased_square(bins, sure, right)[0])
        gaps = np.bincount(bins, sure - right) / 50
        plain.append((gaps**2).mean())
    assert abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(400)
    assert np.mean(plain) > 20 * np.std(plain) / np.sqrt(400)


def test_smooth_error_is_the_integral():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.2, 1, 400)
    right = rng.random(400) < sure**2
    value, _ = smooth_error(cells(sure), sure, right)
    t = (np.arange(4000) + 0.5) / 4000

    def direct(width):  # the reflected kernel written out
        kernel = sum(
            np.exp(-0.5 * ((t[:, None] - image) / width) ** 2) for k in (-2, 0, 2) for image in (k + sure, k - sure)
        )
        return np.abs((kernel / (width * np.sqrt(2 * np.pi)) * (right - sure)).mean(axis=1)).mean()

    assert direct(value) == pytest.approx(value, abs=1e-3)
    widths = [smoothed_error(np.random.default_rng(1).normal(size=64), w) for w in (0.01, 0.1, 0.5)]
    assert widths == sorted(widths, reverse=True)


def test_smooth_error_knows_a_constant_shift():
    z, y = calibrated(5_000)
    sure, right = top(z, y)
    small = smooth_error(cells(sure), sure, right)[0]
    assert small < 0.03
    moved = np.clip(sure - 0.1, 0, 1)
    assert smooth_error(cells(moved), moved, right)[0] == pytest.approx(0.1, abs=0.03)


def test_reliability_rows_add_up():
    z, y = calibrated(1_000)
    sure, right = top(z, y)
    rows = reliability(sure, right)
    assert rows["n"].sum() == 1_000
    assert (rows["n"] * rows["right"]).sum() == pytest.approx(right.sum())
    gaps = np.abs(rows["right"] - rows["confidence"])
    assert (rows["n"] * gaps).sum() / 1_000 == pytest.approx(calibration_error(equal_width(sure), sure, right)[0])
    assert ((rows["low"] < rows["confidence"]) & (rows["confidence"] <= rows["high"])).all()


def test_the_nll_gathers_and_does_not_pair():
    z = 2 * np.eye(3)
    value = MEASURES["nll"]().update(z, z, [0, 1, 2]).estimate()
    assert value == pytest.approx(0.2395448, abs=1e-7)
    assert -log_softmax(z)[..., [0, 1, 2]].mean() == pytest.approx(1.5728783, abs=1e-6)  # what it must not be


def test_temperatures_are_found_and_not_on_their_own_images():
    z, y = calibrated(4_000, classes=10)
    assert fit_temperature(2.5 * z, y) == pytest.approx(2.5, rel=0.06)
    judged, (even, odd) = cross_fitted(2.5 * z, y)
    assert even == pytest.approx(fit_temperature(2.5 * z[1::2], y[1::2]))
    assert odd == pytest.approx(fit_temperature(2.5 * z[::2], y[::2]))
    assert judged[::2] == pytest.approx(log_softmax(2.5 * z[::2], even))
    assert (
        MEASURES["ece"]().update(judged, judged, y).estimate()
        < MEASURES["ece"]().update(2.5 * z, 2.5 * z, y).estimate()
    )
    gauge = z + np.random.default_rng(0).normal(size=(len(z), 1)) * 10
    assert fit_temperature(gauge, y) == pytest.approx(fit_temperature(z, y), rel=1e-4)


def test_bad_confidences():
    with pytest.raises(KDScopeError, match="between 0 and 1"):
        equal_width(np.array([1.2]))
    with pytest.raises(KDScopeError, match="between 0 and 1"):
        equal_mass(np.array([np.nan]))
