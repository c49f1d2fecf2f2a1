"""A student that begins with its teacher's neck and head: what is copied, when, and that any method can begin so."""

import copy

import pytest
import torch
from torch import nn

import kdscope
from kdscope.api import settings
from kdscope.detection import models
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.methods.inherit import Inherit, inherit
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve
from kdscope.detection.task import Detection
from kdscope.errors import KDScopeError

MODEL = {"name": "fcos_resnet10_w8", "options": {"min_size": 64}}
QUICK = {"data": "scenes:16:128:8", "batch_size": 8, "epochs": 1, "model": MODEL, "augment": "none", "preflight": "off"}


def detector(name, seed, num_classes=3):
    torch.manual_seed(seed)
    return models.build(name, num_classes=num_classes, image_size=64)


def test_a_student_inherits_all_outside_of_the_body():
    student, teacher = detector("fcos_resnet10_w8", 0), detector("fcos_resnet18_w8", 1)
    with torch.no_grad():
        for buffer in teacher.buffers():
            if buffer.is_floating_point():
                buffer.add_(1.0)
    before = copy.deepcopy(student.state_dict())
    taken = inherit(student, teacher)
    theirs, ours = teacher.state_dict(), student.state_dict()
    assert taken.kept == ()
    outside = {name for name in before if not name.startswith("backbone.body.")}
    assert set(taken.copied) == outside
    assert {"backbone.fpn.inner_blocks.0.0.weight", "head.classification_head.cls_logits.bias"} <= outside
    for name in before:
        assert torch.equal(ours[name], (theirs if name in outside else before)[name])


def test_of_a_wider_backbone_all_but_the_necks_first_convolutions_is_inherited():
    student, teacher = detector("fcos_resnet10_w8", 0), detector("fcos_resnet18_w16", 1)
    before = copy.deepcopy(student.state_dict())
    taken = inherit(student, teacher)
    assert taken.kept
    assert all(name.startswith("backbone.fpn.inner_blocks.") for name in taken.kept)
    assert all(torch.equal(before[name], student.state_dict()[name]) for name in taken.kept)
    assert "backbone.fpn.layer_blocks.0.0.weight" in taken.copied


@pytest.mark.parametrize(
    ("teacher", "num_classes", "message"),
    [
        ("fcos_resnet10_w8", 5, "'head.classification_head.cls_logits.weight' is [4, 64, 3, 3] in the student and [6,"),
        ("fasterrcnn_resnet10_w8", 3, "'backbone.fpn.inner_blocks.3.0.weight' of the teacher is not in the student"),
    ],
)
def test_another_head_is_an_error_that_names_the_first_tensor_and_copies_none(teacher, num_classes, message):
    student = detector("fcos_resnet10_w8", 0)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(KDScopeError) as error:
        inherit(student, detector(teacher, 1, num_classes))
    assert message in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_of_a_backbone_that_is_not_told_apart_nothing_is_inherited():
    name = "torchvision:ssdlite320_mobilenet_v3_large"
    student, teacher = detector(name, 0), detector(name, 1)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(KDScopeError, match=r"begins with 'backbone.body.'.*terms.inherit.body=.*backbone., head."):
        inherit(student, teacher)
    assert all(torch.equal(before[part], value) for part, value in student.state_dict().items())
    taken = inherit(student, teacher, body=["backbone."])
    assert taken.copied == tuple(part for part in before if part.startswith("head."))
    assert all(torch.equal(before[part], v) for part, v in student.state_dict().items() if part not in taken.copied)


def test_where_the_body_ends_is_a_setting():
    student, teacher = detector("fcos_resnet10_w8", 0), detector("fcos_resnet10_w8", 1)
    before = copy.deepcopy(student.state_dict())
    Inherit(body=["backbone."]).begin(student, teacher)
    for name, value in student.state_dict().items():
        whose = before if name.startswith("backbone.") else teacher.state_dict()
        assert torch.equal(value, whose[name]), name


# Of a run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    model = MODEL | {"name": "fcos_resnet10_w16"}
    return kdscope.train(tmp_path_factory.mktemp("runs") / "teacher", **QUICK | {"model": model})


