import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdscope import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.agreement import expected_agreement
from kdscope.measures.base import Card
from kdscope.measures.controls import add_gauge, derangement, gauge_error, shuffled_floor
from kdscope.measures.logits import LogitMean


@given(n=st.integers(2, 200), seed=st.integers(0, 2**31))
def test_no_image_stays_in_its_place(n, seed):
    shuffled = derangement(n, seed)
    assert sorted(shuffled) == list(range(n))
    assert not (shuffled == np.arange(n)).any()
    assert np.array_equal(shuffled, derangement(n, seed))


@given(labels=st.lists(st.integers(0, 4), min_size=2), seed=st.integers(0, 2**31))
def test_within_a_class_images_stay_in_their_class(labels, seed):
    labels = np.array(labels)
    shuffled = derangement(len(labels), seed, labels)
    assert sorted(shuffled) == list(range(len(labels)))
    assert np.array_equal(labels[shuffled], labels)
    alone = np.bincount(labels)[labels] == 1
    assert np.array_equal(shuffled == np.arange(len(labels)), alone)


def test_every_place_is_as_likely():
    counts = np.zeros((4, 4))
    for seed in range(3000):
        counts[np.arange(4), derangement(4, seed)] += 1
    assert counts / 3000 == pytest.approx((1 - np.eye(4)) / 3, abs=0.04)


def test_the_floor_is_the_analytic_one(case):
    measures = [MEASURES[name]() for name in ("agreement", "kappa", "teacher-accuracy")]
    floors = np.array(
        [shuffled_floor(measures, case.teacher, case.student, case.labels, seed=seed) for seed in range(200)]
    ).mean(axis=0)
    teacher, student = case.teacher.argmax(1), case.student.argmax(1)
    # A derangement never pairs an image with itself, which a random pairing does once in n.
    expected = (expected_agreement(teacher, student, 7) * case.n - (teacher == student).mean()) / (case.n - 1)
    assert floors[0] == pytest.approx(expected, abs=0.005)
    assert floors[1] == pytest.approx(0, abs=0.01)
    assert floors[2] == pytest.approx((teacher == case.labels).mean(), abs=1e-12)
    assert measures[0].seen == 0


def test_the_floor_within_classes_is_higher(case):
    agreement = [MEASURES["agreement"]()]
    within = np.mean(
        [shuffled_floor(agreement, case.teacher, case.student, within=case.labels, seed=s) for s in range(50)]
    )
    teacher, student = case.teacher.argmax(1), case.student.argmax(1)
    assert within == pytest.approx(expected_agreement(teacher, student, 7, case.labels), abs=0.01)
    assert within > 2 * expected_agreement(teacher, student, 7)


def test_one_image_cannot_be_shuffled():
    with pytest.raises(KDScopeError, match="1 images cannot be shuffled"):
        shuffled_floor([MEASURES["agreement"]()], [[0.0, 1.0]], [[0.0, 1.0]])
    with pytest.raises(KDScopeError, match=r"classes of shape \[3\]"):
        derangement(2, within=[0, 1, 1])


def test_a_gauge_changes_no_prediction_and_is_that_of_a_head():
    """W + 1 v^T adds v.f(x) to every logit of image x."""
    generator = torch.Generator().manual_seed(0)
    weight, features, v = (torch.randn(shape, generator=generator).double() for shape in ((5, 3), (9, 3), (1, 3)))
    plain, moved = features @ weight.T, features @ (weight + v).T
    shift = moved - plain
    assert (shift - shift[:, :1]).abs().max() < 1e-12
    gauged = add_gauge(plain, seed=1)
    assert np.ptp(gauged - plain.numpy(), axis=1).max() < 1e-12
    assert np.std((gauged - plain.numpy())[:, 0]) > 1
    assert torch.softmax(torch.tensor(gauged), 1).numpy() == pytest.approx(plain.softmax(1).numpy(), abs=1e-14)


def test_a_measure_that_reads_the_gauge_is_found(case):
    class RawLogit(LogitMean):
        card = Card("raw-logit", "Mean top logit", "logit", (-np.inf, np.inf), "none", "a test", ("sample-order",))

        def per_sample(self, pair):
            return pair.student.max(axis=1)

    assert gauge_error(RawLogit(), case.teacher, case.student) > 0.1
    assert gauge_error(MEASURES["js"](), case.teacher, case.student) < 1e-12
