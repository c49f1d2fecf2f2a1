"""The causal analysis end to end on tiny networks, without training: rows, frames, controls, resumption, bad input."""

import functools
import math

import numpy as np
import pytest
import torch

from kdscope.analyses.causal import causal
from kdscope.attention.cut import Cut
from kdscope.attention.integrated import integrated_gradients
from kdscope.data import Batches, load
from kdscope.errors import KDScopeError
from kdscope.features.causal import extract_causal, spread
from kdscope.features.transfer import extract_transfer
from kdscope.figures.causal import causal as figures
from kdscope.measures.intervention import curve_area, mean_result
from kdscope.methods.causal_masks import integrated_map
from kdscope.models import build
from kdscope.sources import Subject

pytestmark = pytest.mark.slow


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build("resnet8", num_classes=8)


@pytest.fixture(scope="module")
def data():
    return load("shapes:16:8:64")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory, data):
    def subject(name, seed, method, **more):
        folder = tmp_path_factory.mktemp(name)
        return Subject(
            name=name, architecture="resnet8", group=name, seed=seed, method=method, dataset=data, folder=folder,
            load=functools.partial(network, seed), device="cpu", **more,
        )  # fmt: skip

    teacher = subject("teacher", 0, "none")
    return [subject("kd", 1, "kd", teachers=(teacher,)), subject("alone", 2, "none")]


@pytest.fixture(scope="module")
def report(subjects):
    return causal(subjects, images=4, baselines="blur", layers=["input", "layer3"])


def test_every_network_by_every_mask_and_the_student_by_its_teachers(report):
    rows = report.table[report.table["measure"] == "deletion-auc"]
    own = rows[rows["pair"] == "own"]
    assert set(own["b"]) == {"teacher", "kd", "alone"}
    assert set(own["layer"]) == {"input/blur", "layer3/blur"}
    for _, group in own.groupby(["b", "layer"]):
        assert sorted(group["by"]) == ["other-image", "own", "random", "randomised-weights", "smooth-random"]
    transfer = rows[rows["by"] == "teacher"]
    assert set(zip(transfer["a"], transfer["b"], strict=True)) == {("teacher", "kd"), ("teacher", "alone")}
    assert (rows["value"].between(0, 1)).all()
    known = rows[rows["by"] != "random"]
    assert np.allclose(known["gain"], known["floor"] - known["value"])
    curve = report.table[report.table["measure"] == "insertion-curve"]
    assert sorted(set(curve["share"])) == [k / 10 for k in range(11)]
    assert any("random masks" in note for note in report.notes)


def test_localisation_stands_beside_the_share_of_the_area(report, data):
    rows = report.table[report.table["measure"] == "energy-inside"]
    assert len(rows) == 6
    masks = data.test.masks[spread(len(data.test), 4)].float()
    whole = rows[rows["n"] == 4]
    assert len(whole)
    assert np.allclose(whole["floor"], masks.mean().item())
    assert rows["value"].between(0, 1).all()


def test_figures_of_the_table(report):
    drawn = {name: figure is not None for name, figure in figures(report.table)}
    assert drawn == {"causal-curves": True, "causal-frame": True, "causal-epochs": False}


def test_a_cache_is_taken_up_again_and_maps_of_other_images_are_refused(tmp_path, data):
    first = extract_causal(network(0), data, "test", tmp_path / "a", images=3, layers=["layer3"])
    again = extract_causal(network(0), data, "test", tmp_path / "a", images=3, layers=["layer3"])
    assert first.key == again.key
    assert len(first) == 3
    with pytest.raises(KDScopeError, match="other images"):
        extract_transfer(network(1), data, "train", tmp_path / "b", maps=first)
    same = extract_transfer(network(0), data, "test", tmp_path / "c", maps=first)
    assert np.array_equal(same.array("deletion/layer3/mean")[:], first.array("deletion/own/layer3/mean")[:])
    with pytest.raises(KDScopeError, match="unknown baseline"):
        extract_causal(network(0), data, "test", tmp_path / "d", baselines=["white"])
    with pytest.raises(KDScopeError, match="too few"):
        extract_causal(network(0), data, "test", tmp_path / "d", images=1)
    assert not (tmp_path / "d.kdcache").exists()


def test_areas_and_means():
    assert curve_area(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), [0, 0.5, 1]).tolist() == [0.25, 1.0]
    with pytest.raises(KDScopeError, match="ascend"):
        curve_area(np.ones((2, 3)), [0, 1, 0.5])
    result = mean_result("deletion-auc", np.array([np.nan, 0.2, 0.4]))
    assert (round(result.value, 12), result.n, result.excluded) == (0.3, 2, 1)
    nothing = mean_result("deletion-auc", np.array([np.nan]))
    assert math.isnan(nothing.value)
    assert nothing.n == 0


def test_from_zero_the_maps_are_those_that_causal_attention_transfer_makes_its_masks_of(tmp_path, data):
    net = network(0).eval()
    how = {"layers": ["layer2"], "baselines": ["zero"], "target": "raw-logit", "images": 3}
    with pytest.warns(UserWarning, match="raw logit"):
        cache = extract_causal(net, data, "test", tmp_path / "a", tolerance=10.0, **how)
    shown = Batches(data.test, data, batch_size=3).batch(spread(len(data.test), 3))
    cut = Cut(net, "layer2", shown.image)
    found, error = integrated_map(cut.above, cut.below(shown.image), shown.label, "raw-logit", 16)
    assert cache.array("steps/layer2/zero")[:].tolist() == [16, 16, 16]
    assert np.allclose(cache.array("maps/integrated-gradients/layer2/zero")[:], found, atol=1e-5)
    assert np.allclose(cache.array("error/layer2/zero")[:], error, atol=1e-4)
    assert cache.key != extract_causal(net, data, "test", tmp_path / "b", layers=["layer2"], images=3).key


def test_zero_of_the_input_is_the_mean_colour(data):
    shown = Batches(data.test, data, batch_size=3).batch(torch.arange(3))
    one, other = (
        integrated_gradients(network(0).eval(), shown.image, shown.label, start, most=16).values
        for start in (None, torch.zeros_like(shown.image))
    )
    assert torch.equal(one, other)
