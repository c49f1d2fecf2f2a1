import numpy as np
import pytest
import torch

import kdscope
from kdscope.data import load
from kdscope.data.split import Dataset
from kdscope.errors import KDScopeError
from kdscope.features.maps import extract_maps
from kdscope.figures import draw
from kdscope.models import build


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Untrained networks: a teacher, a student, and the teacher itself with another gauge of its head."""
    folder = tmp_path_factory.mktemp("maps")
    shapes = load("shapes:32")
    index = torch.arange(60)
    part = shapes.test.subset(index)
    small = Dataset("shapes", part, part, None, shapes.classes, shapes.mean, shapes.std)

    def make(name, seed, change=False):
        torch.manual_seed(seed)
        net = build("resnet8", num_classes=shapes.num_classes).eval()
        if change:  # a gauge: the same predictor with another head
            with torch.no_grad():
                head = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
                head.weight += torch.randn(head.in_features)
        return extract_maps(net, small, "test", folder / name)

    return make("teacher", 0), make("student", 1), make("same", 0, change=True)


@pytest.fixture(scope="module")
def report(caches, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return kdscope.analyze("attention-iou", *caches, out=out, definition="guo2024-code")


def cell(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def test_the_same_predictor_looks_at_the_same_place_and_cam_sum_does_not_know(report):
    whole = report.table[report.table.area.isna()]
    same = cell(whole, pair="teacher-student", b="same", measure="attention-iou")
    assert np.allclose(same.value, 1, atol=0.02)
    other = cell(whole, pair="teacher-student", b="student", measure="attention-iou")
    assert (other.value < 0.8).all()
    guo = cell(whole, pair="teacher-student", b="same", measure="threshold-iou")
    assert guo.definition.tolist() == ["guo2024-code"]
    assert guo.value.item() < 0.95


def test_every_number_has_an_interval_and_a_count(report):
    table = report.table
    assert (table.ci_low <= table.value + 1e-9).all()
    assert (table.value <= table.ci_high + 1e-9).all()
    assert (table.n + table.excluded == 60).all()
    taught = cell(table[table.area.isna()], pair="teacher-student", definition="kdscope")
    assert taught.floor.notna().all()
    assert taught.gain.notna().all()


def test_the_sweep_ends_in_its_mean(report):
    rows = cell(report.table, pair="teacher-student", b="student", measure="attention-iou", map="cam")
    sweep, mean = rows[rows.area.notna()].sort_values("area"), rows[rows.area.isna()].value.item()
    assert np.isclose(np.trapezoid(sweep.value, sweep.area) / np.ptp(sweep.area), mean)


def test_each_network_against_the_masks(report, caches):
    truth = cell(report.table, pair="truth")
    assert set(truth.measure) == {"pointing-game", "energy-inside"}
    assert set(truth.b) == {"teacher", "student", "same"}
    share = caches[0].array("meta/mask")[:].mean((1, 2)).mean()
    assert np.allclose(truth.floor, share)


def test_figures_notes_and_the_table_alone(report, tmp_path):
    stems = {path.stem for path in report.figures}
    assert stems == {f"attention-iou-{name}" for name in ("sweep", "frame", "truth", "gallery", "accuracy")}
    assert {path.stem for path in draw(report.csv, tmp_path)} == stems | {"attention-iou"}  # its table for a paper
    assert any("cam-sum" in note for note in report.notes)


def test_what_cannot_be_asked_is_one_line(caches):
    with pytest.raises(KDScopeError, match="not every network has maps of 'rollout'"):
        kdscope.analyze("attention-iou", *caches, maps="rollout")
    with pytest.raises(KDScopeError, match="unknown definition"):
        kdscope.analyze("attention-iou", *caches, definition="guo")
    with pytest.raises(KDScopeError, match="no cache of maps of split 'train'"):
        kdscope.analyze("attention-iou", *caches, splits="train")
