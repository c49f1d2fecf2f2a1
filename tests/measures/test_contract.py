"""What every measure on logits must keep, made from its card: a new measure is tested by being there."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.controls import gauge_error
from kdscope.measures.logits import LogitMeasure, suitable, update_all

NAMES = [name for name in MEASURES if issubclass(MEASURES[name], LogitMeasure)]
DEFINED = [(name, definition) for name in NAMES for definition in MEASURES[name].definitions]
every_measure = pytest.mark.parametrize("name", NAMES)
every_definition = pytest.mark.parametrize(("name", "definition"), DEFINED)


def claims(invariance):
    return pytest.mark.parametrize("name", [n for n in NAMES if invariance in MEASURES[n].card.invariances])


def arrays(case, rows=slice(None)):
    return case.teacher[rows], case.student[rows], case.labels[rows], case.baseline[rows]


def value(name, teacher, student, labels, baseline, definition="kdscope"):
    return MEASURES[name](definition).update(teacher, student, labels, baseline).estimate()


def test_the_main_job_is_there():
    assert {"agreement", "agreement-teacher-right", "agreement-teacher-wrong", "kappa", "js", "top5-overlap"} <= set(
        NAMES
    )
    assert {"kl-teacher-student", "kl-student-teacher", "nontarget-rank-correlation", "accuracy"} <= set(NAMES)
    assert {"inherited-truths", "inherited-errors", "own-discoveries", "forgotten", "teacher-accuracy"} <= set(NAMES)
    assert suitable(definition="stanton2021") == ["agreement", "kl-teacher-student"]


@every_definition
def test_the_result_is_whole(name, definition, case):
    measure = MEASURES[name](definition).update(*arrays(case))
    result, card = measure.compute(), measure.card
    assert (result.measure, result.definition) == (name, definition)
    assert result.source
    assert math.isfinite(result.value)
    assert result.ci_low <= result.value <= result.ci_high
    assert result.ci_low < result.ci_high or name == "teacher-accuracy"
    assert result.n + result.excluded == case.n
    assert result.value == measure.estimate()
    if definition == "kdscope":
        assert card.range[0] <= result.ci_low
        assert result.ci_high <= card.range[1]
    else:
        assert measure.defined.citation
    if result.per_sample is not None:
        assert result.per_sample.shape == (case.n,)
        assert np.isnan(result.per_sample).sum() == result.excluded


@every_definition
def test_a_wider_confidence_is_wider_and_a_seed_repeats(name, definition, case):
    measure = MEASURES[name](definition).update(*arrays(case))
    narrow, wide, again = measure.compute(0.8), measure.compute(0.99), measure.compute(0.99)
    assert wide.ci_low < narrow.ci_low
    assert narrow.ci_high < wide.ci_high
    assert (wide.ci_low, wide.ci_high) == (again.ci_low, again.ci_high)


@every_definition
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 299), max_size=6, unique=True))
def test_batches_make_no_difference(name, definition, case, cuts):
    parts = MEASURES[name](definition)
    for rows in np.split(np.arange(case.n), sorted(cuts)):
        parts.update(*arrays(case, rows))
    whole = MEASURES[name](definition).update(*arrays(case)).compute()
    assert parts.compute().value == pytest.approx(whole.value, abs=1e-14)
    assert (parts.compute().ci_low, parts.compute().n) == (pytest.approx(whole.ci_low, abs=1e-12), whole.n)


@every_measure
@settings(max_examples=8, deadline=None)
@given(ranks=st.integers(2, 5))
def test_ranks_make_no_difference(name, case, ranks):
    whole = MEASURES[name]().update(*arrays(case)).compute()
    merged = MEASURES[name]()
    for rank in range(ranks):
        part = MEASURES[name]().update(*arrays(case, slice(rank, None, ranks)))
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert merged.seen == case.n
    assert merged.compute().value == pytest.approx(whole.value, abs=1e-14)


@every_measure
def test_chunks_make_no_difference(name, case, monkeypatch):
    whole = value(name, *arrays(case))
    monkeypatch.setattr("kdscope.measures.pair.CHUNK", 11 * case.classes)
    assert value(name, *arrays(case)) == pytest.approx(whole, abs=1e-14)


def test_several_measures_at_once_are_as_each_alone(case):
    several = [MEASURES[name]() for name in NAMES]
    update_all(several, *arrays(case))
    assert [one.estimate() for one in several] == [value(name, *arrays(case)) for name in NAMES]


@claims("sample-order")
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_of_images(name, case, seed):
    order = np.random.default_rng(seed).permutation(case.n)
    assert value(name, *arrays(case, order)) == pytest.approx(value(name, *arrays(case)), abs=1e-14)


@claims("class-relabelling")
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_names_of_classes(name, case, seed):
    order = np.random.default_rng(seed).permutation(case.classes)
    renamed = case.teacher[:, order], case.student[:, order], np.argsort(order)[case.labels], case.baseline[:, order]
    assert value(name, *renamed) == pytest.approx(value(name, *arrays(case)), abs=1e-12)


@claims("monotone")
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_increasing_maps(name, case, seed):
    rng = np.random.default_rng(seed)
    slope, shift = rng.uniform(0.1, 9, (case.n, 1)), rng.normal(size=(case.n, 1))
    moved = slope * case.teacher**3 + shift, np.arctan(case.student), case.labels, np.exp(case.baseline)
    assert value(name, *moved) == pytest.approx(value(name, *arrays(case)), abs=1e-12)


def test_only_those_that_claim_it_ignore_increasing_maps(case):
    sharper = 3 * case.teacher, 2 * case.student, *arrays(case)[2:]
    for name in NAMES:
        moved = abs(value(name, *sharper) - value(name, *arrays(case))) > 1e-6
        assert moved == ("monotone" not in MEASURES[name].card.invariances), name


@claims("swap")
def test_swap(name, case):
    swapped = case.student, case.teacher, case.labels, case.baseline
    assert value(name, *swapped) == pytest.approx(value(name, *arrays(case)), abs=1e-12)


@every_definition
def test_no_gauge_is_read(name, definition, case):
    assert gauge_error(MEASURES[name](definition), *arrays(case), seed=3) < 1e-9


@pytest.mark.parametrize("name", [n for n in NAMES if MEASURES[n].card.null is not None])
def test_null(name):
    rng = np.random.default_rng(5)
    result = MEASURES[name]().update(
        *rng.normal(size=(2, 4000, 10)), rng.integers(0, 10, 4000), rng.normal(size=(4000, 10))
    )
    result = result.compute(confidence=0.999)
    assert result.ci_low < MEASURES[name].card.null < result.ci_high
    assert abs(result.value - MEASURES[name].card.null) < 0.03


@every_definition
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_constant_logits_are_finite_or_counted_out(name, definition, classes):
    zeros = np.zeros((20, classes))
    labels = np.arange(20) % classes
    result = MEASURES[name](definition).update(zeros, zeros, labels, zeros).compute()
    if result.n:
        assert math.isfinite(result.value)
        assert result.ci_low <= result.value <= result.ci_high
    else:
        assert (math.isnan(result.value), result.excluded) == (True, 20)


@every_measure
def test_huge_logits_are_finite(name, case):
    teacher, student, labels, baseline = arrays(case)
    assert math.isfinite(value(name, 1e5 * teacher, -1e5 * student, labels, baseline))


@every_measure
def test_one_image(name, case):
    result = MEASURES[name]().update(*arrays(case, slice(0, 1))).compute()
    assert result.n + result.excluded == 1
    if result.n:
        assert math.isfinite(result.value)


@every_measure
def test_float32_torch_and_numpy_agree(name, case):
    single = [x.astype(np.float32) if x.dtype == np.float64 else x for x in arrays(case)]
    expected = value(name, *(x.astype(np.float64) if x.dtype == np.float32 else x for x in single))
    assert value(name, *single) == expected
    assert value(name, *(torch.tensor(x, requires_grad=x.dtype == np.float32) for x in single)) == expected
    half = [torch.tensor(x).bfloat16() if x.dtype == np.float32 else torch.tensor(x) for x in single]
    assert value(name, *half) == value(name, *(x.double() if x.is_floating_point() else x for x in half))


@every_measure
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_logits_are_counted_and_change_nothing(name, bad, case):
    measure = MEASURES[name]().update(*arrays(case))
    before = measure.compute().value
    student = case.student.copy()
    student[[4, 9], 2] = bad
    with pytest.raises(KDScopeError, match="student logits are NaN or infinite in 2 of 300 rows; the first is row 304"):
        measure.update(case.teacher, student, case.labels, case.baseline)
    assert measure.compute().value == before


@every_measure
def test_other_bad_input(name, case):
    teacher, student, labels, baseline = arrays(case)
    measure = MEASURES[name]()
    with pytest.raises(KDScopeError, match="has seen no images"):
        measure.compute()
    with pytest.raises(KDScopeError, match="has seen no images"):
        measure.estimate()
    with pytest.raises(KDScopeError, match=r"nothing to measure: the logits have shape \[0, 7\]"):
        measure.update(teacher[:0], student[:0], labels[:0], baseline[:0])
    with pytest.raises(KDScopeError, match="the student saw 299 images and the teacher 300"):
        measure.update(teacher, student[1:], labels, baseline)
    with pytest.raises(KDScopeError, match="the student has 6 classes and the teacher 7"):
        measure.update(teacher, student[:, 1:], labels, baseline)
    with pytest.raises(KDScopeError, match=r"teacher logits have shape \[300\]"):
        measure.update(teacher[:, 0], student, labels, baseline)
    if "labels" in measure.card.needs:
        with pytest.raises(KDScopeError, match="needs labels"):
            measure.update(teacher, student, None, baseline)
        with pytest.raises(KDScopeError, match=r"2 labels are not in 0..6; the first is 7 in row 0"):
            measure.update(teacher, student, np.r_[7, -1, labels[2:]], baseline)
        with pytest.raises(KDScopeError, match="labels are of type float64"):
            measure.update(teacher, student, labels.astype(float), baseline)
        with pytest.raises(KDScopeError, match=r"labels have shape \[299\]"):
            measure.update(teacher, student, labels[1:], baseline)
    if "baseline_logits" in measure.card.needs:
        with pytest.raises(KDScopeError, match="needs baseline logits"):
            measure.update(teacher, student, labels)
        with pytest.raises(KDScopeError, match="the baseline has 6 classes"):
            measure.update(teacher, student, labels, baseline[:, 1:])
    with pytest.raises(KDScopeError, match="unknown definition 'gu024' in measure"):
        MEASURES[name]("gu024")
    with pytest.raises(KDScopeError, match="confidence is 95"):
        measure.update(*arrays(case)).compute(confidence=95)


def test_different_measures_do_not_merge(case):
    with pytest.raises(KDScopeError, match="cannot be merged"):
        MEASURES["agreement"]().merge(MEASURES["accuracy"]())
    with pytest.raises(KDScopeError, match="cannot be merged"):
        MEASURES["js"](temperature=2.0).merge(MEASURES["js"]())
    with pytest.raises(KDScopeError, match="cannot be merged"):
        MEASURES["agreement"]("guo2024-code").merge(MEASURES["agreement"]())


@every_definition
def test_defects_are_documented(name, definition):
    stated = MEASURES[name].definitions[definition]
    assert stated.citation
    assert stated.ensemble in ("mean-probability", "mean-logit")
    assert not (stated.defect and definition == "kdscope")
    assert stated.defect or stated.batch_size is None
