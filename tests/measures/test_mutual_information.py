"""Mutual information of classes: closed forms, what each estimator says where the truth is known, and exact sums."""

import pickle

import numpy as np
import pytest

from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.contingency import (
    Contingency,
    chao_shen,
    entropy,
    jackknife_information,
    left_out,
    miller_madow,
    permutation_null,
    plugin,
)
from kdscope.measures.logits import suitable
from kdscope.measures.mutual_information import guo_information
from kdscope.measures.pair import log_softmax
from kdscope.measures.soft_information import soft_information

C = 100


def answers(n, follow, seed=0):
    """Uniform classes, and a student that repeats them on that share of images and else guesses."""
    rng = np.random.default_rng(seed)
    teacher = rng.integers(0, C, n)
    return teacher, np.where(rng.random(n) < follow, teacher, rng.integers(0, C, n))


def truth(follow):
    diagonal = follow + (1 - follow) / C
    rest = (1 - follow) / C
    return np.log(C) + diagonal * np.log(diagonal) + ((C - 1) * rest * np.log(rest) if rest else 0)


@pytest.mark.parametrize(
    ("a", "b", "nats"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], np.log(2)),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0),
        ([0, 0, 0, 1], [0, 0, 1, 1], 0.2157615543),
    ],
)
def test_closed_forms(a, b, nats):
    a, b = np.array(a), np.array(b)
    assert plugin(Contingency.of(a, b)) == pytest.approx(nats, abs=1e-10)
    assert plugin(Contingency.of(7 - a, b * 3)) == pytest.approx(nats, abs=1e-10)
    assert plugin(Contingency.of(a, b)) <= min(entropy(np.bincount(a)), entropy(np.bincount(b))) + 1e-12


@pytest.mark.parametrize(
    ("n", "follow", "true", "naive", "madow", "jack", "shen"),
    [
        (10_000, 0.0, 0.00, 0.57, 0.26, 0.05, -0.12),
        (10_000, 0.5, 1.64, 2.13, 1.94, 1.78, 1.68),
        (10_000, 0.8, 3.20, 3.53, 3.44, 3.36, 3.27),
        (50_000, 0.0, 0.00, None, None, -0.005, None),
        (50_000, 0.5, 1.64, None, None, 1.63, None),
        (50_000, 0.8, 3.20, None, None, 3.21, 3.04),
    ],
)
def test_a_hundred_classes(n, follow, true, naive, madow, jack, shen):
    table = Contingency.of(*answers(n, follow))
    assert truth(follow) == pytest.approx(true, abs=0.005)
    # Another draw of labels than that of the stated values: two standard errors.
    _, error = jackknife_information(table)
    for found, stated in (
        (plugin(table), naive),
        (miller_madow(table), madow),
        (jackknife_information(table)[0], jack),
        (chao_shen(table), shen),
    ):
        assert stated is None or found == pytest.approx(stated, abs=0.005 + 2 * error)


def test_the_plug_in_is_off_by_its_known_bias_and_the_jackknife_is_not():
    table = Contingency.of(*answers(50_000, 0.0))
    assert plugin(table) == pytest.approx((C - 1) ** 2 / (2 * table.n), rel=0.1)
    assert abs(jackknife_information(table)[0]) < 0.01


def test_the_jackknife_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 4, (2, 40))
    parts = [plugin(Contingency.of(np.delete(a, i), np.delete(b, i))) for i in range(40)]
    table = Contingency.of(a, b)
    whole = 40 * plugin(table) - 39 * np.mean(parts)
    error = np.sqrt(39 / 40 * np.square(parts - np.mean(parts)).sum())
    assert jackknife_information(table) == (pytest.approx(whole, abs=1e-10), pytest.approx(error, abs=1e-10))
    h = [entropy(np.bincount(np.delete(a, i))) for i in range(40)]
    assert (left_out(table)["a"] * table.counts).sum() == pytest.approx(sum(h), abs=1e-9)


def test_the_jackknife_interval_covers_the_truth():
    hits = []
    for seed in range(20):
        teacher, student = answers(50_000, 0.5, seed)
        measure = MEASURES["mutual-information"]()
        measure._merge(Contingency.of(teacher, student))
        measure.seen = len(teacher)
        found = measure.compute()
        hits.append(found.ci_low < truth(0.5) < found.ci_high)
    assert sum(hits) >= 14


