"""Mutual information of subjects whose every answer is written down."""

import numpy as np
import pytest
import torch
from told import family, mostly, sayings, subject

import kdscope
from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES
from kdscope.measures import MEASURES
from kdscope.measures.contingency import Contingency, jackknife_information, plugin
from kdscope.measures.infonce import info_nce
from kdscope.measures.logits import suitable
from kdscope.measures.result import COLUMNS


@pytest.fixture(scope="module")
def report():
    return run_analysis("mutual-information", family(seeds=2, n=200))


def cell(table, measure, definition="kdscope", pair="teacher-student", **columns):
    rows = table[(table["measure"] == measure) & (table["definition"] == definition) & (table["pair"] == pair)]
    for name, value in columns.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def test_the_numbers_are_those_of_the_answers():
    found = family(seeds=1, methods=("kd",))
    student = next(s for s in found if s.teachers)
    table = run_analysis("mutual-information", found).table
    tops = [s.cache("test").logits.argmax(axis=1) for s in (student.teachers[0], student)]
    row = cell(table, "mutual-information")
    assert row.value == pytest.approx(jackknife_information(Contingency.of(*tops))[0])
    assert cell(table, "mutual-information", "plug-in").value == pytest.approx(plugin(Contingency.of(*tops)))
    assert (row.n, row.classes, row.per_cell, row.flag) == (200, 4, 200 / 16, "")
    assert row.control.startswith("floor: independent student")
    assert row.floor == pytest.approx(cell(table, "mutual-information", pair="floor:independent-student").value)
    shuffled = cell(table, "mutual-information", pair="floor:shuffled")
    assert shuffled.ci_low < 0.05 < row.ci_low


def test_the_table(report):
    table = report.table
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS
    assert set(table["measure"]) == set(suitable(["labels"], family="mutual-information"))
    assert {"kdscope", "plug-in", "miller-madow", "chao-shen", "permutation-null"} == set(table["definition"])
    together = table[(table["seed"] == "all") & (table["pair"] == "teacher-student")]
    assert set(together["b"]) == {"kd", "at"}
    known = table[table["n"] > 0]
    assert ((known["ci_low"] <= known["value"] + 1e-9) & (known["value"] <= known["ci_high"] + 1e-9)).all()
    assert not table.duplicated(["measure", "definition", "a", "b", "split", "pair", "seed"]).any()
    assert "no second witness" in report.notes[-1]
    assert set(report.summary["student"]) == {"kd", "at"}


def test_none_of_it_is_in_fidelity():
    table = run_analysis("fidelity", family(seeds=1, methods=("kd",), n=60)).table
    assert {MEASURES[name].card.family for name in table["measure"]} == {"fidelity"}


def test_few_images_are_said_in_red():
    labels = np.arange(40) % 4
    teacher = subject("t", {"test": sayings(labels, labels)})
    report = run_analysis("mutual-information", [teacher, subject("s", {"test": sayings(labels, labels)})])
    assert set(report.table["flag"]) == {"few images"}
    assert any(note.startswith("RED: 2.5 images for each of 4²") for note in report.notes)


def test_what_features_tell(tmp_path):
    found = []
    for k in range(2):
        torch.manual_seed(k)
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
        found.append(kdscope.extract(net, data="digits:8", layers=["1"], out=tmp_path / f"n{k}", device="cpu"))
    table = run_analysis("mutual-information", found, layers="1").table
    told = table[table["layer"] == "1"].set_index("measure")
    assert set(told.index) == {"usable-labels", "usable-soft", "usable-beyond"}
    assert 0.8 < told.loc["usable-labels"].value < np.log(10)  # digits, from 4 x 4 pixels
    assert told.loc["usable-soft"].value > told.loc["usable-beyond"].value > 0
    assert (told["ci_low"] < told["value"]).all()
    with pytest.raises(KDScopeError, match="unknown layer 'one'"):
        run_analysis("mutual-information", found, layers="one")


