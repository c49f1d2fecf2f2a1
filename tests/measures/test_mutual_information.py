"""Mutual information of classes: closed forms, what each estimator says where the truth is known, and exact sums."""

import pickle

import numpy as np
import pytest
from known import is_such_a_draw, is_their_mean
from scipy.special import xlogy
from scipy.stats import binom

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
from kdscope.measures.mutual_information import guo_information, neighbour_information
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


def test_scikit_learn_says_the_same_and_the_information_of_the_same_is_the_entropy():
    from sklearn.feature_selection import mutual_info_classif
    from sklearn.metrics import mutual_info_score

    teacher, student = answers(2_000, 0.5)
    table, same = Contingency.of(teacher, student), Contingency.of(teacher, teacher)
    assert plugin(table) == pytest.approx(mutual_info_score(teacher, student), abs=1e-12)
    discrete = mutual_info_classif(student[:, None], teacher, discrete_features=True)[0]
    assert plugin(table) == pytest.approx(discrete, abs=1e-12)
    assert plugin(same) == pytest.approx(entropy(np.bincount(teacher)), abs=1e-12)


def expected_plugin(n, follow):
    """What the plug-in estimate of n such answers is on average, exactly: its counts are binomial."""
    k = np.arange(n + 1)

    def sum_of_logs(p):
        return float((binom.pmf(k, n, p) * xlogy(k, k)).sum())

    equal, other = (follow + (1 - follow) / C) / C, (1 - follow) / C**2
    joint = C * sum_of_logs(equal) + (C * (C - 1) * sum_of_logs(other) if other else 0)
    return np.log(n) + (joint - 2 * C * sum_of_logs(1 / C)) / n


def expected_jackknife(n, follow):
    return n * expected_plugin(n, follow) - (n - 1) * expected_plugin(n - 1, follow)


@pytest.mark.parametrize(
    ("n", "follow", "true", "naive", "madow", "jack", "shen"),
    [
        (10_000, 0.8, 3.20, 3.53, 3.44, 3.36, 3.27),
        (10_000, 0.5, 1.64, 2.13, 1.94, 1.78, 1.68),
        (10_000, 0.0, 0.00, 0.57, 0.26, 0.05, -0.12),
        (50_000, 0.0, 0.00, np.nan, np.nan, -0.005, np.nan),
        (50_000, 0.5, 1.64, np.nan, np.nan, 1.63, np.nan),
        (50_000, 0.8, 3.20, np.nan, np.nan, 3.21, 3.04),
    ],
)
def test_a_hundred_classes(n, follow, true, naive, madow, jack, shen):
    assert truth(follow) == pytest.approx(true, abs=0.005)
    tables = [Contingency.of(*answers(n, follow, seed)) for seed in range(20)]
    found = np.array([[plugin(t), miller_madow(t), jackknife_information(t)[0], chao_shen(t)] for t in tables])
    stated = np.array([naive, madow, jack, shen])  # of one draw each; it differs from the next by 0.01 to 0.03
    known = ~np.isnan(stated)
    assert is_such_a_draw(stated, found)[known].all()
    assert found.mean(axis=0)[known] == pytest.approx(stated[known], abs=0.03)
    assert is_their_mean(expected_plugin(n, follow), found[:, 0])
    assert is_their_mean(expected_jackknife(n, follow), found[:, 2])


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
    left, spread = [], []
    for seed in range(12):
        table = Contingency.of(*answers(10_000, 0.8, seed))
        null = permutation_null(table, 8)
        left.append(plugin(table) - null.mean())
        spread.append(null.std())
    assert np.mean(left) == pytest.approx(2.97, abs=0.02)  # at a truth of 3.20, and four standard errors
    assert is_such_a_draw(2.94, left)
    assert max(spread) < 0.02


@pytest.mark.parametrize(("follow", "stated"), [(0.0, 3.47), (0.8, 3.93), (0.9, 4.02), (1.0, 4.18)])
def test_batches_of_128_say_more_of_the_batch(follow, stated):
    batches = [answers(128, follow, seed) for seed in range(150)]
    found = [guo_information(*batch, neighbours=False)[0] for batch in batches]
    assert is_such_a_draw(stated, found)
    assert np.mean(found) == pytest.approx(stated, abs=0.045)
    assert is_their_mean(expected_plugin(128, follow), found)


@pytest.mark.parametrize(("follow", "stated"), [(0.0, 0.571), (1.0, 4.600)])
def test_all_images_at_once_say_less_of_the_batch(follow, stated):
    found = [plugin(Contingency.of(*answers(10_000, follow, seed))) for seed in range(20)]
    assert is_such_a_draw(stated, found, digit=5e-4)
    assert is_their_mean(expected_plugin(10_000, follow), found)


def test_batches_of_128_by_neighbours():
    rng, found = np.random.default_rng(0), []
    for seed in range(60):
        labels, others, renaming = rng.integers(0, C, 128), rng.integers(0, C, 128), rng.permutation(C)
        found.append([neighbour_information(labels, x, seed) for x in (labels, renaming[labels], others)])
    # The ranges that are stated, over the noise that breaks ties, are of one batch: others differ by 0.1 and 0.04.
    for stated in ((3.73, 3.92, 0.02), (3.75, 3.99, 0.04)):
        assert is_such_a_draw(np.array(stated), found).all()
    same, renamed, independent = np.array(found).T
    assert np.mean(same) == pytest.approx(3.88, abs=0.06)  # of an entropy of 4.16
    assert np.abs(same - renamed).mean() > 0.03  # a class number is taken for a quantity
    assert is_their_mean(0.0, independent, bias=0.03)


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


@pytest.mark.parametrize(("n", "stated"), [(1_000, 0.25), (10_000, 0.036), (50_000, 0.0075)])
def test_soft_labels_are_biased_much_less(n, stated):
    found = []
    for seed in range(max(2, min(12, 50_000 // n))):
        z = 3 * np.random.default_rng(seed).normal(size=(2, n, C))
        found.append(soft_information(np.exp(log_softmax(z[0])).T @ np.exp(log_softmax(z[1]))))
        if n == 10_000:
            assert 12 < plugin(Contingency.of(*z.argmax(axis=2))) / found[-1] < 20
    assert np.mean(found) == pytest.approx(stated, rel=0.06)
    if n == 10_000:
        assert MEASURES["soft-mutual-information"]().update(*z).estimate() == pytest.approx(found[-1])


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
