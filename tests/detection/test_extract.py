"""Caches of detectors hold what the detector says, whatever stands beside an image in its batch."""

import json
import shutil
from dataclasses import replace

import numpy as np
import own_detector
import pytest
import torch
from torch import nn

import kdscope
from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.detection.data import DetectionDataset, DetectionSplit, Objects, load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.evaluate import detect, limited, scored
from kdscope.detection.extract import extract_detections
from kdscope.detection.frames import Frames, frame_of
from kdscope.detection.measures.found import Found
from kdscope.detection.measures.shapley import subsets
from kdscope.detection.pair import chosen_rows, extract_pair
from kdscope.detection.patch import extract_patched
from kdscope.detection.results import found_of
from kdscope.detection.stored import found_in
from kdscope.detection.subjects import detection_cache, kept_detections, pair_cache
from kdscope.detection.trained_adapters import adapters_of
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.sources import subjects

SIZE = {"min_size": 64}
QUICK = {"data": "scenes:16:128:6", "batch_size": 8, "epochs": 2, "preflight": "off"}
NAMES = ["fcos_resnet10_w8", "retinanet_resnet10_w8", "fasterrcnn_resnet10_w8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A teacher, a narrower student taught by mimicry, and one of that width alone."""
    place = tmp_path_factory.mktemp("runs")
    wide, narrow = ({"name": f"fcos_resnet10_w{width}", "options": SIZE} for width in (16, 8))
    teacher = kdscope.train(place / "teacher", **QUICK, model=wide)
    # All pyramids of the small detectors are of one width; an adapter that is always there is trained by hints.
    terms = {"hint": {"weight": 1.0}}
    student = kdscope.train(place / "student", **QUICK, model=narrow, teachers=[teacher], method="none", terms=terms)
    return {"teacher": teacher, "student": student, "alone": kdscope.train(place / "alone", **QUICK, model=narrow)}


def made(name, seed=0):
    torch.manual_seed(seed)
    detector = models.build(name, 3, **SIZE)
    for module in detector.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.05)
    return detector.eval()


