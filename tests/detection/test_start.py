"""A detector starts from a detector's weights, or its backbone's body from a classifier's: all of it, or nothing."""

import pytest
import torch
import torchvision

from kdscope.detection import models
from kdscope.detection.preflight import preflight
from kdscope.detection.start import load_start
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
        (lambda s: s.pop("layer2.0.conv1.weight"), r"1 are missing \(layer2.0.conv1.weight, ...\)"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(1)}), r"1 have other shapes \(layer1.0.conv1.weight"),
        (lambda s: s.update({"layer5.weight": torch.zeros(1)}), r"1 are not known \(layer5.weight"),
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
