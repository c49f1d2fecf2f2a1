"""Subjects: what is known without loading a network, and which caches are one network's."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kdscope
from kdscope import KDScopeError
from kdscope.api import settings
from kdscope.features import extract_features
from kdscope.sources import _group, of_run, open_source, subjects


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    fast = {"epochs": 1, "device": "cpu", "model": "resnet8"}
    teacher = kdscope.train(folder / "teacher", data="digits:8", **fast)
    # The same images by another name.
    again = {"name": "digits", "image_size": 8}
    student = kdscope.train(folder / "kd", data=again, teachers=[teacher], method="kd", **fast)
    return teacher, student


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10))


def test_what_is_cached_is_read_without_loading_the_network(runs, monkeypatch):
    first = of_run(runs[0], "cpu").cache("test")
    monkeypatch.setattr("kdscope.models.load_weights", lambda *_: pytest.fail("the network was loaded"))
    again = of_run(runs[0], "cpu").cache("test")
    assert again.path == first.path
    assert again.key == first.key


def test_a_cache_of_other_weights_is_still_refused(runs, network):
    subject = of_run(runs[0], "cpu")
    subject._path("train", "none", "features").parent.mkdir(exist_ok=True)
    extract_features(network, subject.dataset, "train", subject._path("train", "none", "features"), layers=["1"])
    with pytest.raises(KDScopeError, match="was made from something else: "):
        subject.cache("train")


def test_a_teachers_own_cache_serves_under_another_name_of_the_data(runs):
    own = of_run(runs[0], "cpu").cache("test")
    assert of_run(runs[1], "cpu").teachers[0].cache("test").path == own.path


def test_caches_of_one_network_are_one_subject(network, tmp_path):
    digits = kdscope.data.load("digits:8")
    for split in ("train", "test"):
        extract_features(network, digits, split, tmp_path / f"net-{split}", layers=["1"])
    (one,) = subjects([tmp_path / "net-train", tmp_path / "net-test.kdcache"])
    assert one.name == "net"
    assert set(one.caches) == {("train", "none"), ("test", "none")}
    extract_features(network, kdscope.data.load("shapes:16:10:20"), "test", tmp_path / "other", layers=["1"])
    with pytest.raises(KDScopeError, match="are not of the same images: data is"):
        subjects([tmp_path / "net-test", tmp_path / "other"])


@pytest.mark.parametrize(
    ("assignments", "same"),
    [
        (["preflight=warn", "probe_size=8", "probe_every=1", "checkpoint_every=9", "data.workers=2"], True),
        (["optim.lr=0.5"], False),
    ],
)
def test_seeds_of_one_training_are_one_group_whatever_was_kept_or_checked_on_the_way(assignments, same):
    def group(seed, assignments=()):
        config = settings(assignments=assignments, data="scenes:16", model="fcos_resnet10_w8", seed=seed)
        return _group(SimpleNamespace(config=config))

    assert (group(1, assignments) == group(0)) == same


def test_what_is_no_source(tmp_path):
    with pytest.raises(KDScopeError, match="neither a run directory"):
        open_source(tmp_path / "nothing")