def of_many_sizes():
    """Six images of three sizes, one without an object and one with a crowd."""
    generator = torch.Generator().manual_seed(2)
    sizes = [(64, 64), (48, 80), (90, 60)] * 2
    images = [torch.randint(0, 255, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    boxes = [torch.tensor([[4.0, 6.0, 30.0, 40.0]])] * 5 + [torch.zeros(0, 4)]
    objects = Objects.of(boxes, [[1 + k % 3] for k in range(5)] + [[]], [[k == 1] for k in range(5)] + [[]])

    class Listed(list):
        @property
        def sizes(self):
            return torch.tensor([image.shape[1:] for image in self])

        def subset(self, index):
            return Listed(self[index])

        def __getitem__(self, index):
            return [list.__getitem__(self, i) for i in index.tolist()]

    split = DetectionSplit("test", Listed(images), objects, torch.arange(6))
    return DetectionDataset("listed", split, split, ("a", "b", "c"), (1, 2, 3), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_is_what_the_forward_pass_finds(name, tmp_path):
    detector, dataset = made(name), load("scenes:2:128:5")
    cache = extract_detections(detector, dataset, "test", tmp_path / "cache", score=0.001, batch_size=2)
    images = next(DetectionBatches(dataset.test, batch_size=5).epoch()).images
    with limited(detector, score=0.001), torch.no_grad():
        expected = found_of(detector(list(images)))
    expected = [Found(*(column[one.labels > 0] for column in one)) for one in expected]
    assert sum(len(one.scores) for one in expected) > 10
    for ours, theirs in zip(found_in(cache), expected, strict=True):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        assert ours.labels.tolist() == theirs.labels.tolist()
    assert detector.training is False
    largest = [max((s for s, k in zip(one.scores, one.labels, strict=True) if k == 2), default=0) for one in expected]
    np.testing.assert_allclose(cache.logits[:, 1], largest, atol=1e-5)


@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
def test_the_score_is_that_of_the_cache_whatever_the_batches_and_the_ranks(name, tmp_path):
    detector, dataset = made(name), of_many_sizes()
    cached = found_in(extract_detections(detector, dataset, "test", tmp_path / "cache", score=0.001, batch_size=6))
    parts = [{"batch_size": 1}, {"batch_size": 4}, *({"batch_size": 2, "rank": k, "world_size": 2} for k in (0, 1))]
    found = [detect(detector, DetectionBatches(dataset.test, workers=0, **part), score=0.001)[1] for part in parts]
    for some in (found[0], found[1], found[2] + found[3]):
        for ours, theirs in zip(some, cached, strict=True):
            assert ours.labels.tolist() == theirs.labels.tolist()
            np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
def test_an_image_says_the_same_alone_and_in_company(name, tmp_path):
    detector, dataset = made(name), of_many_sizes()
    wide, narrow = (
        extract_detections(detector, dataset, "test", tmp_path / f"{n}", score=0.001, batch_size=n) for n in (6, 1)
    )
    frame = frame_of(detector.transform, dataset.test.sizes)
    assert list(frame) == wide.identity["frame"]
    assert all(side % 32 == 0 for side in frame)
    for key in ("detections/boxes", "detections/scores", *(n for n in wide.names if n.startswith("maps/"))):
        np.testing.assert_allclose(np.asarray(wide.array(key)), np.asarray(narrow.array(key)), atol=2e-3, err_msg=key)


def test_maps_are_mean_absolute_features_and_boxes_lie_where_the_frame_has_them(tmp_path):
    detector, dataset = made("fcos_resnet10_w8"), of_many_sizes()
    cache = extract_detections(detector, dataset, "test", tmp_path / "cache")
    frame = tuple(cache.identity["frame"])
    batch = Frames(dataset.test, adapt(detector), frame).batch(torch.arange(6))
    with torch.no_grad():
        maps = adapt(detector).look(batch.frame).maps
    assert cache.identity["strides"] == list(maps) == [8, 16, 32]
    for stride, value in maps.items():
        np.testing.assert_allclose(np.asarray(cache.array(f"maps/attention/{stride}")), value.abs().mean(1), atol=1e-5)
    original, size = (np.asarray(cache.array(f"frame/{n}")) for n in ("original", "size"))
    assert original.tolist() == dataset.test.sizes.tolist()
    scale = (size / original)[:, [1, 0, 1, 0]]
    boxes, crowd = np.asarray(cache.array("truth/boxes")), np.asarray(cache.array("truth/crowd"))
    for row, shown in enumerate(batch.frame.boxes):
        mine = (boxes[row] * scale[row])[(np.asarray(cache.array("truth/labels"))[row] > 0) & (crowd[row] == 0)]
        np.testing.assert_allclose(mine, shown, rtol=1e-5)
    assert cache.labels.tolist() == [1, 0, 1, 1, 1, 0]  # a crowd is none, and the last is empty
    assert crowd[:, 0].tolist() == [0, 1, 0, 0, 0, 0]


def test_a_run_has_its_score_in_its_cache_and_its_detections_in_a_file(runs):
    run = runs["teacher"]
    cache = kdscope.extract(run)
    dataset = run.dataset()
    assert scored(found_in(cache), dataset.test, 3)["ap"] == pytest.approx(run.summary["test_ap"], abs=1e-9)
    records = json.loads((run.path / "detections" / "test.json").read_text())
    assert len(records) == sum(len(one.scores) for one in found_in(cache))
    assert {record["image_id"] for record in records} <= set(dataset.test.image_ids.tolist())
    assert kdscope.extract(run.path).key == cache.key
    few = kdscope.extract(run, limit=torch.tensor([1, 4]), out=run.path / "few")
    assert few.index.tolist() == [1, 4]


@pytest.mark.parametrize("chosen", [{"score": 0.5}, {"most": 3}, {"limit": torch.arange(3)}], ids=str)
def test_analyses_take_no_cache_of_other_detections(runs, chosen, tmp_path):
    """With fewer images, or fewer detections in each, average precision would be another number."""
    with pytest.raises(KDScopeError, match=f"with {next(iter(chosen))} chosen is not what analyses read"):
        kdscope.extract(runs["alone"], **chosen)
    own = replace(subjects([runs["alone"]])[0], folder=tmp_path)
    place = tmp_path / "test-none.kdcache"
    network, dataset = runs["alone"].model(), runs["alone"].dataset()
    kdscope.extract(runs["alone"], **chosen, out=place)
    assert kept_detections(own, "test") is None
    with pytest.raises(KDScopeError, match="was made from something else: "):
        extract_detections(network, dataset, "test", place, identity={"model": "x", "weights": own.weights})
    shutil.rmtree(place)
    kdscope.extract(runs["alone"], out=place)
    assert kept_detections(own, "test").key == detection_cache(own, "test").key
    assert detection_cache(own, "test").path == place


def test_analyses_take_no_pair_of_other_rows_or_images(runs, tmp_path):
    copied = shutil.copytree(runs["student"].path, tmp_path / "run", ignore=shutil.ignore_patterns("features"))
    student, teacher = subjects([copied])[0], subjects([runs["teacher"]])[0]
    place = copied / "features" / "test-none-pair.kdcache"
    for chosen in ({"rows": 9}, {"limit": torch.arange(3)}):
        kdscope.extract(runs["student"], kind="pair", **chosen, out=place)
        with pytest.raises(KDScopeError, match="was made from something else: "):
            pair_cache(student, teacher, "test")
        shutil.rmtree(place)
    kdscope.extract(runs["student"], kind="patched-levels", score=0.5, out=place.with_name("test-none-patched-levels"))
    with pytest.raises(KDScopeError, match="was made from something else: score"):
        pair_cache(student, teacher, "test", "patched-levels")


def test_a_pair_is_held_against_the_learner(runs):
    """The energy of the error is the mimicry that the run was trained by, and rows are those both were asked."""
    run = runs["student"]
    cache = kdscope.extract(run, kind="pair")
    adapters = adapters_of(run)
    assert sorted(adapters) == cache.identity["strides"] == [8, 16, 32]
    student, teacher, dataset = run.model(), run.teachers()[0], run.dataset()
    batch = Frames(dataset.test, adapt(student), tuple(adapt(student).frame(
        [dataset.test[0].image / 255], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}], torch.zeros(1)
    ).images.shape[2:])).batch(torch.arange(6))  # fmt: skip
    with torch.no_grad():
        ours, theirs = adapt(student).learn(batch.frame), adapt(teacher).look(batch.frame, ["dense"])
        for stride in (8, 16, 32):
            error = (theirs.maps[stride] - adapters[stride](ours.features.maps[stride])).square().sum(1)
            np.testing.assert_allclose(np.asarray(cache.array(f"error/{stride}")), error, rtol=1e-3, atol=1e-4)
            energy = theirs.maps[stride].square().sum(1)
            np.testing.assert_allclose(np.asarray(cache.array(f"energy/{stride}")), energy, rtol=1e-3, atol=1e-4)
    labels = np.asarray(cache.array("rows/dense/labels"))
    goals = ours.batch.targets["dense"].labels.view(6, -1)
    assert (labels > 0).sum(1).tolist() == (goals > 0).sum(1).tolist()
    for image in range(6):
        mine = np.asarray(cache.array("rows/dense/teacher"))[image][labels[image] > 0]
        rows = theirs.rows["dense"].logits.view(6, -1, 3)[image][goals[image] > 0]
        np.testing.assert_allclose(mine, rows, rtol=1e-4, atol=1e-5)
    assert cache.identity["heads"] == {"dense": "sigmoid"}
    assert cache.identity["coders"] == {"dense": None}  # FCOS regresses distances
    ratio = sum(np.asarray(cache.array(f"error/{s}")).sum((1, 2)) for s in (8, 16, 32)) / sum(
        np.asarray(cache.array(f"energy/{s}")).sum((1, 2)) for s in (8, 16, 32)
    )
    np.testing.assert_allclose(cache.logits[:, 0], ratio, rtol=1e-5)


class Going(own_detector.Everywhere):
    """One that finds its box from its maps, too."""

    def detections(self, maps, batch, originals):
        return self.boxes(maps[8])


def test_a_users_own_detector_is_analysed_by_its_forward_pass_or_from_its_maps(tmp_path):
    dataset = load("scenes:2:128:4")
    torch.manual_seed(0)
    going = Going(3).eval()
    plain = own_detector.Everywhere(3).eval()
    plain.load_state_dict(going.state_dict())
    with torch.no_grad():
        expected = plain(list(next(DetectionBatches(dataset.test).epoch()).images))
    for name, network in (("plain", plain), ("going", going)):
        cache = extract_detections(network, dataset, "test", tmp_path / name, batch_size=3)
        for one, theirs in zip(found_in(cache), expected, strict=True):
            assert one.labels.tolist() == theirs["labels"].tolist()
            np.testing.assert_allclose(one.scores, theirs["scores"], rtol=1e-5)
        assert cache.identity["strides"] == [8]
    student = made(NAMES[0])
    with pytest.raises(KDScopeError, match=r"has no method detections\(maps, batch, originals\) that gives boxes"):
        extract_patched(plain, plain, dataset, "test", tmp_path / "patched-plain")
    torch.manual_seed(1)
    other = Going(3).eval()
    patched = extract_patched(other, going, dataset, "test", tmp_path / "patched", by="levels")
    with torch.no_grad():
        shown = Frames(dataset.test, adapt(student), (64, 64)).batch(torch.arange(4)).frame
        theirs = [one["scores"] for one in going.boxes(other.body(shown.images))]
    np.testing.assert_allclose(np.asarray(patched.array("detections/8/scores"))[:, :1], np.stack(theirs), rtol=1e-5)


def test_a_student_alone_can_stand_beside_a_teacher(runs):
    with pytest.raises(KDScopeError, match="alone was trained alone; say which run it should stand beside"):
        kdscope.extract(runs["alone"], kind="pair")
    cache = kdscope.extract(runs["alone"], kind="pair", teacher=runs["teacher"])
    assert cache.path.name == "test-none-pair-teacher.kdcache"
    assert cache.identity["strides"] == [8, 16, 32]


def test_a_detector_beside_itself_has_no_error_and_the_same_rows(tmp_path):
    detector, dataset = made("fasterrcnn_resnet10_w8"), load("scenes:2:128:4")
    cache = extract_pair(detector, detector, dataset, "test", tmp_path / "cache", rows=40)
    assert cache.identity["heads"] == {"rpn": "sigmoid", "roi": "softmax"}
    assert cache.identity["coders"] == {"rpn": [1, 1, 1, 1], "roi": [10, 10, 5, 5]}
    assert all((np.asarray(cache.array(name)) == 0).all() for name in cache.names if name.startswith("error/"))
    for head in ("rpn", "roi"):
        ours, theirs = (np.asarray(cache.array(f"rows/{head}/{who}")) for who in ("student", "teacher"))
        assert (ours == theirs).all()
        labels = np.asarray(cache.array(f"rows/{head}/labels"))
        assert labels.shape == (4, 40)
        assert ((labels > 0).sum(1) > 0).all()
        order = np.where(labels > 0, 0, np.where(labels == 0, 1, 2))
        assert (np.diff(order, axis=1) >= 0).all()  # objects, background, nothing
        assert np.isfinite(np.asarray(cache.array(f"rows/{head}/targets"))).all()
    other = made("fasterrcnn_resnet10_w8", seed=1)
    ratio = extract_pair(detector, other, dataset, "test", tmp_path / "other", rows=40).logits
    assert (ratio > 0.1).all()


@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
@pytest.mark.parametrize("by", ["regions", "levels"])
def test_patched_maps_go_from_the_teachers_to_the_students(name, by, tmp_path):
    """Nothing replaced is the teacher; all replaced is the teacher's head on the student's maps."""
    student, teacher, dataset = made(name, seed=1), made(name), load("scenes:2:128:4")
    cache = extract_patched(student, teacher, dataset, "test", tmp_path / "cache", by=by, score=0.001)
    parts = cache.identity["parts"]
    assert parts == (["fg", "ring", "far"] if by == "regions" else [str(s) for s in adapt(teacher).strides.values()])
    assert len(cache.layers) == 2 ** len(parts)
    hybrid = made(name)
    hybrid.backbone.load_state_dict(student.backbone.state_dict())
    for which, network in (("none", teacher), ("+".join(parts), hybrid)):
        expected = detect(network, DetectionBatches(dataset.test, batch_size=4), score=0.001)[1]
        boxes, scores = (np.asarray(cache.array(f"detections/{which}/{key}")) for key in ("boxes", "scores"))
        for b, s, one in zip(boxes, scores, expected, strict=True):
            assert (s >= 0).sum() == len(one.scores) > 0
            np.testing.assert_allclose(s[: len(one.scores)], one.scores, atol=1e-5)
            np.testing.assert_allclose(b[: len(one.scores)], one.boxes, atol=1e-3)


def test_only_the_cells_of_the_set_are_replaced(tmp_path, monkeypatch):
    """What the head is given differs from the teacher's maps inside of boxes alone; the pooled level follows."""
    student, teacher, dataset = made(NAMES[0], seed=1), made(NAMES[0]), load("scenes:2:128:1")
    given = []
    head = type(teacher.head)
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda self, levels: given.append(levels) or forward(self, levels))
    extract_patched(student, teacher, dataset, "test", tmp_path / "cache")
    none, fg = given[8], given[9]  # the first eight are a look at the shapes
    both = subsets(("fg", "ring", "far"))
    assert (both[0], both[1]) == (frozenset(), frozenset({"fg"}))
    changed = (none[0] != fg[0]).any(1)[0]
    inside = torch.zeros(8, 8, dtype=torch.bool)
    for x1, y1, x2, y2 in (dataset.test[0].boxes / 16).tolist():  # shown at half the size, in cells of 8 pixels
        inside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    assert torch.equal(changed, inside)
    assert torch.equal(fg[3], torch.nn.functional.max_pool2d(fg[2], 1, 2))


