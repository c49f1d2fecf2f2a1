"""A detector is trained by the same engine: what it writes, what it leaves alone, and that it resumes bit for bit."""

import sys

import pytest
import torch
from safetensors.torch import load_file

import kdscope
from kdscope import api
from kdscope.config import TeacherSettings
from kdscope.detection import models
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.evaluate import detect, scored
from kdscope.detection.methods.presets import DETECTION_METHODS
from kdscope.detection.task import Detection, HeldOut
from kdscope.errors import KDScopeError
from kdscope.models import weights_hash
from kdscope.run import Run
from kdscope.training.loop import checked
from kdscope.training.prepare import written_out
from kdscope.training.stop import Interrupted, StopSignal

SIZE = {"min_size": 64}  # of the images of 128 pixels, so that a step takes a hundredth of a second
QUICK = {"data": "scenes:16:128:8", "batch_size": 8, "epochs": 2, "preflight": "off"}  # whose teachers find nothing yet
STUDENT = QUICK | {"model": {"name": "fcos_resnet10_w8", "options": SIZE}}
TWO_STAGE = QUICK | {"model": {"name": "fasterrcnn_resnet10_w8", "options": SIZE}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    model = {"name": "fcos_resnet10_w16", "options": SIZE}
    return kdscope.train(tmp_path_factory.mktemp("runs") / "teacher", **STUDENT | {"model": model})


@pytest.fixture(scope="module")
def boxes_teacher(tmp_path_factory):
    model = {"name": "fasterrcnn_resnet10_w16", "options": SIZE}
    return kdscope.train(tmp_path_factory.mktemp("runs") / "boxes", **TWO_STAGE | {"model": model})


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, teacher):
    out = tmp_path_factory.mktemp("runs") / "distilled"
    return kdscope.train(out, teachers=[teacher], method="fgd-normalised+kd", eval_every=1, validation=0.25, **STUDENT)


def same(a: Run, b: Run) -> bool:
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics] for run in (a, b)]
    return timeless[0] == timeless[1] and a.summary["weights_hash"] == b.summary["weights_hash"]


def test_a_row_adds_up_and_the_shares_of_its_parts_are_one(distilled):
    row = distilled.metrics[-1]
    parts = [key for key in row if f"{key}_share" in row]
    assert parts[:3] == [f"detection.{p}" for p in ("classification", "bbox_regression", "bbox_ctrness")]
    assert {"fgd.foreground", "fgd.background", "fgd.attention", "fgd.global", "kd.dense"} <= set(parts)
    weights = {name: term["weight"] for name, term in distilled.config.terms.items()}
    total = sum(weights[part.split(".")[0]] * row[part] for part in parts)
    assert row["loss"] == pytest.approx(total, rel=1e-5)
    for part in parts:
        assert row[f"{part}_share"] == pytest.approx(weights[part.split(".")[0]] * row[part] / total, rel=1e-5)
    assert sum(row[f"{part}_share"] for part in parts) == pytest.approx(1)


def test_the_summary_is_of_the_epoch_that_the_held_out_part_chose(distilled):
    scores = [row["validation_ap"] for row in distilled.metrics]
    best = scores.index(max(scores)) + 1
    summary = distilled.summary
    assert (summary["epoch"], summary["rule"]) == (best, "best on validation")
    assert all(summary[key] == distilled.metrics[best - 1][key] for key in ("test_ap", "test_ap50", "test_ar", "loss"))
    assert (len(distilled.dataset().train), len(distilled.dataset().validation)) == (12, 4)


def test_a_score_that_is_no_number_is_never_the_best(tmp_path, monkeypatch):
    values = iter((float("nan"), 0.2, 0.1, float("nan"), 0.3, 0.4))

    def evaluate(self, fabric, network, batches):
        numbers = dict.fromkeys(("ap50", "ap75", "ar"), 0.0)
        return numbers | {"ap": next(values) if batches.split.name == "validation" else 0.5}

    monkeypatch.setattr(Detection, "evaluate", evaluate)
    options = STUDENT | {"data": "scenes:8:128:1", "batch_size": 4, "epochs": 4, "eval_every": 1, "validation": 0.5}
    summary = kdscope.train(tmp_path / "run", **options).summary
    assert (summary["epoch"], summary["rule"]) == (2, "best on validation")


def test_what_is_saved_is_a_plain_detector(distilled):
    plain = models.build("fcos_resnet10_w8", 3, **SIZE)
    state = load_file(distilled.weights)
    assert plain.load_state_dict(state, strict=True).missing_keys == []
    assert weights_hash(plain) == distilled.summary["weights_hash"] == weights_hash(distilled.model())
    assert weights_hash(distilled.teachers()[0]) == distilled.config.teachers[0].weights_hash


def test_the_score_is_that_of_the_saved_weights(distilled):
    dataset = distilled.dataset()
    index, found = detect(distilled.model(), HeldOut(dataset, dataset.test, batch_size=3))
    assert index.tolist() == list(range(8))
    assert scored(found, dataset.test, 3)["ap"] == pytest.approx(distilled.summary["test_ap"], abs=1e-6)


