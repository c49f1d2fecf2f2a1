"""Rows of a student whose soft loss weighed the background: what it was asked for is not what its teacher says."""

import numpy as np
import pytest
import yaml
from made_up import CLASSES, IMAGES, STRIDES, Memory, every_object, network, subject, truth

from kdscope.analyses.base import run_analysis
from kdscope.analyses.detection_dense import background_weight_of
from kdscope.detection.measures.dense_fidelity import tilted
from kdscope.sources import Subject


def beside(student, teacher, split, kind="pair", untrained=False, fitted=False):
    """A student that does all that its loss asks for, and one that says the opposite."""
    labels = np.tile(np.r_[[1, 2], np.zeros(8, dtype=int)], (IMAGES, 1))
    said = np.random.default_rng(0).normal(size=(IMAGES, 10, len(CLASSES)))
    asked = tilted(said.reshape(-1, len(CLASSES)), 1.5, "sigmoid").reshape(said.shape)
    rows = {"labels": labels, "teacher": said, "student": asked if student.name == "taught" else -said}
    rows |= dict.fromkeys(("targets", "teacher_deltas", "student_deltas"), np.zeros((IMAGES, 10, 4)))
    named = {f"rows/dense/{name}": value for name, value in rows.items()}
    identity = {"strides": list(STRIDES), "heads": {"dense": "sigmoid"}, "coders": {"dense": [1.0] * 4}}
    return Memory(truth() | named, identity)


@pytest.mark.parametrize("weight", [1.5, 1.0])
def test_the_divergence_from_what_was_asked_for_is_nothing(weight, monkeypatch):
    teacher = subject("teacher", "teacher")
    students = [subject("taught", "taught", 0, (teacher,)), subject("alone", "alone")]
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: network(every_object()))
    monkeypatch.setattr("kdscope.analyses.detection_dense.pair_cache", beside)
    monkeypatch.setattr("kdscope.analyses.detection_dense.background_weight_of", lambda one: weight)
    table = run_analysis("detection", students).table
    own = table[(table["pair"] == "teacher-student") & (table["part"] == "background")].set_index("measure")
    assert own.loc["row-kl"].value > 0.01
    if weight == 1:
        assert "row-kl-tilted" not in set(table["measure"])
        return
    row = own.loc["row-kl-tilted"]
    assert row.value == pytest.approx(0, abs=1e-12)
    assert row.background == 1.5
    assert table.loc[table["measure"] != "row-kl-tilted", "background"].isna().all()
    assert row.floor > 0.1
    assert row.gain == pytest.approx(row.floor)


def test_the_weight_is_that_of_the_runs_own_loss(tmp_path, monkeypatch):
    class Settled:
        def __init__(self, path):
            terms = yaml.safe_load((path / "config.yaml").read_text())["terms"]
            self.config = type("Config", (), {"terms": terms})

    monkeypatch.setattr("kdscope.analyses.detection_dense.Run", Settled)
    for term, expected in (
        ({"soft-class": {"weight": 0.5, "background_weight": 2.0}}, 2.0),
        ({"soft-class": {"weight": 0.5}}, 1.5),
        ({"soft-class": {"weight": 0.0, "background_weight": 2.0}}, 1.0),
        ({"hint": {"weight": 1.0}}, 1.0),
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"terms": term}))
        assert background_weight_of(Subject("a", "fcos", "a", folder=tmp_path / "features")) == expected
    assert background_weight_of(subject("bare", "bare")) == 1
