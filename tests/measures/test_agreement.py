import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdscope import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.agreement import agreement_bounds, expected_agreement, lift

CLASSES = st.integers(2, 6)


def value(name, *given, definition="kdscope"):
    return MEASURES[name](definition).update(*given).estimate()


def test_oracle():
    assert value("agreement", [[2.0, 0, 0]], [[0, 1.0, 0]]) == 0
    assert value("agreement", [[2.0, 0, 0]], [[2.0, 0, 0]]) == 1


def test_parts_of_agreement(case):
    teacher, student = case.teacher.argmax(1), case.student.argmax(1)
    right = teacher == case.labels
    whole = value("agreement", case.teacher, case.student)
    where_right = value("agreement-teacher-right", case.teacher, case.student, case.labels)
    where_wrong = value("agreement-teacher-wrong", case.teacher, case.student, case.labels)
    assert where_right == pytest.approx((teacher == student)[right].mean(), abs=1e-15)
    assert where_wrong == pytest.approx((teacher == student)[~right].mean(), abs=1e-15)
    share = value("teacher-accuracy", case.teacher, case.student, case.labels)
    assert share == pytest.approx(right.mean(), abs=1e-15)
    assert whole == pytest.approx(share * where_right + (1 - share) * where_wrong, abs=1e-15)


def test_a_teacher_that_is_never_wrong_leaves_nothing_to_count():
    z = np.eye(3)
    result = MEASURES["agreement-teacher-wrong"]().update(z, z, np.arange(3)).compute()
    assert (result.n, result.excluded) == (0, 3)
    assert np.isnan([result.value, result.ci_low, result.ci_high]).all()


def test_published_bounds():
    """Accuracies .55, .75, .95 (Stanton et al.): at most .60 between first and last, at least .70 of the others."""
    assert agreement_bounds(0.55, 0.95)[1] == pytest.approx(0.60)
    assert agreement_bounds(0.75, 0.95)[0] == pytest.approx(0.70)


@given(tops=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_agreement_lies_between_its_bounds(tops):
    teacher, student, labels = np.array(tops).T
    z = np.eye(4)
    low, high = agreement_bounds((teacher == labels).mean(), (student == labels).mean())
    assert low - 1e-12 <= value("agreement", z[teacher], z[student]) <= high + 1e-12


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, 72.0, np.nan])
def test_bounds_need_shares(accuracy):
    with pytest.raises(KDScopeError, match="must be a share"):
        agreement_bounds(0.5, accuracy)


def test_expected_agreement_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    teacher, student, labels = rng.integers(0, 5, (3, 200))
    every = teacher[:, None] == student
    assert expected_agreement(teacher, student, 5) == pytest.approx(every.mean(), abs=1e-15)
    same = labels[:, None] == labels
    by_class = [every[np.ix_(labels == y, labels == y)].mean() for y in labels]
    assert expected_agreement(teacher, student, 5, labels) == pytest.approx(np.mean(by_class), abs=1e-15)
    assert same.any()


def test_expected_agreement_with_classes_without_images():
    assert expected_agreement(np.array([7, 7]), np.array([7, 0]), 9, np.array([7, 7])) == 0.5


def test_lift():
    assert lift(0.8, 0.1) == pytest.approx(8)
    assert np.isnan(lift(0.0, 0.0))


def test_unequal_batches():
    """10,000 images in batches of 128: the last has 16, each of which counts eight times in a mean of batch means."""
    rng = np.random.default_rng(0)
    teacher = rng.integers(0, 10, 10_000)
    student = np.where(np.arange(10_000) < 9_984, teacher, (teacher + 1) % 10)
    z = np.eye(10)
    sound = value("agreement", z[teacher], z[student])
    code = value("agreement", z[teacher], z[student], definition="guo2024-code")
    assert sound == 0.9984
    assert code == pytest.approx(78 / 79, abs=1e-15)
    assert value("agreement", z[teacher], z[student], definition="stanton2021") == sound
    streamed = MEASURES["agreement"]("guo2024-code")
    for rows in np.split(np.arange(10_000), [1, 500, 9_990]):
        streamed.update(z[teacher[rows]], z[student[rows]])
    assert streamed.estimate() == code


def test_the_published_definition_has_a_wider_interval_where_few_images_weigh_much():
    z = np.eye(2)
    measure, code = MEASURES["agreement"](), MEASURES["agreement"]("guo2024-code")
    student = np.arange(130) % 2
    for one in (measure, code):
        one.update(z[np.zeros(130, dtype=int)], z[student])
    widths = [result.ci_high - result.ci_low for result in (measure.compute(), code.compute())]
    assert widths[1] > 2 * widths[0]
