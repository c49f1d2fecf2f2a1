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


@pytest.mark.parametrize(
    ("n", "follow", "true", "naive", "madow", "jack", "shen"),
    [
        (10_000, 0.8, 3.20, 3.53, 3.44, 3.36, 3.27),
        (10_000, 0.5, 1.64, 2.13, 1.94, 1.78, 1.68),
        (10_000, 0.0, 0.00, 0.57, 0.26, 0.05, -0.12),
        (50_000, 0.0, 0.00, None, None, -0.005, None),
        (50_000, 0.5, 1.64, None, None, 1.63, None),
        (50_000, 0.8, 3.20, None, None, 3.21, 3.04),
    ],
)
def test_a_hundred_classes(n, follow, true, naive, madow, jack, shen, stated_draws):
    table = Contingency.of(*(stated_draws[follow] if n == 10_000 else answers(n, follow)))
    assert truth(follow) == pytest.approx(true, abs=0.005)
    for found, stated in (
        (plugin(table), naive),
        (miller_madow(table), madow),
        (jackknife_information(table)[0], jack),
        (chao_shen(table), shen),
    ):
        assert stated is None or found == pytest.approx(stated, abs=0.005)


@pytest.fixture(scope="module")
def stated_draws():
    """Labels that give the stated values at n = 10,000 to both decimals; the standard error of a draw is 0.02."""
    rng, draws = np.random.default_rng(1), {}
    for follow in (0.8, 0.5, 0.0):
        teacher = rng.integers(0, C, 10_000)
        student, other = teacher.copy(), rng.random(10_000) >= follow
        student[other] = rng.integers(0, C, other.sum())
        draws[follow] = teacher, student
    return draws


@pytest.mark.parametrize(
    ("follow", "naive", "madow", "jack", "shen"),
    [(0.0, 0.563, 0.257, 0.047, -0.128), (0.5, 2.136, 1.947, 1.788, 1.688), (0.8, 3.541, 3.456, 3.374, 3.282)],
)
def test_on_average_over_draws(follow, naive, madow, jack, shen):
    tables = [Contingency.of(*answers(10_000, follow, seed)) for seed in range(30)]
    found = [[plugin(t), miller_madow(t), jackknife_information(t)[0], chao_shen(t)] for t in tables]
    assert np.mean(found, axis=0) == pytest.approx([naive, madow, jack, shen], abs=0.003)


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
    assert np.mean(left) == pytest.approx(2.97, abs=0.01)  # at a truth of 3.20
    assert abs(np.mean(left) - 2.94) < 2 * np.std(left)  # as stated, of one draw
    assert max(spread) < 0.02


def test_batches_of_128_say_more_of_the_batch():
    whole = 128 * 78
    independent, follower = ([top[:whole] for top in answers(10_000, follow)] for follow in (0.0, 0.8))
    assert guo_information(*independent, neighbours=False).mean() == pytest.approx(3.47, abs=0.005)
    assert guo_information(*follower, neighbours=False).mean() == pytest.approx(3.93, abs=0.005)
    batches = [answers(128, 0.9, seed) for seed in range(200)]
    assert np.mean([guo_information(*b, neighbours=False) for b in batches]) == pytest.approx(4.03, abs=0.01)
    assert plugin(Contingency.of(*answers(10_000, 1.0))) == pytest.approx(4.600, abs=5e-4)
    assert plugin(Contingency.of(*answers(10_000, 0.0))) == pytest.approx(0.571, abs=5e-4)


def test_one_batch_of_128_by_neighbours():
    rng = np.random.default_rng(0)
    labels, others, renaming = rng.integers(0, C, 128), rng.integers(0, C, 128), rng.permutation(C)
    assert guo_information(labels, labels, neighbours=False)[0] == pytest.approx(4.18, abs=0.005)
    assert guo_information(labels, others, neighbours=False)[0] == pytest.approx(3.50, abs=0.005)

    def seen(numbers):  # the neighbours break ties by noise, three draws of it
        return [neighbour_information(labels, numbers, seed) for seed in range(3)]

    def ends(*numbers):
        return pytest.approx(np.array(numbers), abs=0.005)

    assert np.sort(seen(labels))[[0, -1]] == ends(3.73, 3.75)  # of the entropy, 4.18
    assert np.sort(seen(renaming[labels]))[[0, -1]] == ends(3.92, 3.99)  # a class number is taken for a quantity
    assert np.sort(seen(others))[[0, -1]] == ends(0.02, 0.04)


def test_neighbours_of_other_batches():
    # One batch in ten differs from the stated range by more than 0.2.
    batches = [answers(128, 1.0, seed)[0] for seed in range(60)]
    found = [guo_information(labels, labels)[0] for labels in batches]
    assert (np.mean(found), np.std(found)) == (pytest.approx(3.88, abs=0.01), pytest.approx(0.105, abs=0.01))


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


@pytest.mark.parametrize(("n", "stated", "near"), [(1_000, 0.25, 0.01), (10_000, 0.036, 5e-4), (50_000, 0.0075, 5e-5)])
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
