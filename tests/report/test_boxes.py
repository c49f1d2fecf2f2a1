"""What the page is told of detectors, against the caches that it is from: made-up ones, whose numbers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from kdscope.detection.matching import match
from kdscope.detection.measures.found import Found
from kdscope.detection.stored import found_in, objects_in
from kdscope.report import boxes as report_boxes
from kdscope.report.boxes import WHOLE, explore_boxes
from kdscope.report.payload import BoxExplorer
from kdscope.report.pixels import decode

SIZES = np.array([[60, 120], [120, 60], [90, 90], [60, 120]])  # (height, width)
FRAME = 160


class Cache:
    """A cache of kind "detection" in memory: two objects and a crowd in each image, and detections around them."""

    def __init__(self, seed: int, noise: float, classes=("circle", "</script>"), shift: int = 0):
        rng, images = np.random.default_rng(seed), len(SIZES)
        high = SIZES[:, None, [1, 0, 1, 0]]
        parts = np.array([[0.1, 0.1, 0.5, 0.5], [0.5, 0.4, 0.9, 0.9], [0.0, 0.6, 0.4, 1.0]])
        truth = (parts * high).astype(np.float32)
        around = truth[:, [0, 0, 1, 1, 2, 0]] + rng.normal(0, noise, (images, 6, 4)) * high
        around = np.sort(around.reshape(images, 6, 2, 2), axis=2).reshape(images, 6, 4).clip(0, high)
        scores = -np.sort(-rng.uniform(0.06, 0.99, (images, 6)), axis=1)
        scores[0, 4:] = -1
        scale = FRAME / SIZES.max(1, keepdims=True)
        self.arrays = {
            "truth/boxes": truth, "truth/labels": np.tile([1, 2, 1], (images, 1)),
            "truth/crowd": np.tile(np.array([0, 0, 1], np.uint8), (images, 1)),
            "truth/area": (truth[..., 2:] - truth[..., :2]).prod(-1),
            "detections/boxes": around.astype(np.float32), "detections/scores": scores.astype(np.float32),
            "detections/labels": np.where(scores < 0, 0, rng.integers(1, 3, (images, 6))),
            "frame/original": SIZES, "frame/size": np.round(SIZES * scale).astype(np.int64),
            "meta/image": np.zeros((images, 3, FRAME, FRAME), np.uint8),
            "maps/attention/8": rng.uniform(size=(images, 20, 20)),
            "maps/attention/16": rng.uniform(size=(images, 9, 9)),
        }  # fmt: skip
        self.identity = {"most": 100, "score": 0.05, "frame": [FRAME, FRAME], "strides": [8, 16]}
        self.classes, self.index, self.shift = classes, np.arange(images) + shift, shift

    @property
    def names(self):
        return tuple(self.arrays)

    def __len__(self):
        return len(SIZES)

    def array(self, name):
        return self.arrays[name]

    def check_compatible(self, other):
        if other.shift != self.shift:
            from kdscope.errors import KDScopeError

            raise KDScopeError("other images")


@pytest.fixture
def explored(monkeypatch):
    """Explore caches by name and role; students are of the teacher, and of the network alone where there is one."""

    def make(**caches) -> tuple[BoxExplorer, list[str]]:
        from kdscope.report.payload import Pair

        named = [(name, name, SimpleNamespace(name=name, weights=name)) for name in caches]
        pairs = [Pair("student", "teacher", "alone")] if "teacher" in caches else []
        monkeypatch.setattr(report_boxes, "subjects_of", lambda *_: ([], {}))
        monkeypatch.setattr(report_boxes, "side_by_side", lambda _: (named, pairs))
        monkeypatch.setattr(report_boxes, "_open", lambda subject, *_: caches[subject.name])
        return explore_boxes({"any": None})

    return make


def decoded(explorer: BoxExplorer, model=None) -> list[Found]:
    """Detections (or objects, without a model) in 65535ths of their image."""
    start = model or explorer
    name = (lambda key: key) if model else (lambda key: f"truth_{key}")
    counts = decode(getattr(start, name("counts")), "uint32", -1)
    boxes, labels = (
        decode(getattr(start, name("boxes")), "uint16", -1, 4),
        decode(getattr(start, name("labels")), "uint16", -1),
    )
    scores = decode(model.scores, "uint16", -1) / WHOLE if model else np.ones(len(labels))
    ends = np.cumsum(counts)[:-1]
    return [Found.of(*each) for each in zip(*(np.split(c, ends) for c in (boxes, scores, labels + 1)), strict=True)]


def test_boxes_and_scores_are_those_of_the_cache_to_16_bits(explored):
    cache = Cache(0, 0.05)
    explorer, notes = explored(teacher=cache, student=Cache(1, 0.1), alone=Cache(2, 0.2))
    assert notes == []
    assert [model.role for model in explorer.models] == ["teacher", "student", "alone"]
    scale = SIZES[:, [1, 0, 1, 0]] / WHOLE
    for k, (mine, theirs) in enumerate(zip(decoded(explorer, explorer.models[0]), found_in(cache), strict=True)):
        assert mine.boxes * scale[k] == pytest.approx(theirs.boxes, abs=120 / WHOLE)
        assert mine.scores == pytest.approx(theirs.scores, abs=1 / WHOLE)
        assert mine.labels.tolist() == theirs.labels.tolist()
    objects = objects_in(cache)
    truth = np.concatenate([some.boxes * by for some, by in zip(decoded(explorer), scale, strict=True)])
    assert truth == pytest.approx(objects.boxes.numpy(), abs=120 / WHOLE)
    assert decode(explorer.truth_crowd, "uint8", -1).tolist() == objects.crowd.int().tolist()


def test_the_score_of_a_network_is_where_its_f1_is_largest(explored):
    cache = Cache(3, 0.08)
    explorer, _ = explored(alone=cache)
    found, objects = found_in(cache), objects_in(cache)

    def f1(score):
        matches = match([some.above(score) for some in found], objects)
        right, wrong = matches.right.sum(), matches.wrong.sum()
        return 2 * right / (right + wrong + matches.counted.sum())

    scores = np.concatenate([some.scores for some in found])
    best = max(scores, key=lambda score: (f1(score), score))
    assert explorer.models[0].score == pytest.approx(best, abs=1 / WHOLE)


def test_a_network_that_finds_nothing_right_has_no_best_score(explored):
    cache = Cache(3, 0.08)
    cache.arrays["detections/boxes"] = np.zeros_like(cache.arrays["detections/boxes"])
    assert explored(alone=cache)[0].models[0].score is None


def test_an_image_lies_in_its_tile_where_it_lay_in_its_frame(explored):
    places = decode(explored(alone=Cache(0, 0.1))[0].places, "uint16", -1, 4) / WHOLE
    assert places == pytest.approx(np.array([[0, 0, 1, 0.5], [0, 0, 0.5, 1], [0, 0, 1, 1], [0, 0, 1, 0.5]]), abs=1e-4)


def test_what_there_is_no_room_for_is_the_least_certain(explored, monkeypatch):
    monkeypatch.setattr(report_boxes, "MOST_FOUND", 10)
    cache = Cache(0, 0.1)
    (model,) = (explorer := explored(alone=cache)[0]).models
    scores = np.concatenate([some.scores for some in found_in(cache)])
    kept = np.concatenate([some.scores for some in decoded(explorer, model)])
    assert np.sort(kept) == pytest.approx(np.sort(scores)[-10:], abs=1 / WHOLE)
    assert model.least > np.sort(scores)[-11]
    assert "no room" in explorer.note


def test_networks_of_other_images_are_left_out(explored):
    explorer, notes = explored(teacher=Cache(0, 0.1), student=Cache(1, 0.1), alone=Cache(2, 0.1, shift=1))
    assert [model.name for model in explorer.models] == ["teacher", "student"]
    assert explorer.pairs[0].alone is None
    assert notes == ["alone is not in the explorer: it was asked about other images than teacher"]


def test_attention_is_there_at_each_stride_the_finest_first(explored):
    explorer, _ = explored(alone=Cache(0, 0.1))
    assert explorer.map_kinds == ["attention-8", "attention-16"]
    maps = explorer.models[0].maps
    assert [(each.height, each.width) for each in maps.values()] == [(16, 16), (9, 9)]
    raw = Cache(0, 0.1).arrays["maps/attention/16"]
    low, high = raw.min((1, 2), keepdims=True), raw.max((1, 2), keepdims=True)
    shown = decode(maps["attention-16"].data, "uint8", -1, 9, 9) / 255
    assert shown == pytest.approx((raw - low) / (high - low), abs=0.5 / 255 + 1e-9)


def test_a_run_of_a_detector_has_boxes_in_place_of_answers(tmp_path):
    import kdscope
    from kdscope.report.gather import gather
    from kdscope.report.page import render

    model = {"name": "fcos_resnet10_w8", "options": {"min_size": 64}}
    run = kdscope.train(
        tmp_path / "alone", model=model, data="scenes:8:128:6", batch_size=4, epochs=1, preflight="off", device="cpu"
    )
    payload = gather(run.path, device="cpu")
    assert payload.explorer is None
    assert payload.boxes.classes == ["circle", "square", "triangle"]
    part = run.dataset().split("test")
    sizes = np.repeat(part.sizes.numpy(), part.objects.counts.numpy(), axis=0)[:, [1, 0, 1, 0]]
    truth = np.concatenate([some.boxes for some in decoded(payload.boxes)]) * sizes / WHOLE
    assert truth == pytest.approx(part.objects.boxes.numpy(), abs=128 / WHOLE)
    assert gather(run.path, extract=False).boxes == payload.boxes  # now there is a cache
    assert '<section id="boxes"' in render(payload)