def test_what_features_tell_of_each_other_by_neighbours(tmp_path):
    found = []
    for k in range(2):
        torch.manual_seed(k)
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 10))
        found.append(kdscope.extract(net, data="digits:8", layers=["1"], out=tmp_path / f"n{k}", device="cpu"))
    report = run_analysis("mutual-information", found, layers="1", features="ksg", components=1)
    row = cell(report.table, "ksg-features")
    assert row.layer == "1"
    assert row.ci_low < row.value < row.ci_high
    assert row.value > 3  # the same numbers, seen twice: without bound
    assert abs(row.floor) < 0.2
    assert "1 component with" in row.control
    assert any("of the variance" in note for note in report.notes)
    with pytest.raises(KDScopeError, match="trusted with 1 to 8"):
        run_analysis("mutual-information", found, layers="1", features="ksg", components=9)
    with pytest.raises(KDScopeError, match=r"unknown estimator 'kgs'.*nearest: ksg"):
        run_analysis("mutual-information", found, features="kgs")


def features(of, n=400):
    """Subjects with caches of written features [n, d] on the same images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, n)
    found = []
    for name, z in of.items():
        said = sayings(mostly(labels, 0.8, len(found)), labels, noise=len(found))
        said.feature = {"penultimate": z}.__getitem__
        found.append(subject(name, {"test": said}))
    return found


def test_what_features_tell_of_each_other_at_least():
    x, noise = np.random.default_rng(0).normal(size=(2, 400, 3))
    found = features({"t": x, "s": x + noise, "copy": 2 * x - 1})
    report = run_analysis("mutual-information", found, features="infonce")
    far, near = (cell(report.table, "infonce-features", b=name) for name in ("s", "copy"))
    assert 0.8 < far.value < 1.5 * np.log(2) + 0.05  # the truth: 3 times ln(2) / 2
    assert far.ci_low < far.value < far.ci_high
    assert -0.15 < far.floor < 0.01
    assert far.ceiling == near.ceiling == pytest.approx(np.log(100))
    assert far.value == pytest.approx(info_nce(x, x + noise).per_sample.mean())
    assert (far.layer, far.n, far.flag, near.flag) == ("penultimate", 400, "", "near its ceiling")
    assert near.ceiling - 0.3 < near.value < near.ceiling
    notes = [note for note in report.notes if "infonce" in note]
    assert notes[0].startswith(f"infonce, penultimate of s and t, on test: at least {far.value:.2f} nats [")
    assert notes[0].endswith("never above 4.61, the ln of 100 candidates")
    assert notes[-1] == "RED: infonce is within 1 nat of its ceiling, and may be far too low: penultimate of copy and t"
    both = run_analysis("mutual-information", found, features=" ksg, infonce").table
    assert cell(both, "infonce-features", b="s").value == far.value
    assert cell(both, "ksg-features", b="s").flag == "components alone"


def test_the_figure_of_features_has_a_panel_for_each_measure():
    x, noise = np.random.default_rng(0).normal(size=(2, 200, 3))
    told = features({"t": x, "a student": x + noise, "s": x}, 200)
    table = run_analysis("mutual-information", told, features="infonce,ksg").table
    assert dict(FIGURES["mutual-information"](table[table["layer"] == ""]))["mutual-information-features"] is None
    figure = dict(FIGURES["mutual-information"](table))["mutual-information-features"]
    neighbours, bound = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "Neighbours, of few components (nats)",
        "InfoNCE, at least (nats)",
    ]
    assert [label.get_text() for label in neighbours.get_yticklabels()] == ["s", "a student"]
    drawn = [line.get_xdata()[0] for line in bound.lines if line.get_marker() == "o"]
    assert drawn == [cell(table, "infonce-features", b=name).value for name in ("a student", "s")]
    assert bound.get_xlim()[1] > np.log(50)  # the ceiling is in sight
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"student", "shuffled images", "ln of the candidates: no bound is above"}


def test_features_must_be_vectors():
    found = features({name: np.zeros((400, 3, 2, 2)) for name in "ts"})
    with pytest.raises(KDScopeError, match=r"'penultimate' of .* is \[3, 2, 2\]; both estimators read vectors"):
        run_analysis("mutual-information", found, features="infonce")


def test_published_definitions_and_bad_names():
    found = family(seeds=1, methods=("kd",), n=256)
    table = run_analysis("mutual-information", found, definition="guo2024-code,guo2024-code-plugin").table
    assert {"guo2024-code", "guo2024-code-plugin"} < set(table["definition"])
    with pytest.raises(KDScopeError, match=r"unknown definition 'guo2024'.*nearest: guo2024-code"):
        run_analysis("mutual-information", found, definition="guo2024")
