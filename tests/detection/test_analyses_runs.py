"""The analyses of detectors on runs of a few steps: caches are made once, and the numbers are those of the run."""

import json

import numpy as np
import pytest
import torch

import kdscope
from kdscope.analyses.base import collect, run_analysis
from kdscope.analyses.detection_maps import Grid, attention_of, grid_of
from kdscope.detection.adapter import adapt
from kdscope.detection.evaluate import limited
from kdscope.detection.frames import Frames, frame_of, original_sizes
from kdscope.detection.measures.attention_boxes import against_boxes
from kdscope.detection.measures.attention_gap import attention_gap
from kdscope.detection.measures.feature_error import REGIONS
from kdscope.detection.stored import found_in, objects_in
from kdscope.detection.subjects import detection_cache, pair_cache, random_init_cache
from kdscope.errors import KDScopeError
from kdscope.run import Run

SIZE = {"min_size": 64}
PLAIN = {"definition": "kdscope"}
QUICK = {"data": "scenes:16:128:8", "batch_size": 4, "epochs": 4, "preflight": "off"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    student, large = ({"name": f"fcos_resnet10_w{width}", "options": SIZE} for width in (8, 16))
    teacher = kdscope.train(folder / "teacher", model=large, **QUICK | {"data": "scenes:24:128:8"})  # other images
    taught = kdscope.train(folder / "taught", model=student, teachers=[teacher], method="mimicry", **QUICK)
    alone = kdscope.train(folder / "alone", model=student, **QUICK)
    return teacher, taught, alone


@pytest.fixture(scope="module")
def subjects(runs):
    return collect([run.path for run in runs], "cpu")


def test_precision_is_that_of_the_summary(runs):
    table = run_analysis("detection", [run.path for run in runs[1:]], device="cpu").table
    whole = table[(table["pair"] == "truth") & (table["area"] == "all") & (table["class"] == "all")]
    for run in runs:
        own = whole[whole["b"] == run.name].set_index("measure")["value"]
        for measure in ("ap", "ap50", "ap75", "ar"):
            assert own[measure] == pytest.approx(run.summary[f"test_{measure}"], abs=1e-4)
        assert run.summary["test_ar"] > 0.01  # there is something to be compared


def test_caches_are_made_once_and_detections_lie_beside_the_run(runs, subjects, monkeypatch):
    cache = detection_cache(subjects[1], "test")
    records = json.loads((runs[1].path / "detections" / "test.json").read_text())
    assert len(records) == sum(len(some.scores) for some in found_in(cache))
    pair_cache(subjects[1], subjects[1].teachers[0], "test")
    monkeypatch.setattr(Run, "model", lambda run, trained=True: pytest.fail("a network was loaded"))
    again = collect([run.path for run in runs], "cpu")
    assert detection_cache(again[1], "test").key == cache.key
    assert pair_cache(again[1], again[1].teachers[0], "test").kind == "pair"


def test_objects_are_those_of_the_data(runs, subjects):
    known, there = runs[1].dataset().test.objects, objects_in(detection_cache(subjects[1], "test"))
    for name in ("offsets", "boxes", "labels", "crowd", "area"):
        assert torch.equal(getattr(there, name), getattr(known, name))


def test_a_detector_beside_itself_has_no_error(subjects):
    cache = pair_cache(subjects[0], subjects[0], "test")
    for stride in cache.identity["strides"]:
        assert not cache.array(f"error/{stride}")[:].any()
    assert np.array_equal(cache.array("rows/dense/student")[:], cache.array("rows/dense/teacher")[:])


@pytest.mark.parametrize("by", ["regions", "levels"])
def test_nothing_patched_in_is_the_teacher_and_everything_its_head_on_the_students_maps(runs, subjects, by):
    teacher, student = subjects[1].teachers[0], subjects[1]
    cache = pair_cache(student, teacher, "test", f"patched-{by}")
    own = found_in(detection_cache(teacher, "test"))
    compare(found_in(cache, "detections/none"), own)

    networks = {role: adapt(run.model()) for role, run in zip(("teacher", "student"), runs[:2], strict=True)}
    split = runs[0].dataset().test
    frame = frame_of(networks["student"].detector.transform, split.sizes)
    batch = Frames(split, networks["student"], frame).batch(torch.arange(len(split)))
    with torch.inference_mode(), limited(networks["teacher"].detector):
        maps = networks["student"].features(batch.frame)
        found = networks["teacher"].detections(maps, batch.frame, original_sizes(batch))
    expected = [{key: value[one["labels"] > 0].numpy() for key, value in one.items()} for one in found]
    everything = found_in(cache, f"detections/{'+'.join(cache.identity['parts'])}")
    for some, known in zip(everything, expected, strict=True):
        np.testing.assert_allclose(some.scores, known["scores"], atol=1e-5)
    assert not np.allclose(everything[0].scores, own[0].scores, atol=1e-3)


def compare(some: list, others: list) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert one.labels.tolist() == other.labels.tolist()


def test_every_region_is_reported_beside_the_student_alone(runs):
    table = run_analysis("detection-attention", [run.path for run in runs[1:]], device="cpu", **PLAIN).table
    shares = table[(table["measure"] == "error-share") & (table["layer"] == "stride 8")]
    for pair in ("teacher-student", "floor:independent-student"):
        own = shares[shares["pair"] == pair].set_index("region")["value"]
        assert set(own.index) == set(REGIONS)
        assert own.sum() == pytest.approx(1)


def test_an_untrained_network_is_a_floor_that_is_kept_beside_the_run(runs, subjects, monkeypatch):
    taught = subjects[1]
    cache = random_init_cache(taught, "test")
    assert cache.identity["model"] == "fcos_resnet10_w8 (random init)"
    assert (cache.path.parent, cache.path.name) == (taught.folder, "random-init-test-none.kdcache")
    own = detection_cache(taught, "test")
    assert cache.identity["weights"] not in (own.identity["weights"], taught.weights)
    monkeypatch.setattr("kdscope.detection.extract.extract_detections", lambda *more, **given: pytest.fail("made anew"))
    assert random_init_cache(collect([runs[1].path], "cpu")[0], "test").key == cache.key  # one seed, one network

    table = run_analysis("detection-attention", [run.path for run in runs[1:]], device="cpu", **PLAIN).table
    rows = table[(table["pair"] == "floor:random-init") & (table["area"] == "all") & (table["layer"] == "stride 8")]
    grid = grid_of(cache, 8)
    known, theirs = (attention_of(each, 8, grid) for each in (cache, detection_cache(subjects[0], "test")))
    expected = {"auroc": against_boxes(known, *grid.objects("all")).auroc}
    expected["attention-overlap"] = attention_gap(theirs, known, *grid.objects("all")).iou
    for measure, values in expected.items():
        (value,) = rows.loc[rows["measure"] == measure, "value"]
        assert value == pytest.approx(np.nanmean(values))
    without = run_analysis("detection-attention", [runs[1].path], device="cpu", untrained=False).table
    assert "floor:random-init" not in set(without["pair"])
    framed = table[(table["pair"] == "teacher-student") & (table["measure"] == "attention-overlap")]
    (alone,) = set(framed["control"])
    assert alone.startswith("floor: independent student (")


def test_of_many_images_an_untrained_network_sees_some(runs, monkeypatch):
    some = torch.tensor([1, 4, 6])
    monkeypatch.setattr("kdscope.detection.subjects.some_images", lambda count: some)
    taught = collect([runs[1].path], "cpu")[0]
    cache = random_init_cache(taught, "test")
    assert cache.path.name == "random-init-test-none-500-images.kdcache"
    assert cache.index.tolist() == some.tolist()
    table = run_analysis("detection-attention", [runs[1].path], device="cpu", definition="image-size").table
    rows = table[(table["pair"] == "floor:random-init") & (table["area"] == "all") & (table["measure"] == "lift")]
    assert len(rows) > 0
    assert set(rows["n"] + rows["excluded"]) == {8}
    grid = Grid(grid_of(detection_cache(taught, "test"), 8).region[some])
    own = against_boxes(attention_of(cache, 8, grid), *grid.objects("all")).lift
    row = rows[(rows["layer"] == "stride 8") & (rows["definition"] == "kdscope")].iloc[0]
    assert (row.value, row.n) == (pytest.approx(np.nanmean(own)), np.count_nonzero(~np.isnan(own)))


def test_a_lone_detector_stands_beside_its_own_architecture_before_training(runs):
    table = run_analysis("detection-attention", [runs[0].path], device="cpu", **PLAIN).table
    rows = table[(table["measure"] == "auroc") & (table["area"] == "all") & (table["layer"] == "stride 8")]
    assert rows["pair"].tolist() == ["truth", "floor:random-init", "floor:shuffled"]
    assert rows["b"].tolist() == ["teacher", "fcos_resnet10_w16 (random init)", "teacher (shuffled images)"]
    own, untrained, _ = rows.itertuples()
    assert (own.floor, own.control) == (untrained.value, "floor: random init")
    assert own.gain == pytest.approx(own.value - untrained.value)
    assert np.isnan(untrained.floor)


def test_an_untrained_network_answers_to_the_rows_of_its_teacher(runs, subjects, monkeypatch):
    taught, teacher = subjects[1], subjects[1].teachers[0]
    own, begun = (pair_cache(taught, teacher, "test", untrained=untrained) for untrained in (False, True))
    assert begun.path.name.startswith("random-init-test-none-pair")
    assert begun.identity["model"] == "fcos_resnet10_w8 (random init)"
    assert begun.identity["weights"] == random_init_cache(taught, "test").identity["weights"]
    for name in ("labels", "teacher", "targets"):  # the same rows, and the same teacher
        assert np.array_equal(begun.array(f"rows/dense/{name}")[:], own.array(f"rows/dense/{name}")[:])
    assert not np.allclose(begun.array("rows/dense/student")[:], own.array("rows/dense/student")[:])
    monkeypatch.setattr("kdscope.detection.pair.extract_pair", lambda *more, **given: pytest.fail("made anew"))
    assert pair_cache(taught, teacher, "test", untrained=True).key == begun.key


def test_fitted_features_are_kept_beside_those_as_they_are(runs, subjects, monkeypatch):
    taught, teacher = subjects[1], subjects[1].teachers[0]
    for kind in ("pair", "patched-regions"):
        plain, fitted = (pair_cache(taught, teacher, "test", kind, fitted=fitted) for fitted in (False, True))
        assert fitted.path.name == f"fitted-test-none-{kind}.kdcache"
        assert fitted.key != plain.key
        assert fitted.identity["adapters"].startswith("ridge 0.0001 on 16 images of ")
    table = run_analysis("detection-attention", [run.path for run in runs[1:]], device="cpu").table
    assert list(dict.fromkeys(table["definition"])) == ["kdscope", "normalised", "fitted"]
    rows = table[(table["measure"] == "normalised-error") & (table["layer"] == "stride 8") & (table["region"] == "far")]
    value = rows.set_index(["definition", "pair"])["value"]
    cache = pair_cache(taught, teacher, "test", fitted=True)
    far = grid_of(detection_cache(taught, "test"), 8).region == REGIONS.index("far")
    error, energy = (np.where(far, cache.array(f"{name}/8")[:], 0).sum((1, 2)) for name in ("error", "energy"))
    assert value["fitted", "teacher-student"] == pytest.approx((error / energy).mean(), rel=1e-5)
    # Like with like: the floor of a fitted error is the fitted one of the student alone.
    own = rows[rows["pair"] == "teacher-student"].set_index("definition")
    for definition in ("kdscope", "fitted"):
        floor = value[definition, "floor:independent-student"]
        assert own.loc[definition, "floor"] == pytest.approx(floor)
        assert own.loc[definition, "gain"] == pytest.approx(floor - own.loc[definition, "value"])
    assert (table["definition"] == "fitted").sum() == table["measure"].str.contains("error|level").sum() / 2
    assert value["fitted", "floor:independent-student"] < value["kdscope", "floor:independent-student"]
    monkeypatch.setattr(Run, "model", lambda run, trained=True: pytest.fail("a network was loaded"))
    again = collect([run.path for run in runs], "cpu")[1]
    assert pair_cache(again, again.teachers[0], "test", fitted=True).key == cache.key


def test_patch_in_has_a_floor_by_the_same_f(runs):
    table = run_analysis("detection-patch-in", [run.path for run in runs[1:]], device="cpu", by="regions").table
    whole = table[(table["measure"] == "ap-lost") & (table["part"] == "all")]
    assert list(dict.fromkeys(whole["definition"])) == ["kdscope", "fitted"]
    for _, own in whole.groupby("definition"):
        by = own.set_index("pair")
        assert by.loc["teacher-student", "floor"] == pytest.approx(by.loc["floor:independent-student", "value"])
    with pytest.raises(KDScopeError, match="unknown definition 'linear'"):
        run_analysis("detection-patch-in", [runs[1].path], device="cpu", definition="linear")


def test_classifiers_are_refused(tmp_path):
    run = kdscope.train(tmp_path / "digits", data="digits", model="resnet8", epochs=1, device="cpu")
    with pytest.raises(KDScopeError, match="digits classifies images of 'digits'; this analysis is of detectors"):
        run_analysis("detection", [run.path], device="cpu")
