"""Maps of features and relations of classes, on networks whose every answer is written down."""

from pathlib import Path

import numpy as np
import pytest
from told import Sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.figures import draw
from kdscope.measures.class_relations import mean_difference

N = 60
LABELS = np.arange(N) % 4
LOGITS = 2 * np.eye(4)[LABELS] + np.random.default_rng(0).normal(size=(N, 4))


class Shown(Sayings):
    """Sayings with one layer, whose features are the centres of the classes and some noise."""

    def __post_init__(self):
        self.layers = ["last"]

    def feature(self, layer):
        spread = np.random.default_rng(1).normal(size=(len(self.labels), 5))
        return 8 * np.eye(5)[self.labels] + spread


def said(name, noise, seed=0):
    logits = (LOGITS + noise * np.random.default_rng(seed).normal(size=LOGITS.shape)).astype(np.float32)
    cache = Shown(logits, LABELS, np.arange(N), ("a", "b", "c", "d"), Path(f"{name}.kdcache"))
    cache.__post_init__()
    return cache


def people():
    teacher = subject("t", {"test": said("t", 0)}, architecture="resnet20", method="none")
    student = subject("s", {"test": said("s", 0.3, 1)}, method="kd", seed=0, teachers=[teacher])
    return [student, subject("alone", {"test": said("alone", 2.0, 2)}, method="none", seed=0)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run_analysis("embedding", people(), tmp_path_factory.mktemp("out"), images=40)


def test_maps_keep_classes_together_and_are_the_same_again(report):
    maps = report.table[report.table["pair"] == "map"]
    assert maps.groupby(["a", "measure"]).size().to_dict() == {
        (name, kind): 40 for name in ("t", "s", "alone") for kind in ("tsne", "pca")
    }
    assert maps.loc[maps["measure"] == "pca", "value"].mean() > 0.8
    # The same features give the same map: all axes point one way, and the seed is fixed.
    one, other = (maps[(maps["a"] == name) & (maps["measure"] == "tsne")][["x", "y"]].to_numpy() for name in ("t", "s"))
    assert np.array_equal(one, other)
    assert maps["image"].max() < N


def test_relations_of_classes_in_their_frame(report):
    table = report.table
    row = table[(table["measure"] == "class-relations") & (table["pair"] == "teacher-student")].iloc[0]
    expected = mean_difference(said("t", 0).logits, said("s", 0.3, 1).logits)
    assert row.value == pytest.approx(expected, abs=1e-12)
    assert row.ci_low < row.value < row.ci_high < row.floor
    assert "independent student" in row.control
    cells = table[(table["measure"] == "class-correlation-difference") & (table["pair"] == "teacher-student")]
    assert len(cells) == 16
    off = cells[cells["class_a"] != cells["class_b"]]["value"]
    assert off.abs().mean() == pytest.approx(expected, abs=1e-9)


def test_figures_come_from_the_csv(report, tmp_path):
    assert {path.stem for path in report.figures} == {
        f"embedding-{stem}" for stem in ("tsne", "pca", "class-relations")
    }
    assert {path.stem for path in draw(report.csv, tmp_path)} == {path.stem for path in report.figures}


def test_bad_input_is_one_line():
    with pytest.raises(KDScopeError, match="needs at least 30 images, and t.kdcache has 20"):  # noqa: RUF043
        run_analysis("embedding", people(), images=20)
    with pytest.raises(KDScopeError, match="an embedding is of one split"):
        run_analysis("embedding", people(), splits="train,test")
