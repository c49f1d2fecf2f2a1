import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax

from kdscope import KDScopeError
from kdscope.measures import MEASURES

T, S = [[2.0, 0, 0]], [[0, 1.0, 0]]


def value(name, *given, definition="kdscope", **options):
    return MEASURES[name](definition, **options).update(*given).estimate()


def test_oracles():
    assert value("kl-teacher-student", T, S) == pytest.approx(0.7793649, abs=1e-6)
    assert value("kl-student-teacher", T, S) == pytest.approx(0.8403340, abs=1e-6)
    assert value("js", T, S) == pytest.approx(0.1857490, abs=1e-6)
    assert value("kl-teacher-student", T, S, definition="guo2024-code") == pytest.approx(8.403339, abs=2e-6)
    assert 16 * value("kl-teacher-student", T, S, temperature=4.0) == pytest.approx(0.8337173, abs=1e-6)


def test_of_a_network_with_itself_they_are_zero(case):
    for name in ("kl-teacher-student", "kl-student-teacher", "js"):
        assert value(name, case.teacher, case.teacher) == pytest.approx(0, abs=1e-16)
        assert value(name, case.teacher, case.teacher + 7.25) == pytest.approx(0, abs=1e-15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 20), temperature=st.sampled_from([1.0, 4.0]))
def test_against_scipy(seed, scale, temperature):
    z_t, z_s = scale * np.random.default_rng(seed).normal(size=(2, 40, 6))
    p, q = softmax(z_t / temperature, axis=1), softmax(z_s / temperature, axis=1)
    forward, backward = rel_entr(p, q).sum(1).mean(), rel_entr(q, p).sum(1).mean()
    option = {"temperature": temperature}
    assert value("kl-teacher-student", z_t, z_s, **option) == pytest.approx(forward, rel=1e-9, abs=1e-12)
    assert value("kl-student-teacher", z_t, z_s, **option) == pytest.approx(backward, rel=1e-9, abs=1e-12)
    expected = np.mean(jensenshannon(p, q, axis=1) ** 2)
    assert value("js", z_t, z_s, **option) == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_against_torchmetrics(case):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("torchmetrics").KLDivergence(log_prob=True)
    p, q = (torch.tensor(z).log_softmax(1) for z in (case.teacher, case.student))
    assert value("kl-teacher-student", case.teacher, case.student) == pytest.approx(float(reference(p, q)), abs=1e-6)


def test_js_of_what_never_meets_is_ln_2():
    assert value("js", [[1000.0, 0.0]], [[0.0, 1000.0]]) == pytest.approx(math.log(2), abs=1e-15)
    assert value("js", [[1000.0, 0.0]], [[0.0, 1000.0]]) <= math.log(2)


def test_kl_of_probabilities_that_underflow_is_exact():
    assert value("kl-teacher-student", [[0.0, 2000.0]], [[2000.0, 0.0]]) == 2000


def test_definitions_by_their_formula():
    z_t, z_s = np.random.default_rng(1).normal(size=(2, 300, 5))
    forward = MEASURES["kl-teacher-student"]().update(z_t, z_s).compute().per_sample
    backward = MEASURES["kl-student-teacher"]().update(z_t, z_s).compute().per_sample
    batches = np.split(np.arange(300), [128, 256])
    code = value("kl-teacher-student", z_t, z_s, definition="guo2024-code")
    assert code == pytest.approx(10 * np.mean([backward[rows].mean() for rows in batches]), rel=1e-12)
    gnosis = value("kl-teacher-student", z_t, z_s, definition="stanton2021")
    assert gnosis == pytest.approx(np.mean([forward[rows].mean() for rows in batches]), rel=1e-12)
    assert gnosis != pytest.approx(value("kl-teacher-student", z_t, z_s), rel=1e-6)


def test_the_interval_of_a_published_definition_holds_its_number():
    z_t, z_s = np.random.default_rng(2).normal(size=(2, 300, 5))
    result = MEASURES["kl-teacher-student"]("guo2024-code").update(z_t, z_s).compute()
    assert result.ci_low < result.value < result.ci_high
    assert result.per_sample.mean() == pytest.approx(result.value, rel=0.1)


def test_temperature_must_be_positive():
    with pytest.raises(KDScopeError, match="measure 'js' at temperature 0"):
        MEASURES["js"](temperature=0)