def test_held_out_parts_are_scored_when_asked_and_at_the_end(tmp_path, teacher):
    run = kdscope.train(tmp_path / "run", **STUDENT | {"epochs": 5}, eval_every=2)
    assert [row["epoch"] for row in run.metrics if "test_ap" in row] == [2, 4, 5]
    assert [row["epoch"] for row in teacher.metrics if "test_ap" in row] == [2]
    header, *lines = (run.path / "metrics.csv").read_text().splitlines()
    assert {line.count(",") for line in lines} == {header.count(",")}


@pytest.mark.parametrize("method", ["fgd-normalised", "kd"])
def test_the_teacher_is_not_touched_and_proposes_nothing(method, boxes_teacher):
    config = api.settings(teachers=[boxes_teacher], method=method, **TWO_STAGE)
    network = boxes_teacher.model()
    before = weights_hash(network)

    def never(*args):
        raise AssertionError("the teacher's own proposals")

    network.rpn.filter_proposals = network.roi_heads.postprocess_detections = never
    _, dataset, learner = checked(config, "unused", [network])
    batches = DetectionBatches(dataset.train, batch_size=8, shuffle=True)
    for batch in batches.epoch():
        learner.observe(batch)
    learner.train()
    for batch in batches.epoch():
        values, _ = learner(*learner.arguments(batch))
        values.sum().backward()
    assert not network.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert weights_hash(network) == before
    assert not any("teacher" in name and "relations" not in name for name, _ in learner.named_parameters())
    assert all(parameter.grad is not None for parameter in learner.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("kind", ["one-stage", "two-stage"])
def test_a_run_that_is_stopped_again_and_again_ends_bit_identical(kind, request, tmp_path, with_stops):
    options, source, method = {
        "one-stage": (STUDENT, "teacher", "fgd-normalised+kd"),
        "two-stage": (TWO_STAGE, "boxes_teacher", "chen2017"),  # which samples rows by chance
    }[kind]
    options = options | {"teachers": [request.getfixturevalue(source)], "method": method, "eval_every": 1}
    whole = kdscope.train(tmp_path / "whole", **options)
    run, stops = with_stops(lambda place: kdscope.train(place, **options), tmp_path / "run", 3)
    assert stops == 1
    assert same(run, whole)


def test_a_begun_run_needs_no_start_weights(tmp_path, teacher, monkeypatch):
    start = tmp_path / "start.safetensors"
    start.write_bytes(teacher.weights.read_bytes())
    model = {"name": "fcos_resnet10_w16", "options": SIZE, "checkpoint": str(start)}
    options = STUDENT | {"model": model, "optim": {"lr": 1e-9}}
    whole = kdscope.train(tmp_path / "whole", **options)
    moved = [(a - b).abs().max() for a, b in zip(whole.model().parameters(), teacher.model().parameters(), strict=True)]
    assert max(moved) < 1e-6
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: step == 3)
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "run", **options)
    monkeypatch.undo()
    start.unlink()
    assert same(api.resume(tmp_path / "run"), whole)


def test_a_pretrained_run_is_built_alike_when_it_is_resumed_and_read_again(tmp_path, monkeypatch):
    """Torchvision freezes batch norms and layers of a network with published weights, which are fetched once."""
    from torchvision.models import WeightsEnum, resnet18

    torch.manual_seed(3)
    published, fetched = resnet18().state_dict(), []
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: fetched.append(self.name) or published)
    model = {"name": "fcos_resnet18", "options": SIZE, "pretrained": True}
    options = STUDENT | {"data": "scenes:4:128:1", "model": model, "batch_size": 2, "epochs": 1}
    whole = kdscope.train(tmp_path / "whole", **options)
    first = "backbone.body.layer1.0.conv1.weight"  # which is frozen
    assert torch.equal(whole.model().state_dict()[first], published[first.removeprefix("backbone.body.")])
    assert weights_hash(whole.model()) == whole.summary["weights_hash"]
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: step == 1)
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "run", **options)
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: False)
    assert same(api.resume(tmp_path / "run"), whole)
    assert fetched == ["IMAGENET1K_V1"] * 2


def test_config_alone_repeats_the_run_and_detectors_have_defaults_of_their_own(teacher, tmp_path):
    config = teacher.config
    assert (config.optim.name, config.optim.lr, config.optim.clip_norm) == ("adamw", 2e-3, 35.0)
    assert (config.eval_every, config.chain) == (0, "none")
    again = kdscope.train(tmp_path / "again", config=teacher.path / "config.yaml")
    assert same(again, teacher)
    plain = api.settings(data="scenes", optim={"name": "sgd"}).optim
    assert (plain.lr, plain.clip_norm) == (0.1, 35.0)
    assert api.settings(data="scenes:100").data.batch_size == 8
    assert api.settings(data="digits").data.batch_size == 128


SSD = QUICK | {"data": "scenes:5:128:1", "model": "torchvision:ssdlite320_mobilenet_v3_large", "epochs": 1}


