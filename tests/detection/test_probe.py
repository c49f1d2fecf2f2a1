"""Probes of a detector: what they hold, and that a training leaves no trace of them."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kdscope
from kdscope import api
from kdscope.analyses.base import run_analysis
from kdscope.detection.evaluate import scored
from kdscope.detection.extract import extract_detections
from kdscope.detection.matching import match
from kdscope.detection.measures.agreement import best_score, detection_agreement
from kdscope.detection.pair import PairProducer, extract_pair
from kdscope.detection.stored import found_in, objects_in
from kdscope.detection.task import Detection
from kdscope.detection.trained_adapters import adapters_in, adapters_of, hash_of
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.models import weights_hash
from kdscope.run import Run
from kdscope.sources import of_run
from kdscope.training.probe import probe_path

SIZE = {"min_size": 64}
QUICK = {"data": "scenes:16:128:8", "batch_size": 4, "epochs": 4, "preflight": "off"}
STUDENTS = {
    # All pyramids of the small detectors are of one width; an adapter that is always there is trained by hints.
    "one-stage": QUICK | {"model": {"name": "fcos_resnet10_w8", "options": SIZE}, "terms": {"hint": {"weight": 1.0}}},
    # Which samples rows by chance, while it trains and while it is looked at.
    "two-stage": QUICK | {"model": {"name": "fasterrcnn_resnet10_w8", "options": SIZE}, "method": "chen2017"},
}
PROBED = {"probe_every": 2, "probe_size": 5}
EPOCHS = [0, 2, 4]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    place = tmp_path_factory.mktemp("teachers")
    names = {"one-stage": "fcos_resnet10_w16", "two-stage": "fasterrcnn_resnet10_w16"}
    return {
        kind: kdscope.train(place / f"teacher-{kind}", **QUICK, model={"name": name, "options": SIZE})
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
            assert subject.probe_epochs(split, name) == EPOCHS
            caches = [subject.probe(epoch, split, name) for epoch in EPOCHS]
            assert [cache.index.tolist() for cache in caches] == [index] * 3
            assert len({cache.identity["weights"] for cache in caches}) == 3
    assert {subject.probe(2, "test", kind).kind for kind in ("features", "pair")} == {"detection", "pair"}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_run_that_is_stopped_again_and_again_leaves_the_same_probes(kind, probed, teachers, tmp_path, with_stops):
    options = STUDENTS[kind] | PROBED | {"teachers": [teachers[kind]]}
    run, stops = with_stops(lambda place: kdscope.train(place, **options), tmp_path / "run", 5)
    assert stops == 3
    assert run.summary["weights_hash"] == probed[kind].summary["weights_hash"]
    assert equal(contents(run), contents(probed[kind]))


@pytest.mark.parametrize("left", ["half", "other"])
def test_a_probe_that_a_killed_run_left_is_gone_on_with_or_begun_again(left, probed, teachers, tmp_path, monkeypatch):
    """Killed while a pair is written; and then one of other weights lies in the place of the cache."""
    options = STUDENTS["one-stage"] | PROBED | {"teachers": [teachers["one-stage"]]}
    made = PairProducer.__call__

    def breaking(self, batch):
        if len(list((tmp_path / "run" / "features").glob("probe-*.kdcache"))) == 8:  # the fourth pair is under way
            raise KeyboardInterrupt
        return made(self, batch)

    monkeypatch.setattr(PairProducer, "__call__", breaking)
    with pytest.raises(KeyboardInterrupt):
        kdscope.train(tmp_path / "run", **options)
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    if left == "other":
        for kind in ("features", "pair"):
            there, first = (probe_path(run, epoch, "train", kind) for epoch in (2, 0))
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(first, there)
    assert equal(contents(api.resume(run.path)), contents(probed["one-stage"]))


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_probe_draws_nothing_and_leaves_the_networks_as_they_were(kind, probed, tmp_path):
    run = probed[kind]
    student, teacher, dataset = run.model().train(), run.teachers()[0], run.dataset()
    before, state = weights_hash(student), torch.get_rng_state()
    options = {"adapters": adapters_of(run), "limit": torch.tensor([0, 1, 2, 3, 4])}
    whole = extract_pair(student, teacher, dataset, "test", tmp_path / "whole", **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(student) == before
    assert student.training
    lone = extract_pair(student, teacher, dataset, "test", tmp_path / "lone", batch_size=1, **options)
    for head in whole.identity["heads"]:
        # The very same rows, whatever stands beside an image in its batch: not only rows that are alike.
        assert np.array_equal(*(np.asarray(cache.array(f"rows/{head}/labels")) for cache in (whole, lone)))
        targets = [np.asarray(cache.array(f"rows/{head}/targets")) for cache in (whole, lone)]
        np.testing.assert_allclose(*targets, atol=1e-4)


def test_the_frame_is_a_part_of_the_key(probed, tmp_path):
    run = probed["one-stage"]
    network, teacher, dataset = run.model(), run.teachers()[0], run.dataset()
    cache = extract_pair(network, teacher, dataset, "test", tmp_path / "cache", adapters=adapters_of(run))
    assert cache.identity["frame"] == [64, 64]
    network.transform.min_size = (96,)
    with pytest.raises(KDScopeError, match=r"frame is \[64, 64\] there and \[96, 96\] here"):
        extract_pair(network, teacher, dataset, "test", tmp_path / "cache", adapters=adapters_of(run))


def test_the_adapters_are_those_of_the_epoch_that_validation_chose(teachers, tmp_path, monkeypatch):
    """The second of three; a training that ends with the second has these adapters at its end."""
    options = STUDENTS["one-stage"] | {
        "teachers": [teachers["one-stage"]],
        "optim": {"schedule": "constant", "warmup": 0.0},
    }
    until = kdscope.train(tmp_path / "until", **options | {"epochs": 2, "validation": 0.25})
    scores = iter([0.1, 0.3, 0.2])

    def evaluate(self, fabric, network, batches):
        ap = next(scores) if batches.split.name == "validation" else 0.0
        return {"ap": ap, "ap50": 0.0, "ap75": 0.0, "ar": 0.0}

    monkeypatch.setattr(Detection, "evaluate", evaluate)
    run = kdscope.train(tmp_path / "run", **options | {"epochs": 3, "validation": 0.25, "eval_every": 1})
    assert (run.summary["epoch"], run.summary["rule"]) == (2, "best on validation")
    last = load_file(run.path / "checkpoints" / "last.safetensors")
    assert hash_of(adapters_of(run)) == hash_of(adapters_of(until)) != hash_of(adapters_in(last))
    assert weights_hash(run.model()) == weights_hash(until.model())
    assert kdscope.extract(run, kind="pair").identity["adapters"] == hash_of(adapters_of(until))
    (run.path / "checkpoints" / "best-adapters.safetensors").unlink()  # as earlier versions left it
    with pytest.raises(KDScopeError, match="kept the weights of epoch 2, which validation chose, and not the adapters"):
        adapters_of(run)


def test_what_cannot_be_probed_is_said_before_anything_is_written(teachers, tmp_path):
    options = STUDENTS["one-stage"] | {"teachers": [teachers["one-stage"]]}
    for wrong, message in (
        ({"probe": "cka"}, "probe 'cka' is for classifiers; of a detector caches are kept: --probe cache"),
        ({"probe": "cache+cka"}, r"probe 'cache\+cka' is for classifiers"),
        ({"probe_every": 1, "probe_maps": ["maps", "causal"]}, r"probe_maps \(maps, causal\) are for classifiers"),
    ):
        with pytest.raises(KDScopeError, match=message):
            kdscope.train(tmp_path / "run", **options | wrong)
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_teacher_that_cannot_stand_beside_the_student_stops_no_training(tmp_path, caplog):
    """Its maps are of other widths, and no term trains adapters: what the student finds is kept all the same."""
    teacher = kdscope.train(tmp_path / "teacher", **QUICK | {"epochs": 1}, model="own_detector:teacher")
    model = {"name": "fcos_resnet10_w8", "options": SIZE}
    options = QUICK | PROBED | {"epochs": 1, "model": model, "teachers": [teacher], "method": "none"}
    with caplog.at_level("INFO", "kdscope"):
        run = kdscope.train(tmp_path / "run", **options)
    said = [line for line in caplog.messages if line.startswith("probes of run are of the student alone: no map of")]
    assert len(said) == 1
    assert [len(of_run(run).probe_epochs("test", kind)) for kind in ("features", "pair")] == [2, 0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "alone"
    return kdscope.train(out, **STUDENTS["one-stage"] | {"terms": {}}, **PROBED)


@pytest.fixture(scope="module")
def table(probed, alone):
    return run_analysis("detection", [probed["one-stage"].path, alone.path], device="cpu", splits="train,test").table


def one(table, **where):
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, f"{len(table)} rows"
    return table.iloc[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_last_epoch_is_the_trained_student_on_those_images(split, table, probed, tmp_path):
    """Each number from what is extracted from the saved run, on the images of the probe, by the measures themselves."""
    run = probed["one-stage"]
    network, teacher, dataset = run.model(), run.teachers()[0], run.dataset()
    limit = torch.from_numpy(of_run(run).probe(EPOCHS[-1], split).index[:])
    found = {
        name: extract_detections(detector, dataset, split, tmp_path / name, limit=limit)
        for name, detector in (("student", network), ("teacher", teacher))
    }
    rows = table[(table["split"] == split) & (table["epoch"] == EPOCHS[-1])]
    whole = rows[(rows["pair"] == "truth") & (rows["b"] == run.name)]
    scores = {name: scored(found_in(cache), dataset.split(split), 3, limit) for name, cache in found.items()}
    for measure in ("ap", "ap50"):
        row = one(whole, measure=measure)
        assert row.value == pytest.approx(scores["student"][measure], abs=1e-6)
        assert row.ceiling == pytest.approx(scores["teacher"][measure], abs=1e-6)
        assert (row.area, row["class"], row.n) == ("all", "all", 5)
    assert scores["student"]["ap"] > 0.01  # there is something to be compared

    cut = []
    for cache in (found["teacher"], found["student"]):
        some = found_in(cache)
        matches = match(some, objects_in(cache), (0.5,), 100)
        counts = matches.right[0] | matches.wrong[0]
        least = best_score(matches.scores[counts], matches.right[0, counts], int(matches.counted.sum()))
        cut.append([each.above(least) for each in some])
    own = rows[(rows["pair"] == "teacher-student") & (rows["b"] == run.name)]
    assert one(own, measure="agree-f1").value == pytest.approx(np.mean(detection_agreement(*cut).f1))

    pair = extract_pair(network, teacher, dataset, split, tmp_path / "pair", adapters=adapters_of(run), limit=limit)
    labels, ours, theirs, mine, others, targets = (
        np.asarray(pair.array(f"rows/dense/{name}"))
        for name in ("labels", "student", "teacher", "student_deltas", "teacher_deltas", "targets")
    )
    worse, same = [], []
    for k in range(5):
        there = labels[k] > 0
        if not there.any():  # an image without objects does not count
            continue
        size = np.tile(targets[k][there][:, :2] + targets[k][there][:, 2:], 2)  # of the box that FCOS's distances span
        far = [np.square((deltas[k][there] - targets[k][there]) / size).sum(1) for deltas in (mine, others)]
        worse.append((far[0] > far[1]).mean())
        answers = [np.where(z[k][there].max(1) > 0, z[k][there].argmax(1), -1) for z in (ours, theirs)]
        same.append((answers[0] == answers[1]).mean())
    assert one(own, measure="worse-boxes").value == pytest.approx(np.mean(worse))
    assert one(own, measure="row-agreement", part="foreground").value == pytest.approx(np.mean(same))
    assert 0 < np.mean(worse) < 1


def test_every_epoch_has_its_rows_beside_the_student_alone(table, probed, alone):
    name = probed["one-stage"].name
    known = table[table["epoch"].notna()]
    for (split, epoch), rows in known.groupby(["split", "epoch"]):
        of_alone = one(rows, measure="ap", b=alone.name)
        of_student = one(rows, measure="ap", b=name)
        assert of_student.floor == of_alone.value, (split, epoch)
        assert of_student.gain == pytest.approx(of_student.value - of_alone.value)
        agreement = rows[rows["measure"] == "agree-f1"].set_index("b")
        assert agreement.loc[name, "floor"] == agreement.loc[alone.name, "value"]
        assert set(rows.loc[rows["head"] == "dense", "measure"]) == {"row-agreement", "row-kl", "worse-boxes"}
    assert sorted(known["epoch"].unique()) == EPOCHS
    assert one(table, split="test", measure="ap", b=name, area="all", epoch=4, **{"class": "all"}).n == 5
    final = table[table["epoch"].isna() & (table["b"] == name) & (table["measure"] == "ap50")]
    assert final.loc[final["area"] == "all", "n"].tolist() == [16, 8]  # not of the probe
