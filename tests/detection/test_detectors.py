"""Detectors by name: their sizes, and what is said of a name or an option that is not known."""

import pytest
import torch

from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.errors import KDScopeError


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("fcos_resnet10_w8", 498_097),
        ("fcos_resnet10_w16", 736_409),
        ("retinanet_resnet10_w16", 772_248),
        ("fasterrcnn_resnet10_w16", 931_315),
        ("fcos_resnet18_w32", 3_240_169),
        ("fasterrcnn_resnet18_w32", 3_436_099),
    ],
)
def test_small_detectors_have_the_size_of_their_name(name, parameters):
    assert sum(p.numel() for p in models.build(name, 3).parameters()) == parameters


@pytest.mark.parametrize("name", ["fcos_resnet18_w8", "retinanet_resnet10_w8", "fasterrcnn_resnet34_w8"])
def test_they_detect_objects_of_the_classes_asked_for(name):
    torch.manual_seed(0)
    limit = "box_score_thresh" if name.startswith("faster") else "score_thresh"
    detector = models.build(name, 4, image_size=64, **{limit: 0.0}).eval()
    with torch.no_grad():
        found = detector([torch.rand(3, 64, 96)])[0]
    assert set(found["labels"].tolist()) <= {0, 1, 2, 3, 4}
    assert (found["boxes"] <= torch.tensor([96, 64, 96, 64])).all()
    assert (found["boxes"] >= 0).all()
    assert len(found["boxes"]) > 20


PYRAMID = {8: 40, 16: 20, 32: 10, 64: 5, 128: 3}


@pytest.mark.parametrize(
    ("name", "strides", "rows"),
    [
        ("fasterrcnn_resnet18", {4: 80, 8: 40, 16: 20, 32: 10}, {"rpn": (25575, 1), "roi": (512, 4)}),
        ("retinanet_resnet18", PYRAMID, {"dense": (19206, 3)}),
        ("fcos_resnet18", PYRAMID, {"dense": (2134, 3)}),
        (
            "torchvision:ssdlite320_mobilenet_v3_large",
            {16: 20, 32: 10, 64: 5, 128: 3, 256: 2, 512: 1},
            {"dense": (3234, 4)},
        ),
    ],
)
def test_grids_and_rows_of_torchvisions_detectors_at_320_pixels(name, strides, rows):
    """Three classes, one image; the box head sees 512 proposals as 256 channels on 7 x 7."""
    torch.manual_seed(0)
    size = {} if "ssd" in name else {"min_size": 320, "max_size": 320}
    adapter, seen = adapt(models.build(name, 3, **size).eval()), []
    target = {"boxes": torch.tensor([[20.0, 20.0, 200.0, 240.0]]), "labels": torch.ones(1, dtype=torch.int64)}
    batch = adapter.frame([torch.rand(3, 320, 320)], [target], torch.arange(1))
    proposals = [torch.tensor([[0.0, 0.0, 100.0, 100.0]]).expand(512, 4)]
    if "roi" in rows:
        adapter.detector.roi_heads.box_roi_pool.register_forward_hook(lambda *call: seen.append(tuple(call[2].shape)))
    with torch.no_grad():
        said = adapter.look(batch, tuple(rows), proposals)
    grids = {stride: tuple(each.shape[2:]) for stride, each in said.maps.items()}
    assert grids == {stride: (side, side) for stride, side in strides.items()}
    assert {head: tuple(each.logits.shape) for head, each in said.rows.items()} == rows
    assert seen == [(512, 256, 7, 7)] * ("roi" in rows)


def test_every_layer_of_a_small_detector_learns():
    detector = models.build("fasterrcnn_resnet10_w8", 2)
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert not any("FrozenBatchNorm" in type(module).__name__ for module in detector.modules())


@pytest.mark.parametrize(
    ("name", "frozen", "learning", "else_learning"),
    [
        ("fcos_resnet18", 20, 69, 114),
        ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", 46, 70, 192),
        ("torchvision:ssdlite320_mobilenet_v3_large", 0, 266, 266),
    ],
)
def test_a_pretrained_network_is_built_without_its_weights(name, frozen, learning, else_learning):
    """Frozen batch norms and learning tensors as torchvision's builders have them with weights, none being fetched."""

    def facts(network):
        norms = sum(type(module).__name__ == "FrozenBatchNorm2d" for module in network.modules())
        return norms, sum(parameter.requires_grad for parameter in network.parameters())

    assert facts(models.build(name, 3, pretrained=True, fetch=False)) == (frozen, learning)
    plain = models.build(name, 3)
    assert facts(plain) == (0, else_learning)
    assert plain.load_state_dict(plain.state_dict()).missing_keys == []  # which is put back


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcos_resnet11_w8", {}, "unknown detector 'fcos_resnet11_w8'; nearest: fcos_resnet1"),
        ("resnet20", {}, "unknown detector 'resnet20'"),
        ("fcos_resnet10", {}, "unknown detector 'fcos_resnet10'"),
        ("torchvision:maskrcnn_resnet50_fpn", {}, "unknown torchvision detector 'maskrcnn_resnet50_fpn'; nearest: fas"),
        ("fcos_resnet10_w8", {"score_tresh": 0.1}, "unknown option 'score_tresh' in detector .*; nearest: score_thres"),
        ("torchvision:fcos_resnet50_fpn", {"min_sise": 1}, "unknown option 'min_sise'"),
        ("fcos_resnet10_w8", {"pretrained": True}, "has no published weights"),
        ("kdscope.detection.modls:build", {}, "no module 'kdscope.detection.modls'"),
    ],
)
def test_bad_names_and_options_get_one_line(name, options, message):
    with pytest.raises(KDScopeError, match=message):
        models.build(name, 3, **options)


@pytest.mark.parametrize("classes", [0, True, "3"])
def test_a_detector_needs_classes(classes):
    with pytest.raises(KDScopeError, match="needs a whole number of classes"):
        models.build("fcos_resnet10_w8", classes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet50", "unknown torchvision detector 'resnet50'"),
        ("timm:resnet18", "teacher 'timm:resnet18' is no detector: those with weights are torchvision:NAME; or give a"),
        ("own_detector:teacher", "own_detector:teacher' makes no weights of its own .* own_detector:teacher@FILE"),
    ],
)
def test_a_teacher_without_a_file_is_a_detector_that_has_weights(name, message, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(KDScopeError, match=message):
        models.published(name, 3)


def test_a_users_own_callable_can_bring_its_weights(monkeypatch):
    made = torch.nn.Linear(1, 1)
    monkeypatch.setattr("own_detector.teacher", lambda num_classes, pretrained=False: made if pretrained else None)
    assert models.published("own_detector:teacher", 3) is made