def test_the_permutation_mean_over_corrects():
    table = Contingency.of(*answers(10_000, 0.8))
    null = permutation_null(table, 20)
    assert plugin(table) - null.mean() == pytest.approx(2.95, abs=0.04)  # at a truth of 3.20
    assert null.std() < 0.02


def test_batches_of_128_say_more_of_the_batch():
    independent, follower = answers(10_000, 0.0), answers(10_000, 0.8)
    assert guo_information(*independent, neighbours=False).mean() == pytest.approx(3.47, abs=0.03)
    assert guo_information(*follower, neighbours=False).mean() == pytest.approx(3.93, abs=0.03)
    same = answers(128 * 20, 1.0)[0]
    renaming = np.random.default_rng(0).permutation(C)
    plain, renamed = (guo_information(same, other).mean() for other in (same, renaming[same]))
    assert 3.7 < plain < 3.95  # of ln 100 = 4.61
    assert abs(renamed - plain) > 0.005  # the number of a class is taken for a quantity
    assert guo_information(*(top[:1280] for top in independent)).mean() < 0.1


def test_adjusted_is_scikit_learns_and_normalised_is_between():
    from sklearn.metrics import adjusted_mutual_info_score

    teacher, student = answers(3_000, 0.5)
    z = np.eye(C)
    found = {
        name: MEASURES[name]().update(z[teacher], z[student]).compute()
        for name in ("adjusted-mutual-information", "uncertainty-coefficient", "joint-support")
    }
    assert found["adjusted-mutual-information"].value == adjusted_mutual_info_score(teacher, student)
    assert found["joint-support"].value == len(set(zip(teacher.tolist(), student.tolist(), strict=True)))
    same = MEASURES["uncertainty-coefficient"]().update(z[teacher], z[teacher]).compute()
    assert same.value == 1
    shuffled = MEASURES["adjusted-mutual-information"]().update(*z[np.array(answers(3_000, 0.0))]).compute()
    assert abs(shuffled.value) < 0.02


@pytest.mark.parametrize(
    ("n", "stated", "near"), [(1_000, 0.25, 0.015), (10_000, 0.036, 0.0015), (50_000, 0.0075, 5e-4)]
)
def test_soft_labels_are_biased_much_less(n, stated, near):
    z = 3 * np.random.default_rng(0).normal(size=(2, n, C))
    joint = np.exp(log_softmax(z[0])).T @ np.exp(log_softmax(z[1]))
    assert soft_information(joint) == pytest.approx(stated, abs=near)
    if n == 10_000:
        hard = plugin(Contingency.of(*z.argmax(axis=2)))
        assert 12 < hard / soft_information(joint) < 20
        assert MEASURES["soft-mutual-information"]().update(*z).estimate() == pytest.approx(soft_information(joint))


@pytest.mark.parametrize("name", suitable(family="mutual-information"))
def test_ranks_and_batches_agree_exactly(name):
    z = np.random.default_rng(0).normal(size=(2, 400, 12))
    whole = MEASURES[name]().update(*z).compute()
    merged = MEASURES[name]()
    for rank in range(2):
        state = MEASURES[name]()
        for rows in np.array_split(np.arange(rank, 400, 2), 3):
            state.update(z[0, rows], z[1, rows])
        merged.merge(pickle.loads(pickle.dumps(state)))
    if name == "soft-mutual-information":  # a sum of floating numbers
        assert merged.compute().value == pytest.approx(whole.value, abs=1e-14)
    else:
        assert (merged.compute().value, merged.compute().ci_low) == (whole.value, whole.ci_low)


def test_bad_classes():
    with pytest.raises(KDScopeError, match="whole numbers from 0 up"):
        Contingency.of(np.array([0.5]), np.array([1]))
    with pytest.raises(KDScopeError, match="whole numbers from 0 up"):
        Contingency.of(np.array([-1]), np.array([1]))
    with pytest.raises(KDScopeError, match="of the same images"):
        Contingency.of(np.array([0, 1]), np.array([1]))
    one = MEASURES["uncertainty-coefficient"]().update(np.zeros((5, 3)), np.zeros((5, 3))).compute()
    assert (one.n, one.excluded) == (0, 5)


def test_none_of_it_is_fidelity():
    assert not set(suitable(["labels", "baseline_logits"])) & {
        *suitable(family="mutual-information"),
        *suitable(["labels"], family="calibration"),
    }
