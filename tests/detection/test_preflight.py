"""Each check fails for its own reason, and by its name; a good pair passes all."""

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
from trees import coco_tree

import kdscope
from kdscope.config import DataSettings, TeacherSettings
from kdscope.detection import check_ability, models
from kdscope.detection.adapter import adapt
from kdscope.detection.data import DetectionSplit, load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.evaluate import detect
from kdscope.detection.preflight import preflight, stop_at_failed
from kdscope.detection.task import Detection
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
    return {check.name: check.found for check in preflight(*args, **options) if check.failed}


def test_a_good_pair_passes_every_check():
    checks = preflight(made(), made("fcos_resnet10_w16", seen=True), load("scenes:4"), scratch=True, images=0)
    assert [check.name for check in checks] == [
        *("teacher", "start of the student", "normalisation", "strides", "classes", "anchors of dense"),
        *("image size", "ability of the teacher"),
    ]
    assert all(check.passed for check in checks[:-1])
    assert checks[-1].passed is None
    assert str(checks[-1]) == "ability of the teacher: not tried: no image was asked for"
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
    faults = [check for check in checks if check.failed]
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
    faults = {check.name: check.found for check in checks if check.failed}
    assert faults.keys() == {"weights of the student"}
    assert (
        "other.safetensors holds another detector than this FCOS: 63 of other shapes"
        in faults["weights of the student"]
    )
    assert next(check for check in checks if check.name == "weights of the teacher").passed


def test_a_teacher_that_finds_nothing_stops_the_run_before_anything_is_written(tmp_path):
    save_weights(tmp_path / "teacher.safetensors", made("fcos_resnet10_w16", seen=True))
    teacher = f"fcos_resnet10_w16@{tmp_path / 'teacher.safetensors'}"
    options = {"data": "scenes:8:128:4", "model": {"name": "fcos_resnet10_w8", "options": SIZE}, "epochs": 1}
    options |= {"teachers": [teacher], "method": "mimicry"}
    with pytest.raises(KDScopeError, match=r"ability of the teacher: AP50 0\.000 on 8 training images, less"):
        kdscope.train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    save_weights(tmp_path / "start.safetensors", made(classes=5))
    options["model"]["checkpoint"] = tmp_path / "start.safetensors"
    run = kdscope.train(tmp_path / "run", **options, preflight="warn")
    assert run.finished
    kept = {check["name"]: check for check in json.loads((run.path / "preflight.json").read_text())}
    assert kept["ability of the teacher"]["passed"] is False
    assert kept["strides"] == {"name": "strides", "passed": True, "found": "8, 16, 32 in common"}
    assert kept["weights of the teacher"]["found"].endswith("teacher.safetensors has all of them, and no others")
    assert "start.safetensors gave it all but its layers by class" in kept["weights of the student"]["found"]
    assert kept["start of the student"]["found"] == "random, as it is meant"


def test_what_passed_and_what_cannot_be_told_is_said(caplog):
    caplog.set_level(logging.INFO, logger="kdscope")
    stop_at_failed(preflight(made(), made(seen=True), scratch=True))
    passed, open_ = [record.getMessage() for record in caplog.records]
    assert passed.startswith("preflight, passed: teacher: is trained; start of the student: random, as it is meant; ")
    assert open_ == "preflight, cannot be told: ability of the teacher: not tried: no image was asked for"


def test_what_a_network_does_not_tell_is_not_said_to_have_passed():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.transform = nn.Conv2d(3, 4, 8, 8), made().transform

        def features(self, batch):
            return {8: self.body(batch.images)}

    student, teacher = Own(), Own()
    del teacher.transform
    checks = {check.name: check.passed for check in preflight(student, teacher, load("scenes:4"))}
    told = {"strides": True}
    unknown = ("teacher", "start of the student", "normalisation", "image size", "classes", "ability of the teacher")
    assert checks == told | dict.fromkeys(unknown)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_network_that_was_loaded_in_part_is_named(which):
    pair = {"student": made(seen=True), "teacher": made(seen=True)}
    norm = pair[which].backbone.body.layer2[0].bn1
    norm.running_mean.zero_()
    found = "1 of 12 normalisations have seen no image"
    name = {"student": "start of the student", "teacher": "teacher"}[which]
    assert found in failed(**pair)[name]
    assert failed(**pair, scratch=True).keys() == {name}


def test_new_layers_outside_of_the_body_are_no_fault():
    student = models.build("torchvision:ssdlite320_mobilenet_v3_large", 3)
    for module in student.backbone.features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.1)
    checks = {check.name: check for check in preflight(student, student)}
    assert checks["start of the student"].passed
    assert "normalisations have seen no image" in checks["teacher"].found  # of a teacher all must have


