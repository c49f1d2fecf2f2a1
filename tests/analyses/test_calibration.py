"""Calibration of subjects whose every answer is written down."""

import dataclasses

import numpy as np
import pytest
from told import family, sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.result import COLUMNS


@pytest.fixture(scope="module")
def report():
    return run_analysis("calibration", family(seeds=2, methods=("kd",), n=200), draws=20)


def one(table, **columns):
    for name, value in columns.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def test_the_table(report):
    table = report.table
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS
    measures = {"ece", "ece-equal-mass", "ece-debiased", "smooth-ece", "nll", "brier", "reliability"}
    assert set(table["measure"]) == measures
    assert set(table["temperature"]) == {"1", "best"}
    assert {"teacher", "student", "independent-student"} <= set(table["role"])
    assert ((table["ci_low"] <= table["value"] + 1e-9) & (table["value"] <= table["ci_high"] + 1e-9)).all()
    plain = table[table["measure"] != "reliability"]
    assert not plain.duplicated(["measure", "b", "split", "temperature", "definition"]).any()
    assert (plain["floor"] == plain["null"]).all()


def test_each_number_is_the_networks_own_and_the_gap_is_students_less_teachers():
    found = family(seeds=1, methods=("kd",), n=300)
    table = run_analysis("calibration", found, draws=10).table
    student = next(s for s in found if s.teachers)
    cache = student.cache("test")
    for name in ("ece", "smooth-ece", "nll", "ece-debiased"):
        row = one(table, measure=name, b=student.name, temperature="1")
        assert row.value == MEASURES[name]().update(cache.logits, cache.logits, cache.labels).estimate()
        teacher = one(table, measure=name, b=row.a, temperature="1")
        assert row.gap == pytest.approx(row.value - teacher.value)
        assert row.gap_low <= row.gap <= row.gap_high
        assert np.isnan(teacher.gap)


def test_the_best_temperature_mends_confidence_alone():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2_000, 4))
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    sure = dataclasses.replace(sayings(labels, labels), logits=(4 * z).astype(np.float32))
    found = [subject("t", {"test": sure}), subject("s", {"test": sure})]
    report = run_analysis("calibration", found, draws=20)
    before, after = (one(report.table, measure="ece", b="s", temperature=t) for t in ("1", "best"))
    assert before.value > 0.2
    assert before.p_value < 0.05
    assert after.value < 0.06
    assert after.p_value > 0.05
    assert [float(t) for t in after.fitted.split(", ")] == pytest.approx([4, 4], rel=0.15)
    assert (before.gap, before.gap_low, before.gap_high) == (0, 0, 0)
    assert "more than a calibrated model gets" in report.notes[1]


def test_the_diagram_adds_up_to_the_error(report):
    table = report.table
    for (b, temperature), bins in table[table["measure"] == "reliability"].groupby(["b", "temperature"]):
        ece = one(table, measure="ece", b=b, temperature=temperature)
        assert bins["n"].sum() == ece.n
        gaps = (bins["value"] - bins["bin_confidence"]).abs()
        assert (bins["n"] * gaps).sum() / ece.n == pytest.approx(ece.value)


def test_published_definitions_and_bad_names():
    found = family(seeds=1, methods=("kd",), n=100)
    table = run_analysis("calibration", found, definition="guo2024-code", draws=5).table
    assert set(table.loc[table["definition"] == "guo2024-code", "measure"]) == {"ece"}
    with pytest.raises(KDScopeError, match=r"unknown definition 'guo'.*nearest: guo2024-code"):
        run_analysis("calibration", found, definition="guo")


def test_seeds_together_are_their_mean_with_an_interval_for_another_training(report):
    table = report.table
    alone = table[(table["b"].str.startswith("kd-seed")) & (table["measure"] != "reliability")]
    for (measure, temperature), own in alone.groupby(["measure", "temperature"]):
        row = one(table, measure=measure, temperature=temperature, role="student", seed="all")
        assert (row.b, row.a, row.seeds) == ("kd", "teacher-weak", 2)
        assert row.value == pytest.approx(own["value"].mean())
        assert row.null == pytest.approx(own["null"].mean())
        assert row.gap == pytest.approx(own["gap"].mean())
        assert 0 <= row.ci_low <= row.value <= row.ci_high
        assert row.ci_high - row.value >= 0.5 * own["value"].std()
    per_image = one(table, measure="nll", temperature="1", role="student", seed="all")
    assert per_image.gap_low <= per_image.gap <= per_image.gap_high
    assert not (table["seed"] == "all")[table["measure"] == "reliability"].any()
    assert [line["network"] for line in report.summary.to_dict("records")].count("kd") == 2  # at either temperature
    assert any(note.startswith("kd (2 seeds), on test, at T = 1: ECE") for note in report.notes)


def test_one_seed_has_no_rows_of_all():
    table = run_analysis("calibration", family(seeds=1, methods=("kd",), n=60), draws=5).table
    assert set(table["seeds"]) == {1}
    assert "all" not in set(table["seed"])