def test_a_last_batch_of_one_image_is_left_out_where_a_batch_norm_would_see_one_value(tmp_path):
    run = kdscope.train(tmp_path / "run", **SSD | {"batch_size": 4})
    assert run.summary["epoch"] == 1
    with pytest.raises(KDScopeError, match="needs at least 2 images in a batch, for its last maps have one cell, and"):
        kdscope.train(tmp_path / "one", **SSD | {"batch_size": 1})


def test_maps_of_ssdlite_are_not_those_of_a_pyramid(tmp_path, teacher):
    with pytest.raises(KDScopeError, match="the student has no map of stride 8, only 16, 32, 64, 128, 256, 512"):
        kdscope.train(tmp_path / "run", **SSD | {"batch_size": 4}, teachers=[teacher], method="fgd")
    assert not (tmp_path / "run").exists()


def test_training_finds_objects(tmp_path):
    """Eight scenes by heart."""
    options = STUDENT | {"data": "scenes:8:128:8", "augment": "none", "epochs": 20, "batch_size": 4}
    run = kdscope.train(tmp_path / "run", **options)
    assert run.metrics[-1]["loss"] < 0.7 * run.metrics[0]["loss"]
    dataset = run.dataset()
    found = detect(run.model(), HeldOut(dataset, dataset.train, batch_size=8))[1]
    assert scored(found, dataset.train, 3)["ap50"] > 0.4


def test_a_users_own_detector_is_trained_and_scored(tmp_path, teacher):
    options = QUICK | {"model": "own_detector:student", "teachers": [teacher], "method": "mimicry"}
    run = kdscope.train(tmp_path / "run", **options, terms={"mimicry": {"strides": [8]}}, probe_every=2, probe_size=4)
    assert len(list((run.path / "features").glob("probe-epoch-0002-*.kdcache"))) == 4  # itself and beside its teacher
    assert {"detection.first", "mimicry", "test_ap"} <= run.metrics[-1].keys()
    assert [key for key in load_file(run.weights) if not key.startswith(("body", "head"))] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peers": ["fcos_resnet10_w8"]}, "peers are for classifiers"),
        ({"generations": 2}, "chains of trainings are for classifiers"),
        ({"probe_maps": ["maps"]}, r"probe_maps \(maps\) are for classifiers"),
        ({"augment": "strong"}, "unknown augmentation 'strong' in detection; nearest: none, standard"),
        ({"download": True}, "has its folder in its name; leave out root and download"),
        ({"data.sampler": "class:4"}, "sampler 'class:4' draws by class"),
        ({"method": "fgdd"}, "unknown detection method 'fgdd'; nearest: fgd"),
        ({"method": "fgd"}, "term 'fgd' needs a teacher"),
        ({"model": "resnet20"}, "unknown detector 'resnet20'"),
        ({"compile": True}, "--compile is for classifiers"),
        ({"gradients": "fgd"}, "unknown"),
        ({"ensemble": "mean-loss"}, "a detector has one teacher at most; leave out ensemble"),
        ({"teachers": [TeacherSettings(model="timm:any", weight=2.0)], "method": "at"}, "and the weight of a teacher"),
        (
            {"model": {"name": "fcos_resnet10_w8", "checkpoint_share": 0.5}},
            "checkpoint_share is for classifiers; a detector starts from all of a checkpoint",
        ),
    ],
)
def test_what_a_detector_has_not_is_said_in_one_line(tmp_path, options, message):
    with pytest.raises(KDScopeError, match=message):
        kdscope.train(tmp_path / "run", **STUDENT | options)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("data", ["scenes:8", "digits:8"])
def test_rules_of_gradients_do_not_go_with_scaled_ones(data):
    settings = {"data": data, "method": "at", "teachers": [{"model": "torchvision:any"}], "gradients": "clip"}
    assert written_out(api.settings(**settings, precision="bf16")).gradients == "clip"
    with pytest.raises(KDScopeError, match="gradients 'clip' compares the sizes of gradients, which --precision 16"):
        written_out(api.settings(**settings, precision="16"))


def test_a_teacher_must_be_a_detector_of_the_same_classes(tmp_path, tiny_teacher, teacher):
    with pytest.raises(KDScopeError, match="classifies images of 'test-tiny'; a detector learns from another"):
        kdscope.train(tmp_path / "run", **STUDENT, teachers=[tiny_teacher], method="fgd")
    with pytest.raises(KDScopeError, match="a detector learns from one teacher, not from 2"):
        kdscope.train(tmp_path / "run", **STUDENT, teachers=[teacher, teacher], method="fgd")


def test_methods_of_detectors_are_not_those_of_classifiers(tmp_path):
    assert "fgd" in DETECTION_METHODS
    with pytest.raises(KDScopeError, match="unknown method 'fgd'"):
        kdscope.train(tmp_path / "run", data="digits:8", model="resnet8", method="fgd")


def test_a_missing_evaluator_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(KDScopeError, match=r"needs faster-coco-eval: pip install 'kdscope\[detection\]'"):
        kdscope.train(tmp_path / "run", **STUDENT)
    assert not (tmp_path / "run").exists()
