"""Each check fails for its own reason, and by its name; a good pair passes all."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import kdscope
from kdscope.detection import models
from kdscope.detection.data import load
from kdscope.detection.preflight import preflight, stop_at_failed
from kdscope.errors import KDScopeError
from kdscope.models import save_weights, weights_hash

SIZE = {"min_size": 64}


def made(name="fcos_resnet10_w8", classes=3, seen=False, **options):
    torch.manual_seed(0)
    network = models.build(name, classes, **SIZE | options)
    if seen:  # as a training leaves the statistics of its normalisations
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.add_(0.1)
    return network


def failed(*args, **options):
    return {check.name: check.found for check in preflight(*args, **options) if not check.passed}


def test_a_good_pair_passes_every_check():
    checks = preflight(made(), made("fcos_resnet10_w16", seen=True), load("scenes:4"), scratch=True, images=0)
    assert [check.name for check in checks] == [
        *("teacher", "start of the student", "normalisation", "strides", "classes", "anchors of dense")
    ]
    assert all(check.passed for check in checks)
    assert str(checks[3]) == "strides: 8, 16, 32 in common"


@pytest.mark.parametrize(
    ("student", "teacher", "name", "found"),
    [
        (made(), made(), "teacher", "its normalisations have seen no image"),
        (made(), made(seen=True, image_mean=[0.5] * 3), "normalisation", r"the teacher mean \[0.5, 0.5, 0.5\]"),
        (made(), made(classes=5, seen=True), "classes", "the student 3, the teacher 5: other label maps"),
        (
            made("fasterrcnn_resnet10_w8"), made("fasterrcnn_resnet10_w8", classes=2, seen=True), "classes",
            "the student 3, the teacher 2",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_found_alone_and_named(student, teacher, name, found):
    checks = preflight(student, teacher, scratch=True)
    faults = [check for check in checks if not check.passed]
    assert [check.name for check in faults] == [name]
    with pytest.raises(KDScopeError, match=f"preflight: {name}: .*{found}"):
        stop_at_failed(checks)


@pytest.mark.parametrize("name", ["fcos_resnet10_w8", "fasterrcnn_resnet10_w8"])
def test_looking_changes_nothing(name):
    student, teacher = made(name).train(), made(name, seen=True).eval()
    before = [weights_hash(network) for network in (student, teacher)]
    state = torch.get_rng_state()
    preflight(student, teacher, load("scenes:4"), images=2)
    assert [weights_hash(network) for network in (student, teacher)] == before
    assert all(module.training for module in student.modules())
    assert not any(module.training for module in teacher.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_other_anchors_matter_where_their_rows_are_compared():
    teacher = made("retinanet_resnet10_w8", seen=True)
    generator = teacher.anchor_generator
    generator.cell_anchors = [cell + 1 for cell in generator.cell_anchors]
    student = made("retinanet_resnet10_w8")
    assert "up to 1 pixels apart" in failed(student, teacher, scratch=True)["anchors of dense"]
    assert failed(student, teacher, scratch=True, heads=()) == {}
    more = made("retinanet_resnet10_w8", seen=True)
    more.anchor_generator.aspect_ratios = ((1.0,),) * 4
    more.anchor_generator.cell_anchors = [cell[:3] for cell in more.anchor_generator.cell_anchors]
    assert "of the student and" in failed(student, more, scratch=True)["anchors of dense"]


def test_a_pair_without_a_common_stride_is_refused():
    class Coarse(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 1)

        def features(self, batch):
            return {64: self.body(batch.images)[..., ::64, ::64]}

    assert "none in common" in failed(made(), Coarse(), scratch=True)["strides"]
    assert failed(made(), Coarse(), load("scenes:4"), scratch=True).keys() == {"strides"}  # it cannot be tried


def test_maps_of_one_stride_must_have_one_grid():
    class Cropped(nn.Module):
        def features(self, batch):
            return {8: batch.images[..., ::8, ::8][..., 1:]}

    assert failed(made(), Cropped(), scratch=True)["strides"] == (
        "of stride 8 the maps of student and teacher are 8 x 8 and 8 x 7"
    )


def test_a_random_backbone_must_be_meant():
    teacher = made(seen=True)
    assert "its backbone is random" in failed(made(), teacher)["start of the student"]
    assert failed(made(seen=True), teacher) == {}
    frozen = made()
    for name, module in list(frozen.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen.set_submodule(name, FrozenBatchNorm2d(module.num_features))
    assert "normalises nothing" in failed(frozen, teacher, scratch=True)["start of the student"]


def test_a_head_that_does_not_learn_from_scratch_is_named():
    student = made("retinanet_resnet18")
    teacher = made("retinanet_resnet18", seen=True)
    assert failed(student, teacher, scratch=True).keys() == {"head of the student"}
    assert failed(made("retinanet_resnet10_w8"), made("retinanet_resnet10_w8", seen=True), scratch=True) == {}


def test_weights_that_a_network_lacks_are_counted(tmp_path):
    save_weights(tmp_path / "other.safetensors", made("fcos_resnet10_w16"))
    save_weights(tmp_path / "own.safetensors", made())
    files = {"student": tmp_path / "other.safetensors", "teacher": tmp_path / "own.safetensors"}
    checks = preflight(made(), made(seen=True), scratch=True, files=files)
    faults = {check.name: check.found for check in checks if not check.passed}
    assert faults.keys() == {"weights of the student"}
    assert faults["weights of the student"].startswith("other shapes backbone.body")
    assert next(check for check in checks if check.name == "weights of the teacher").passed


def test_a_teacher_that_finds_nothing_stops_the_run_before_anything_is_written(tmp_path):
    save_weights(tmp_path / "teacher.safetensors", made("fcos_resnet10_w16", seen=True))
    teacher = f"fcos_resnet10_w16@{tmp_path / 'teacher.safetensors'}"
    options = {"data": "scenes:8:128:4", "model": {"name": "fcos_resnet10_w8", "options": SIZE}, "epochs": 1}
    options |= {"teachers": [teacher], "method": "mimicry"}
    with pytest.raises(KDScopeError, match=r"ability of the teacher: AP50 0\.000 on 8 training images, less"):
        kdscope.train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    run = kdscope.train(tmp_path / "run", **options, preflight="warn")
    assert run.finished