def test_rows_that_do_not_fit_are_left_out_evenly():
    """Levels come one after another, so that the first rows with an object are those of the finest."""
    labels = torch.cat([torch.ones(60), torch.zeros(40), torch.full((40,), 2.0), torch.tensor([-1.0, 0])]).long()
    kept = chosen_rows(torch.cat([labels, labels]), [142, 142], 50)
    assert (kept[1] - 142 == kept[0]).all()
    assert torch.bincount(labels[kept[0]]).tolist() == [0, 30, 20]
    assert (kept[0].diff() > 0).all()
    all_of_them = chosen_rows(labels, [142], 150)[0]
    assert labels[all_of_them[:100]].min() == 1
    assert (labels[all_of_them[100:141]] == 0).all()
    assert (all_of_them[141:] == -1).all()


def test_what_is_under_a_crowd_is_never_replaced(tmp_path, monkeypatch):
    student, teacher, dataset = made(NAMES[0], seed=1), made(NAMES[0]), of_many_sizes()
    given = []
    head = type(teacher.head)
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda self, levels: given.append(levels) or forward(self, levels))
    cache = extract_patched(student, teacher, dataset, "test", tmp_path / "cache", batch_size=6)
    none, every = given[8], given[15]
    assert len(given) == 16
    changed = (none[0] != every[0]).any(1)
    sizes, (height, width) = cache.array("frame/size")[:], cache.identity["frame"]
    rows, columns = ((np.arange(n) + 0.5) * f / n for n, f in zip(changed.shape[1:], (height, width), strict=True))
    valid = (rows < sizes[:, 0, None])[:, :, None] & (columns < sizes[:, 1, None])[:, None, :]
    x1, y1, x2, y2 = np.array([4.0, 6, 30, 40]) * sizes[1, 0] / 48  # the crowd of the second image, of 48x80
    down = (rows + height / len(rows) / 2 > y1) & (rows - height / len(rows) / 2 < y2)
    across = (columns + width / len(columns) / 2 > x1) & (columns - width / len(columns) / 2 < x2)
    valid[1] &= ~(down[:, None] & across[None, :])
    assert (changed.numpy() == valid).all()


