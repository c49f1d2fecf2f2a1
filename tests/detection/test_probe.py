"""Probes of a detector: what they hold, and that a training leaves no trace of them."""

import numpy as np
import pytest

import kdscope
from kdscope.detection.trained_adapters import adapters_of, hash_of
from kdscope.features.cache import FeatureCache
from kdscope.sources import of_run

SIZE = {"min_size": 64}
QUICK = {"data": "scenes:16:128:8", "batch_size": 8, "epochs": 2, "preflight": "off"}
STUDENTS = {
    # All pyramids of the small detectors are of one width; an adapter that is always there is trained by hints.
    "one-stage": QUICK | {"model": {"name": "fcos_resnet10_w8", "options": SIZE}, "terms": {"hint": {"weight": 1.0}}},
    # Which samples rows by chance, while it trains and while it is looked at.
    "two-stage": QUICK | {"model": {"name": "fasterrcnn_resnet10_w8", "options": SIZE}, "method": "chen2017"},
}
PROBED = {"probe_every": 1, "probe_size": 5}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    place = tmp_path_factory.mktemp("teachers")
    names = {"one-stage": "fcos_resnet10_w16", "two-stage": "fasterrcnn_resnet10_w16"}
    return {
        kind: kdscope.train(place / kind, **QUICK, model={"name": name, "options": SIZE})
        for kind, name in names.items()
    }


@pytest.fixture(scope="module")
def probed(tmp_path_factory, teachers):
    place = tmp_path_factory.mktemp("runs")
    return {
        kind: kdscope.train(place / kind, **options, **PROBED, teachers=[teachers[kind]])
        for kind, options in STUDENTS.items()
    }


def contents(run) -> dict[str, dict[str, np.ndarray]]:
    """All arrays of all probes of a run, by the name of the cache."""
    found = {}
    for path in sorted((run.path / "features").glob("probe-*.kdcache")):
        cache = FeatureCache(path)
        assert cache.complete
        found[path.name] = {name: np.asarray(cache.array(name)) for name in [*cache.names, "index"]}
    return found


def equal(some: dict, others: dict) -> bool:
    return some.keys() == others.keys() and all(
        np.array_equal(some[cache][name], others[cache][name]) for cache in some for name in some[cache]
    )


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_training_does_not_notice_its_probes(kind, probed, teachers, tmp_path):
    plain = kdscope.train(tmp_path / "plain", **STUDENTS[kind], teachers=[teachers[kind]])
    assert plain.summary["weights_hash"] == probed[kind].summary["weights_hash"]
    assert hash_of(adapters_of(plain)) == hash_of(adapters_of(probed[kind]))
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics] for run in (plain, probed[kind])]
    assert rows[0] == rows[1]
    assert not list(plain.path.glob("features/*"))


def test_probes_are_of_the_same_images_at_each_epoch(probed):
    subject = of_run(probed["one-stage"])
    for split, index in {"train": [0, 3, 6, 9, 12], "test": [0, 1, 3, 4, 6]}.items():
        for name in ("features", "pair"):
            assert subject.probe_epochs(split, name) == [0, 1, 2]
            caches = [subject.probe(epoch, split, name) for epoch in (0, 1, 2)]
            assert [cache.index.tolist() for cache in caches] == [index] * 3
            assert len({cache.identity["weights"] for cache in caches}) == 3
    assert {subject.probe(1, "test", kind).kind for kind in ("features", "pair")} == {"detection", "pair"}
