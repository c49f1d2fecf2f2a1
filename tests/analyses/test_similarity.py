"""Similarity on networks whose every feature is written down."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from told import subject

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.figures import draw
from kdscope.measures.cka import linear_cka
from kdscope.measures.result import COLUMNS
from kdscope.measures.rsa import rsa


@dataclass(eq=False)
class Seen:
    """As much of a feature cache as the analysis of features reads."""

    features: dict
    index: np.ndarray
    path: Path
    classes: tuple = ("a", "b", "c", "d")
    labels: np.ndarray = field(default=None)
    logits: np.ndarray = field(default=None)

    def __post_init__(self):
        self.layers = list(self.features)
        self.labels = self.index % 4 if self.labels is None else self.labels

    def feature(self, layer):
        return self.features[layer]

    def check_compatible(self, other):
        if not np.array_equal(self.index, other.index):
            raise KDScopeError(f"{self.path} and {other.path} are not of the same images")


N = 80
RNG = np.random.default_rng(0)
SIGNAL = {"early": RNG.normal(size=(N, 6)), "late": RNG.normal(size=(N, 9))}


def seen(name, noise=1.0, seed=0, rows=None, **layers):
    """Features that share the signal of all, and noise of their own."""
    rng = np.random.default_rng(seed)
    features = {k: (v + noise * rng.normal(size=v.shape)).astype(np.float32) for k, v in SIGNAL.items()} | layers
    rows = np.arange(N) if rows is None else rows
    features = {k: v[rows] for k, v in features.items()}
    return Seen(features, rows, Path(f"{name}.kdcache"))


def people(seeds=1, **layers):
    teacher = subject("t", {"test": seen("t", 0.1)}, architecture="resnet20", method="none")
    students = []
    for s in range(seeds):
        students.append(
            subject(
                f"kd-seed{s}", {"test": seen(f"kd{s}", 0.5, 10 + s, **layers)}, group="kd", method="kd", seed=s,
                teachers=[teacher], untrained={"test": seen("r", 5.0, 90)},
            )
        )  # fmt: skip
        students.append(
            subject(f"alone-seed{s}", {"test": seen(f"al{s}", 1.5, 50 + s)}, group="al", method="none", seed=s)
        )
    return students


def table_of(sources, **options):
    return run_analysis("similarity", sources, **options).table


def cell(table, measure="cka", definition="kdscope", pair="teacher-student", a="late", b="late", **columns):
    rows = table[(table["measure"] == measure) & (table["pair"] == pair) & (table["definition"] == definition)]
    rows = rows[(rows["layer_a"] == a) & (rows["layer_b"] == b)]
    for name, value in columns.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def test_each_layer_against_each_between_floor_and_ceiling():
    table = table_of(people(2))
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    x, y = seen("t", 0.1).features["early"], seen("kd0", 0.5, 10).features["late"]
    found = cell(table, a="early", b="late", seed="0")
    assert found.value == pytest.approx(linear_cka(x, y), abs=1e-10)
    assert found.layer == "early ~ late"
    assert cell(table, a="early", b="late", seed="0", definition="kornblith2019").value > found.value
    assert cell(table, "rsa", a="early", b="late", seed="0").value == pytest.approx(rsa(x, y), abs=1e-9)
    main = cell(table, seed="0")
    alone = cell(table, pair="floor:independent-student", seed="0")
    assert (main.floor, main.layer) == (alone.value, "late")
    assert "independent student" in main.control
    seeds = seen("kd0", 0.5, 10).features["late"], seen("kd1", 0.5, 11).features["late"]
    assert main.ceiling == pytest.approx(linear_cka(*seeds), abs=1e-10)
    assert cell(table, a="early", b="late", seed="0").ceiling == main.ceiling  # of the student's layer with itself
    assert main.floor < main.value
    assert 0 < main.variance_a < 1
    together = cell(table, seed="all")
    assert (together.seeds, together.b) == (2, "kd")
    assert together.value == pytest.approx(np.mean([cell(table, seed=s).value for s in "01"]))
    shuffled = cell(table, pair="floor:shuffled", seed="0")
    assert abs(shuffled.value) < 0.1
    assert (table["ci_low"] <= table["value"]).all()
    assert (table["value"] <= table["ci_high"]).all()


def test_layers_measures_and_images_can_be_chosen():
    table = table_of(people(), layers="la*", measures="cka,rsa", images=40)
    assert set(table["measure"]) == {"cka", "rsa"}
    assert set(table["layer"]) == {"late"}
    assert set(table["n"]) == {40}
    with pytest.raises(KDScopeError, match=r"unknown layer 'lat' in .*; nearest: late"):
        table_of(people(), layers="lat")
    with pytest.raises(KDScopeError, match="unknown measure 'cca'"):
        table_of(people(), measures="cca")


def test_the_same_features_are_taken_once_and_maps_become_vectors():
    maps = np.random.default_rng(3).normal(size=(N, 4, 3, 3)).astype(np.float32)
    students = people(again=SIGNAL["late"].astype(np.float32), twin=SIGNAL["late"].astype(np.float32), maps=maps)
    report = run_analysis("similarity", students, measures="cka")
    assert set(report.table["layer_b"]) == {"early", "late", "again", "maps"}
    assert any("twin is left out where it is again itself" in note for note in report.notes)
    found = cell(report.table, a="late", b="maps", pair="teacher-student")
    assert found.reduction == "pool ~ pool, mean over positions"
    assert found.value == pytest.approx(linear_cka(seen("t", 0.1).features["late"], maps.mean(axis=(2, 3))), abs=1e-6)


def test_constant_layers_are_said_and_never_nan_in_a_mean():
    report = run_analysis("similarity", people(late=np.full((N, 3), 0.7, np.float32)))
    found = cell(report.table)
    assert (math.isnan(found.value), found.n, found.excluded) == (True, 0, N)
    assert any("a layer is constant" in note and "late" in note for note in report.notes)
    assert cell(report.table, a="early", b="early").n == N


def test_bad_caches_are_one_line():
    broken = SIGNAL["late"].copy()
    broken[[1, 5, 7], 0] = np.nan
    with pytest.raises(KDScopeError, match=r"late of kd0.kdcache: features are NaN or infinite in 3 of 80 images"):
        table_of(people(late=broken))
    teacher = subject("t", {"test": seen("t")}, method="none")
    other = subject("s", {"test": seen("s", rows=np.arange(1, N))}, method="kd", teachers=[teacher])
    with pytest.raises(KDScopeError, match=r"t.kdcache and s.kdcache are not of the same images"):
        table_of([other])
    few = subject("f", {"test": seen("f", rows=np.arange(9))}, method="none")
    with pytest.raises(KDScopeError, match="need at least 21 images, and there are 9"):
        table_of([subject("g", {"test": seen("g", rows=np.arange(9))}, method="kd", teachers=[few])])
    assert len(
        table_of([subject("g", {"test": seen("g", rows=np.arange(9))}, method="kd", teachers=[few])], measures="cka")
    )


def test_over_epochs_on_the_images_of_the_probe():
    probe = np.arange(0, N, 2)
    student = people()[0]
    student.probes.update({(epoch, "test"): seen(f"p{epoch}", 3.0 / epoch, epoch, probe) for epoch in (1, 4)})
    table = table_of([student])
    values = [cell(table, epoch=epoch) for epoch in (1, 4)]
    x = seen("t", 0.1).features["late"][probe]
    assert [v.value for v in values] == [
        pytest.approx(linear_cka(x, seen("p", 3.0 / e, e, probe).features["late"]), abs=1e-10) for e in (1, 4)
    ]
    assert [v.n for v in values] == [40, 40]


def test_figures_come_from_the_csv(tmp_path):
    students = people(2)
    students[0].probes.update({(e, "test"): seen(f"p{e}", 3.0 / e, e) for e in (1, 2)})
    report = run_analysis("similarity", students, tmp_path)
    stems = {path.stem for path in report.figures}
    heat = {"cka", "cka-biased", "procrustes", "knn-jaccard", "rsa"}
    assert stems == {f"similarity-{stem}" for stem in heat | {"frame", "epochs"}}
    before = (tmp_path / "similarity-cka.pdf").read_bytes()
    draw(report.csv, tmp_path)
    assert (tmp_path / "similarity-cka.pdf").read_bytes() == before