def test_images_without_objects_are_not_those_that_the_teacher_is_tried_on():
    data = load("scenes:8:128:4")
    objects = data.train.objects
    some = DetectionSplit("train", data.train.stored, objects.only(objects.image == 5), data.train.image_ids)
    tried = check_ability._some(type(data)(**(vars(data) | {"train": some})), 4)[0]
    assert tried.image_ids.tolist() == [int(data.train.image_ids[5])]
    none = DetectionSplit("train", data.train.stored, objects.only(objects.image < 0), data.train.image_ids)
    checks = preflight(made(), made(seen=True), type(data)(**(vars(data) | {"train": none})), scratch=True)
    assert checks[-1].passed is None
    assert checks[-1].found == "not tried: no training image has an object to find"


@pytest.mark.parametrize("name", ["fcos_resnet10_w8", "fasterrcnn_resnet10_w8"])
def test_the_teacher_is_tried_on_images_as_the_student_shows_them(name, monkeypatch):
    teacher, data, found = made(name, seen=True), load("scenes:4"), []
    monkeypatch.setattr(check_ability, "scored", lambda some, *_: found.append(some) or {"ap50": 1.0})
    seen = []
    teacher.backbone.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    preflight(made(min_size=96), teacher, data, scratch=True, images=3)
    assert [shape for shape in seen if shape[0] == 3] == [(3, 3, 96, 96), (3, 3, 64, 64)]  # and then at its own size
    assert len(found) == 2
    seen.clear()
    preflight(made(), teacher, data, scratch=True, images=3)
    assert [shape for shape in seen if shape[0] == 3] == [(3, 3, 64, 64)]


def test_what_is_found_through_another_transform_is_told_in_pixels_of_the_stored_image():
    teacher, batches = made(seen=True), DetectionBatches(load("scenes:2").train)
    own, same, larger = (
        detect(teacher, batches, score=0.0, most=5, through=through)[1]
        for through in (None, adapt(made().eval()), adapt(made(min_size=256, max_size=500).eval()))
    )
    for one, two, three in zip(own, same, larger, strict=True):
        assert len(one.boxes)
        assert len(three.boxes)
        assert np.array_equal(one.boxes, two.boxes)
        assert np.array_equal(one.scores, two.scores)
        assert three.boxes.max() <= 128  # of an image of 128 pixels, shown as 256
        assert not np.array_equal(one.boxes, three.boxes)


@pytest.mark.parametrize(("there", "kept"), [(0.8, 0.3), (0.8, 0.5)])
def test_a_teacher_must_keep_half_of_what_it_finds_at_its_own_size(monkeypatch, there, kept):
    values = iter([kept, there])
    monkeypatch.setattr(check_ability, "scored", lambda found, split, classes: {"ap50": next(values)})
    student, teacher, data = made(), made(seen=True, min_size=128, max_size=500), load("scenes:4")
    checks = {check.name: check for check in preflight(student, teacher, data, scratch=True)}
    assert checks["image size"].passed == (kept >= 0.4)
    assert checks["image size"].found == (
        "the student shows images of 128 x 128 as 64 x 64, the teacher's own is 128 x 128: "
        f"AP50 {kept:.3f} at the student's, 0.800 there"
    )
    assert checks["ability of the teacher"].passed
    untried = {check.name: check for check in preflight(student, teacher, scratch=True)}["image size"]
    assert untried.passed is None
    assert "of 640 x 480 as 85 x 64, the teacher's own is 170 x 128" in untried.found


def test_a_teacher_from_a_file_is_made_for_the_size_that_the_run_asks_for(tmp_path):
    save_weights(tmp_path / "teacher.safetensors", models.build("fcos_resnet10_w8", 2))
    (tmp_path / "data").mkdir()
    settings = DataSettings(name=f"coco:{coco_tree(tmp_path / 'data')}", image_size=96)
    dataset = Detection().load_data(settings)
    teacher = TeacherSettings(model="fcos_resnet10_w8", checkpoint=tmp_path / "teacher.safetensors")
    assert Detection().load_teacher(teacher, dataset).transform.min_size == (96,)


def test_classes_of_coco_counted_in_two_ways_are_told_with_the_remedy():
    data = load("scenes:4")
    coco = type(data)(**(vars(data) | {"name": "coco:/data"}))
    assert failed(made(), made(classes=90, seen=True), coco, scratch=True, images=0)["classes"] == (
        "the student 3, the teacher 90, dataset 'coco:/data' 3: other label maps; "
        "for torchvision's COCO weights take coco-ids:/data"
    )