@pytest.mark.parametrize("method", ["fgd+inherit", "mimicry+inherit", "chen2017+inherit", "inherit"])
def test_a_run_of_any_method_inherits_before_its_first_step_alone(teacher, method):
    config = settings(teachers=[teacher], method=method, **QUICK)
    head = "head.classification_head.conv.0.weight"
    theirs = teacher.model().state_dict()[head]
    plain = settings(teachers=[teacher], method=method, terms={"inherit": {"weight": 0.0}}, **QUICK)
    for given, begun, same in ((config, False, True), (config, True, False), (plain, False, False)):
        _, _, learner = Detection().prepare(given, begun, [teacher.model()])
        assert torch.equal(learner.student.state_dict()[head], theirs) == same
        assert "inherit" not in {name.partition(".")[0] for name in learner.objective.names}


@pytest.mark.parametrize("method", ["fgd+inherit", "inherit"])
def test_a_student_of_another_family_inherits_nothing(teacher, method):
    other = QUICK | {"model": MODEL | {"name": "retinanet_resnet10_w8"}}
    config = settings(teachers=[teacher], method=method, **other)
    with pytest.raises(KDScopeError, match="of the teacher is not in the student; both need the same neck and head"):
        Detection().prepare(config, False, [teacher.model()])


class Own(nn.Module):
    """A user's own detector, with a batch norm in what it inherits and in what it does not."""

    def __init__(self, num_classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.transform = models.build("fcos_resnet10_w8", num_classes, min_size=64).transform

    def features(self, batch):
        return {8: self.trunk(batch.images)}

    def losses(self, batch, maps):
        return {"first": self.head(maps[8]).square().mean()}

    def forward(self, images):
        nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        return [nothing for _ in images]


def test_what_a_students_backbone_begins_with_is_checked_before_it_inherits(monkeypatch):
    """After, the normalisations of the head that it has from the teacher look like half of a backbone loaded."""
    torch.manual_seed(0)
    taught = Own(3)
    for buffer in taught.buffers():
        buffer.add_(1)
    options = QUICK | {"model": "test_inherit:Own", "preflight": "stop", "method": "inherit"}
    options |= {"terms": {"inherit": {"body": ["trunk."]}}}
    found = []
    monkeypatch.setattr("kdscope.detection.task.stop_at_failed", lambda checks, stop: found.extend(checks))
    monkeypatch.setattr("kdscope.detection.preflight.ability", lambda *_: [])
    monkeypatch.setattr("kdscope.detection.task.load_teacher", lambda *_: taught)
    config = settings(teachers=["test_inherit:Own"], **options)
    _, _, learner = Detection().prepare(config, False, None)
    assert {check.name: check.found for check in found}["start of the student"] == "random, as it is meant"
    assert torch.equal(learner.student.head[1].running_mean, taught.head[1].running_mean)
    assert not torch.equal(learner.student.trunk[1].running_mean, taught.trunk[1].running_mean)


def test_a_student_that_inherits_alone_has_its_own_losses_and_asks_the_teacher_nothing(teacher):
    network = teacher.model()
    config = settings(teachers=[teacher], method="inherit", **QUICK)
    config, dataset, learner = Detection().prepare(config, False, [network])
    learner.train()
    alone = copy.deepcopy(learner.student)
    network.backbone.forward = None  # to call it would be an error
    batch = next(DetectionBatches(dataset.train, batch_size=8).epoch(0))
    values, _ = learner(*learner.arguments(batch))
    assert values.tolist() == [value.item() for value in alone(list(batch.images), batch.targets).values()]
    assert learner.objective.names == (
        "detection.classification", "detection.bbox_regression", "detection.bbox_ctrness",
    )  # fmt: skip


def test_a_run_that_was_stopped_does_not_inherit_again(teacher, tmp_path, with_stops):
    options = QUICK | {"teachers": [teacher], "method": "mimicry+inherit", "eval_every": 1, "epochs": 2}
    whole = kdscope.train(tmp_path / "whole", **options)
    run, stops = with_stops(lambda place: kdscope.train(place, **options), tmp_path / "run", 3)
    assert stops == 1
    assert run.summary["weights_hash"] == whole.summary["weights_hash"]
    head = "head.classification_head.conv.0.weight"
    assert not torch.equal(run.model().state_dict()[head], teacher.model().state_dict()[head])


def test_inheriting_without_a_loss_or_a_teacher_or_names_is_said_in_one_line(teacher):
    with pytest.raises(KDScopeError, match="term 'inherit' needs a teacher; add one"):
        kdscope.train("unused", method="inherit", **QUICK)
    with pytest.raises(KDScopeError, match="terms inherit have no loss; leave the term 'detection' its weight"):
        DetectionObjective(resolve("inherit", {"detection": {"weight": 0}}), teacher=True)
    with pytest.raises(KDScopeError, match="term 'inherit': body takes beginnings of names such as"):
        Inherit(body="backbone.")