def test_rows_of_other_anchors_are_left_out(tmp_path):
    student, teacher = made("retinanet_resnet10_w8"), made("retinanet_resnet10_w8")
    teacher.anchor_generator.cell_anchors = [cell + 1 for cell in teacher.anchor_generator.cell_anchors]
    cache = extract_pair(student, teacher, load("scenes:2:128:2"), "test", tmp_path / "cache")
    assert cache.identity["heads"] == {}
    assert not [name for name in cache.names if name.startswith("rows/")]


def test_an_extraction_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    detector, dataset = made("fcos_resnet10_w8"), load("scenes:2:128:9")
    options = {"batch_size": 2, "shard_bytes": 1}
    whole = extract_detections(detector, dataset, "test", tmp_path / "whole", **options)
    batch, seen = Frames.batch, []

    def breaking(self, index, epoch=0):
        seen.append(index.tolist())
        if len(seen) == 4:  # the first is a look at the shapes
            raise KeyboardInterrupt
        return batch(self, index, epoch)

    monkeypatch.setattr(Frames, "batch", breaking)
    with pytest.raises(KeyboardInterrupt):
        extract_detections(detector, dataset, "test", tmp_path / "part", **options)
    with pytest.raises(KDScopeError, match="is not complete"):
        FeatureCache(tmp_path / "part.kdcache").index[:]
    part = extract_detections(detector, dataset, "test", tmp_path / "part", **options)
    assert len(seen) < 4 + 1 + 5
    assert part.key == whole.key
    for name in whole.names:
        assert np.array_equal(np.asarray(part.array(name)), np.asarray(whole.array(name)), equal_nan=True), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "maps"}, "unknown kind of cache of a detector 'maps'; nearest: "),
        ({"view": "weak"}, "a cache of a detector has no view to choose"),
        ({"layers": ["backbone"]}, "a cache of a detector has no layers to choose"),
        ({"split": "validation"}, "unknown split 'validation'"),
    ],
)
def test_what_cannot_be_chosen_is_said(runs, options, message):
    with pytest.raises(KDScopeError, match=message):
        kdscope.extract(runs["teacher"], **options)


def test_a_module_needs_data_and_a_place(tmp_path):
    cache = kdscope.extract(made("fcos_resnet10_w8"), data="scenes:2:128:2", out=tmp_path / "cache")
    assert len(cache) == 2
    with pytest.raises(KDScopeError, match="needs data and a place"):
        kdscope.extract(made("fcos_resnet10_w8"), data="scenes:2:128:2")
