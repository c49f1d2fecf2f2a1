from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdscope.measures import MEASURES
from kdscope.measures.decomposition import ORIGINS, origins

TOPS = st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1)


def test_the_truth_table():
    """Every combination of classes for teacher, baseline and student; the true class is 0."""
    for t, b, s in product(range(4), repeat=3):
        code = origins(*(np.array([x]) for x in (t, s, b, 0)))[0]
        name = ORIGINS[code] if code >= 0 else "nothing"
        if s == 0 and b != 0:
            expected = "inherited-truths" if t == 0 else "own-discoveries"
        elif s != 0 and b == 0:
            expected = "inherited-errors" if s == t else "forgotten"
        else:
            expected = "nothing"
        assert name == expected, (t, b, s)


@given(tops=TOPS)
def test_the_shares_account_for_the_change_in_accuracy(tops):
    teacher, student, baseline, labels = np.array(tops).T
    z = np.eye(4)
    share = {
        name: MEASURES[name]().update(z[teacher], z[student], labels, z[baseline]).compute() for name in ORIGINS
    }  # fmt: skip
    gained = share["inherited-truths"].value + share["own-discoveries"].value
    lost = share["inherited-errors"].value + share["forgotten"].value
    assert gained - lost == pytest.approx((student == labels).mean() - (baseline == labels).mean(), abs=1e-12)
    assert sum(result.per_sample for result in share.values()).max() <= 1


def test_a_student_that_is_its_baseline_or_its_teacher(case):
    for name in ORIGINS:
        same = MEASURES[name]().update(case.teacher, case.baseline, case.labels, case.baseline).compute()
        assert (same.value, same.n) == (0, case.n)
        copy = MEASURES[name]().update(case.teacher, case.teacher, case.labels, case.baseline).compute()
        assert (copy.value > 0) == name.startswith("inherited")
