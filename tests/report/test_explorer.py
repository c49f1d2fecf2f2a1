"""The images of a report are those of the caches: answers, maps, and the IoU that a page computes from their bytes."""

import base64
import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from kdscope.features.cache import FeatureCache
from kdscope.measures.grids import pool_area
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.measures.map_threshold import intersection_union, per_image_iou, threshold_masks
from kdscope.report.explorer import CELLS, draw, explore, first_found
from kdscope.report.found import find
from kdscope.report.map_sets import MOST_BYTES, map_sets
from kdscope.report.pixels import as_bytes, as_signed_bytes, decode, sprite
from kdscope.sources import of_run

COUNT = 24


@pytest.fixture(scope="module")
def runs(done):
    return find(done).runs


@pytest.fixture(scope="module")
def explorer(runs):
    return explore(runs, extract=False)[0]


def maps_of(runs, name):
    return FeatureCache(runs[name].path / "features" / "test-none-maps.kdcache")


def bytes_of(maps):
    return decode(maps.data, "uint8", COUNT, maps.height, maps.width)


def test_who_is_shown_and_who_is_whose(explorer):
    assert [(m.name, m.role) for m in explorer.models] == [
        ("teacher-seed0", "teacher"), ("kd-seed0", "student"), ("alone-seed0", "alone"),
    ]  # fmt: skip
    (pair,) = explorer.pairs
    assert (pair.student, pair.teacher, pair.alone) == ("kd-seed0", "teacher-seed0", "alone-seed0")
    assert (explorer.split, explorer.view, explorer.classes) == ("test", "none", ["a", "b", "c", "d"])
    assert explorer.cells == list(CELLS)


def test_answers_are_those_of_the_caches(explorer, runs):
    for model in explorer.models:
        cache = maps_of(runs, model.name)
        sure = np.exp(cache.logits) / np.exp(cache.logits).sum(axis=1, keepdims=True)
        np.testing.assert_array_equal(decode(model.prediction, "uint16", COUNT), cache.logits.argmax(axis=1))
        confidence = decode(model.confidence, "uint8", COUNT) / 255
        np.testing.assert_allclose(confidence, sure.max(axis=1), atol=1 / 510 + 1e-6)
        top = decode(model.top, "uint16", COUNT, model.top_count)
        assert model.top_count == 4
        assert (np.diff(np.take_along_axis(cache.logits, top.astype(int), axis=1)) <= 0).all()
        at = decode(model.top_confidence, "uint8", COUNT, 4) / 255
        np.testing.assert_allclose(at, np.take_along_axis(sure, top.astype(int), axis=1), atol=1 / 510 + 1e-6)
    np.testing.assert_array_equal(decode(explorer.labels, "uint16", COUNT), cache.labels)
    np.testing.assert_array_equal(decode(explorer.index, "int32", COUNT), cache.index)


def test_maps_are_those_of_the_caches_but_for_rounding(explorer, runs):
    assert explorer.map_kinds[:3] == ["cam", "grad-cam", "activation"]
    for kind, array in (("activation", "activation/layer3"), ("activation-3", "activation/layer1")):
        for model in explorer.models:
            maps = maps_of(runs, model.name).array(f"maps/{array}")[:]
            low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
            np.testing.assert_allclose(bytes_of(model.maps[kind]) / 255, (maps - low) / (high - low), atol=1 / 500)
            assert not model.maps[kind].signed
    for model in explorer.models:
        maps, shown = maps_of(runs, model.name).array("maps/cam/layer3")[:], model.maps["cam"]
        top = np.abs(maps).max(axis=(1, 2), keepdims=True)
        assert shown.signed
        np.testing.assert_allclose((bytes_of(shown) - 128.0) / 127, maps / top, atol=1 / 250)
        assert shown.label == "class activation, layer3"


