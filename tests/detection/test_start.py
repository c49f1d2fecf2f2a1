"""A detector starts from a detector's weights, or its backbone's body from a classifier's: all of it, or nothing."""

import pytest
import torch
import torchvision
from torchvision.ops import FrozenBatchNorm2d

from kdscope.detection import models
from kdscope.detection.preflight import preflight
from kdscope.detection.start import load_detector, load_start, planned
from kdscope.errors import KDScopeError
from kdscope.models import save_weights


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 32, 32))  # so that its statistics are those of images
    return network


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_the_body_takes_all_that_a_classifier_has_but_its_last_layer(classifier, tmp_path):
    save_weights(tmp_path / "resnet18.safetensors", classifier)
    detector = models.build("fcos_resnet18", 3)
    before = state_of(detector)
    load_start(detector, tmp_path / "resnet18.safetensors")
    after = detector.state_dict()
    for name, value in classifier.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(after[f"backbone.body.{name}"], value), name
    assert all(torch.equal(after[name], before[name]) for name in after if not name.startswith("backbone.body."))
    checks = {check.name: check for check in preflight(detector, detector)}
    assert checks["start of the student"].passed
    assert not {check.name: check for check in preflight(models.build("fcos_resnet18", 3), detector)}[
        "start of the student"
    ].passed


def test_a_detectors_weights_are_taken_whole(tmp_path):
    first, second = (models.build("fcos_resnet10_w8", 3) for _ in range(2))
    save_weights(tmp_path / "detector.safetensors", first)
    load_start(second, tmp_path / "detector.safetensors")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), r"1 missing \(layer2.0.conv1.weight\)"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(1)}), r"1 of other shapes \(layer1.0.conv1.weight"),
        (lambda s: s.update({"layer5.weight": torch.zeros(1)}), r"1 not known \(layer5.weight"),
    ],
)
def test_a_body_in_part_is_refused_and_nothing_is_changed(classifier, tmp_path, change, message):
    state = state_of(classifier)
    change(state)
    torch.save(state, tmp_path / "resnet18.pt")
    detector = models.build("fcos_resnet18", 3)
    before = state_of(detector)
    with pytest.raises(KDScopeError, match=f"holds neither this FCOS nor the body of its backbone: of that, {message}"):
        load_start(detector, tmp_path / "resnet18.pt")
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("fcos_resnet10_w8", {"head.classification_head.cls_logits."}),
        ("retinanet_resnet10_w8", {"head.classification_head.cls_logits."}),
        ("fasterrcnn_resnet10_w8", {"roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred."}),
        (
            "torchvision:ssdlite320_mobilenet_v3_large",
            {f"head.classification_head.module_list.{k}.1." for k in range(6)},
        ),
    ],
)
def test_of_a_detector_of_other_classes_all_but_the_layers_by_class_are_taken(name, layers, tmp_path):
    given, student = (models.build(name, classes) for classes in (5, 3))
    with torch.no_grad():
        for value in given.parameters():
            value.add_(0.5)
    save_weights(tmp_path / "five.safetensors", given)
    before, theirs = state_of(student), given.state_dict()
    start = load_start(student, tmp_path / "five.safetensors")
    assert {part.removesuffix("weight").removesuffix("bias") for part in start.drawn} == layers
    for part, value in student.state_dict().items():
        assert torch.equal(value, before[part] if part.startswith(tuple(layers)) else theirs[part]), part
    assert str(start).startswith(f"all but its layers by class, {len(theirs) - len(start.drawn)} tensors; as drawn")


def test_a_detector_of_another_architecture_is_no_start(tmp_path):
    save_weights(tmp_path / "wide.safetensors", models.build("fcos_resnet10_w16", 3))
    student = models.build("fcos_resnet10_w8", 3)
    before = state_of(student)
    with pytest.raises(KDScopeError, match=r"holds another detector than this FCOS: \d+ of other shapes \(backbone"):
        load_start(student, tmp_path / "wide.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_counters_of_batch_norm_are_neither_asked_for_nor_in_the_way(tmp_path):
    plain, frozen = (models.build("fcos_resnet10_w8", 3) for _ in range(2))
    for name, module in list(frozen.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            frozen.set_submodule(name, FrozenBatchNorm2d(module.num_features))
    save_weights(tmp_path / "plain.safetensors", plain)
    load_start(frozen, tmp_path / "plain.safetensors")
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in frozen.state_dict().items())
    save_weights(tmp_path / "frozen.safetensors", frozen)
    assert not planned(plain, tmp_path / "frozen.safetensors").drawn


def test_a_teacher_of_other_classes_is_told_so_with_the_remedy(tmp_path):
    save_weights(tmp_path / "t.safetensors", models.build("fcos_resnet10_w8", 90))
    network = models.build("fcos_resnet10_w8", 80)
    with pytest.raises(KDScopeError, match=r"t.safetensors knows other classes than 'coco:/data': head.*cls_logits"):
        load_detector(network, tmp_path / "t.safetensors", "coco:/data")
    with pytest.raises(KDScopeError, match=r"is \[91, 64, 3, 3\] .* \[81, 64, 3, 3\]; .* take coco-ids:/data$"):
        load_detector(network, tmp_path / "t.safetensors", "coco:/data")
    with pytest.raises(KDScopeError, match=r"holds another architecture"):
        load_detector(models.build("fcos_resnet10_w16", 80), tmp_path / "t.safetensors", "coco:/data")
