"""Estimators of the mutual information of features on tasks with closed-form answers: none may say too much."""

import numpy as np
import pytest
from known import TASKS, student_nats, student_t, uniform_nats, uniform_noise
from scipy.stats import multivariate_t, t

from kdscope.measures.infonce import info_nce
from kdscope.measures.ksg import ksg

SEEDS = 6


@pytest.mark.parametrize("task", [task for task in TASKS if "mixed" not in task])
def test_neighbours_find_the_truth_in_one_or_two_dimensions(task):
    sample, nats, _ = TASKS[task]
    assert np.mean([ksg(*sample(1_000, seed)) for seed in range(SEEDS)]) == pytest.approx(nats, abs=0.06)


def test_neighbours_fall_short_where_dimensions_are_mixed():
    sample, nats, _ = TASKS["gaussian, three mixed dimensions"]
    assert np.mean([ksg(*sample(1_000, seed)) for seed in range(SEEDS)]) < 0.6 * nats


@pytest.mark.parametrize("task", TASKS)
def test_the_bound_is_below_the_truth_and_not_far(task):
    sample, nats, short = TASKS[task]
    found = [info_nce(*sample(1_000, seed)).per_sample.mean() for seed in range(SEEDS)]
    error = np.std(found) / np.sqrt(SEEDS - 1)
    assert nats - short < np.mean(found) < nats + 2 * error


def test_the_closed_forms_are_the_integrals():
    rng = np.random.default_rng(0)
    x, y = student_t(200_000, 0)
    shape = [[1, rho := np.sqrt(1 - np.exp(-0.6))], [rho, 1]]
    log_ratio = multivariate_t(shape=shape, df=3).logpdf(np.hstack([x, y])) - t(3).logpdf(np.hstack([x, y])).sum(axis=1)
    assert log_ratio.mean() == pytest.approx(student_nats(), abs=4 * log_ratio.std() / np.sqrt(len(x)))
    for width in (0.1, 0.75):
        x, y = uniform_noise(width, 200_000, rng.integers(2**31))
        density = (np.clip(y + width, 0, 1) - np.clip(y - width, 0, 1)) / (2 * width)
        ratio = -np.log(2 * width * density)
        assert ratio.mean() == pytest.approx(uniform_nats(width), abs=4 * ratio.std() / np.sqrt(len(x)))