@pytest.mark.parametrize("kind", ["cam", "grad-cam", "activation", "activation-2"])
def test_the_iou_of_the_bytes_is_that_of_the_measure(explorer, runs, kind):
    """As a page computes it: b - min > t (max - min) over the bytes of both, intersection over union."""
    layer = {"activation-2": "activation/layer2"}.get(kind, f"{kind}/layer3")
    teacher, student = (next(m for m in explorer.models if m.role == role) for role in ("teacher", "student"))
    true = [maps_of(runs, model.name).array(f"maps/{layer}")[:] for model in (teacher, student)]
    for threshold in (0.2, 0.4, 0.7):
        shown = [threshold_masks(bytes_of(model.maps[kind]), threshold=threshold) for model in (teacher, student)]
        iou = per_image_iou(*intersection_union(*shown))
        exact = per_image_iou(*intersection_union(*(threshold_masks(maps, threshold=threshold) for maps in true)))
        assert np.nanmean(np.abs(iou - exact)) < 1e-2
        if threshold == 0.4:
            assert np.nanmean(iou) == pytest.approx(ThresholdIoU().update(*true).estimate(), abs=1e-2)


def test_the_images_are_those_of_the_data(explorer, runs):
    picture = Image.open(io.BytesIO(base64.b64decode(explorer.sprite.partition(",")[2]))).convert("RGB")
    images = of_run(runs["kd-seed0"]).dataset.split("test").images.numpy()
    pixels, side = np.asarray(picture), explorer.image_size
    assert side == 16
    for k in range(COUNT):
        row, column = divmod(k, explorer.columns)
        tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
        np.testing.assert_array_equal(tile.transpose(2, 0, 1), images[k])


def test_many_images_become_a_small_picture():
    noise = np.random.default_rng(0).integers(0, 256, (2000, 3, 8, 8), dtype=np.uint8)
    images = noise.repeat(8, axis=2).repeat(8, axis=3)  # 64 x 64, in squares
    text, side, columns = sprite(images)
    assert (side, columns) == (44, 45)
    assert len(text) < 2_600_000
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (45 * 44, 45 * 44)
    k = 1234
    row, column = divmod(k, columns)
    tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side].mean(axis=(0, 1))
    np.testing.assert_allclose(tile, images[k].mean(axis=(1, 2)), atol=8)


def test_images_that_are_not_square_stand_in_the_middle():
    text, side, _ = sprite(np.full((1, 3, 2, 4), 200, np.uint8))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("RGB"))
    assert side == 4
    assert pixels[:, :, 0].tolist() == [[0] * 4, [200] * 4, [200] * 4, [0] * 4]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(1, 80), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_drawn_images_have_the_shares_of_the_classes(labels, most, seed):
    labels = np.array(labels)
    first = np.random.default_rng(seed).random(len(labels)) < 0.1
    rows = draw(labels, most, first, seed)
    assert len(rows) == min(most, len(labels))
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, draw(labels, most, first, seed))
    for label in np.unique(labels):
        share = (labels == label).mean() * len(rows)
        taken = labels[rows] == label
        assert abs(taken.sum() - share) <= 1 + 1e-9 or len(rows) == len(labels)
        # of its class, one that comes first is left out only where all that were taken come first
        own = np.flatnonzero(labels == label)
        left = np.setdiff1d(own, rows)
        assert not first[left].any() or first[rows[taken]].all()


@given(arrays(np.float64, (2, 3, 3), elements=st.floats(-1e6, 1e6)))
@settings(max_examples=60, deadline=None)
def test_bytes_keep_the_order_of_the_cells_and_the_ends(maps):
    for scaled in (as_bytes(maps), as_signed_bytes(maps)):
        order = np.argsort(maps.reshape(2, -1), axis=1, kind="stable")
        assert (np.diff(np.take_along_axis(scaled.reshape(2, -1).astype(int), order, axis=1)) >= 0).all()
    for one, scaled in zip(maps, as_bytes(maps), strict=True):
        assert (scaled.min(), scaled.max()) == ((0, 255) if one.max() > one.min() else (0, 0))
    assert (as_signed_bytes(maps)[maps == 0] == 128).all()


class Held:
    """As much of a cache as the choice of maps reads."""

    def __init__(self, arrays, index=None):
        self._arrays, self.names = arrays, list(arrays)
        self.index = np.arange(len(next(iter(arrays.values())))) if index is None else index

    def array(self, name):
        return self._arrays[name]

    def __len__(self):
        return len(self.index)


def test_maps_have_room_for_all_networks_the_deepest_first():
    random = np.random.default_rng(0)
    layers = {"layer1": 32, "layer2": 16, "layer3": 8}
    made = {f"maps/activation/{name}": random.random((2000, side, side), np.float32) for name, side in layers.items()}
    made["maps/cam/layer3"] = random.normal(size=(2000, 8, 8))
    networks = {f"net{k}": (Held(made), None) for k in range(8)}
    sets, order, said = map_sets(networks, np.arange(2000), np.arange(2000))
    assert order == ["cam", "activation"]
    assert said == ["Maps of activation-2, activation-3 are left out: the page has no room for them."]
    assert sum(len(m.data) for own in sets.values() for m in own.values()) <= MOST_BYTES * 4 / 3 + 100
    few, order, said = map_sets(dict([*networks.items()][:2]), np.arange(2000), np.arange(2000))
    assert (order, said) == (["cam", "activation", "activation-2", "activation-3"], [])
    coarse = decode(few["net0"]["activation-3"].data, "uint8", 2000, 16, 16)  # finer maps are averaged over area
    np.testing.assert_array_equal(coarse, as_bytes(pool_area(made["maps/activation/layer1"].astype(float), (16, 16))))


def test_networks_of_other_layers_are_matched_from_the_deepest_up():
    one = Held({"maps/activation/s1": np.random.rand(3, 8, 8), "maps/activation/s2": np.random.rand(3, 4, 4)})
    two = Held({"maps/activation/b7": np.random.rand(3, 2, 2)})
    sets, order, _ = map_sets({"one": (one, None), "two": (two, None)}, np.arange(3), np.arange(3))
    assert order == ["activation", "activation-2"]
    assert [sets[name]["activation"].label for name in ("one", "two")] == ["activation, s2", "activation, b7"]
    assert [(sets[name]["activation"].height) for name in ("one", "two")] == [2, 2]
    assert list(sets["two"]) == ["activation"]


def test_causal_maps_are_known_for_some_images_alone():
    causal = Held({"maps/integrated-gradients/input/mean": np.arange(8.0).reshape(2, 2, 2)}, np.array([1, 4]))
    whole = Held({"maps/cam/l": np.random.rand(6, 2, 2)})
    rows = np.array([0, 1, 2, 5])
    sets, order, _ = map_sets({"n": (whole, causal)}, rows, rows)
    shown = sets["n"]["integrated-gradients"]
    assert order == ["cam", "integrated-gradients"]
    assert decode(shown.known, "uint8", 4).tolist() == [0, 1, 0, 0]
    assert decode(shown.data, "uint8", 4, 4).tolist() == [[0] * 4, [0, 85, 170, 255], [0] * 4, [0] * 4]
    assert sets["n"]["cam"].known is None


def test_caches_that_are_there_are_found_and_no_others(runs, done, tmp_path):
    """Without --extract, a network without a cache is told and left out; one with other weights is none."""
    shutil.copytree(done.parent, tmp_path / "studies")
    copied = find(tmp_path / "studies" / "one").runs
    (gone,) = (tmp_path / "studies" / "runs").glob("alone-seed0-*")
    for cache in (gone / "features").glob("test-*"):
        shutil.rmtree(cache)
    found, notes = explore(copied, extract=False)
    assert [model.role for model in found.models] == ["teacher", "student"]
    assert notes == ["alone-seed0 is not in the explorer: no cache of test is there; `kdscope extract` makes one"]
    assert found.pairs[0].alone is None
    shutil.copytree(
        runs["kd-seed0"].path / "features" / "test-none-maps.kdcache", gone / "features" / "test-none-maps.kdcache"
    )
    assert of_run(copied["alone-seed0"]).kept("test", kind="maps") == []
    assert of_run(copied["kd-seed0"]).kept("test", kind="maps")[0].kind == "maps"
    assert of_run(copied["kd-seed0"]).kept("train", kind="maps") == []


def test_what_a_student_asked_its_teacher_lies_with_the_student():
    run, copy = SimpleNamespace(weights="w", there=None), SimpleNamespace(weights="w", there="answers")
    homes, made = {"w": [run, copy]}, []

    def look(subject, make):
        made.append(make)
        return "made" if make else subject.there

    assert first_found(look, homes, run, extract=False) == "answers"
    assert first_found(look, homes, run, extract=True) == "answers"
    assert made == [False] * 4
    # What is not whole is made where that is wanted, and taken as it is where not.
    assert first_found(look, homes, run, True, whole=lambda found: found == "made") == "made"
    assert first_found(look, homes, run, False, whole=lambda found: found == "made") == "answers"
    assert first_found(look, {}, run, extract=False) is None
