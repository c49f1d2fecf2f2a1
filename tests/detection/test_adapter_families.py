"""Any torchvision family: the shapes of its parts, and losses and detections equal to its own to the last bit."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.detection.evaluate import limited

SMALL = ["fcos_resnet10_w8", "retinanet_resnet10_w8", "fasterrcnn_resnet10_w8"]
QUICK = [*SMALL, "torchvision:ssdlite320_mobilenet_v3_large"]
LARGE = [
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "torchvision:fasterrcnn_resnet50_fpn",
    "torchvision:fasterrcnn_resnet50_fpn_v2",
    "torchvision:fasterrcnn_mobilenet_v3_large_fpn",
    "torchvision:retinanet_resnet50_fpn",
    "torchvision:retinanet_resnet50_fpn_v2",
    "torchvision:fcos_resnet50_fpn",
    "torchvision:ssd300_vgg16",
]
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
FULL = [[4.0, 5.0, 30.0, 33.0], [20.0, 8.0, 60.0, 44.0]], [1, 3]
EMPTY = [], []


def made(name, **options):
    size = {} if "ssd" in name or "320" in name else {"min_size": 64, "max_size": 96}
    torch.manual_seed(0)
    return models.build(name, 3, **size | options)


def batch(*contents):
    """Images of two sizes in turn, and their boxes and labels."""
    generator = torch.Generator().manual_seed(5)
    sizes = [((64, 64), (48, 64))[k % 2] for k in range(len(contents))]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    return images, [
        {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
        for boxes, labels in contents
    ]


def learned(name, images, targets):
    """A network and its losses, and an adapter of another just like it and its step, under one seed."""
    theirs, ours = made(name), adapt(made(name))
    torch.manual_seed(1)
    expected = theirs(images, targets)
    torch.manual_seed(1)
    return theirs, expected, ours, ours.learn(ours.frame(images, targets, torch.arange(len(images))))


@pytest.mark.parametrize("name", EVERY)
def test_losses_and_detections_are_torchvisions_bit_for_bit(name):
    images, targets = batch(FULL, EMPTY)
    theirs, expected, ours, step = learned(name, images, targets)
    assert list(step.features.losses) == list(expected)
    assert all(torch.equal(step.features.losses[key], expected[key]) for key in expected)
    with torch.no_grad(), limited(theirs, 0.0), limited(ours.detector, 0.0):
        frame = ours.frame(images, targets, torch.arange(2))
        found = ours.detections(ours.features(frame), frame, [image.shape[1:] for image in images])
        reference = theirs(images)
    assert min(len(its["boxes"]) for its in reference) > 10
    for mine, its in zip(found, reference, strict=True):
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in its)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("contents", [(FULL,), (EMPTY,), (EMPTY, EMPTY)])
def test_batches_of_one_image_and_of_no_object(name, contents):
    images, targets = batch(*contents)
    _, expected, ours, step = learned(name, images, targets)
    losses = step.features.losses
    assert all(torch.equal(losses[key], expected[key]) for key in expected)
    sum(losses.values()).backward()
    gradients = [p.grad for p in ours.detector.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    for goals in step.batch.targets.values():
        assert torch.isfinite(goals.deltas).all()
        assert bool((goals.labels > 0).any()) is bool(contents[0][0])


GRIDS = {
    "fasterrcnn": {"0": 80, "1": 40, "2": 20, "3": 10, "pool": 5},
    "retinanet": {"0": 40, "1": 20, "2": 10, "p6": 5, "p7": 3},
    "ssdlite": dict(zip("012345", (20, 10, 5, 3, 2, 1), strict=True)),
}
SHAPES = [  # name, grids, widths, rows of an image, numbers of a row
    ("fasterrcnn_resnet18", "fasterrcnn", [256] * 5, ("rpn", 25575, 1)),
    ("retinanet_resnet18", "retinanet", [256] * 5, ("dense", 19206, 3)),
    ("fcos_resnet18", "retinanet", [256] * 5, ("dense", 2134, 3)),
    ("torchvision:ssdlite320_mobilenet_v3_large", "ssdlite", [672, 480, 512, 256, 256, 128], ("dense", 3234, 4)),
]
SLOW = [(name.replace("resnet18", "resnet50"), *rest) for name, *rest in SHAPES[:3]]


@pytest.mark.parametrize(
    ("name", "grids", "widths", "rows"), [*SHAPES, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)]
)
def test_levels_anchors_and_rows_of_a_frame_of_320_pixels(name, grids, widths, rows):
    adapter = adapt(made(name, **({} if "ssd" in name else {"min_size": 320, "max_size": 320})).eval())
    head, count, numbers = rows
    with torch.no_grad():
        frame = adapter.frame([torch.zeros(3, 320, 320)], batch(FULL)[1], torch.arange(1))
        features = adapter.features(frame)
        said = adapter.rows(features, frame, [head], {})[head]
    assert {key: tuple(value.shape[2:]) for key, value in features.items()} == {
        key: (side, side) for key, side in GRIDS[grids].items()
    }
    assert [value.shape[1] for value in features.values()] == widths
    assert said.logits.shape == (count, numbers)
    assert said.deltas.shape == (count, 4)
    assert adapter.anchors(frame).shape == (count, 4)
    owner = adapter.detector.rpn if head == "rpn" else adapter.detector
    whole = owner.anchor_generator(ImageList(frame.images, list(frame.sizes)), list(features.values()))
    assert torch.equal(adapter.anchors(frame), whole[0])
    assert (said.centreness is not None) is name.startswith("fcos")


def test_rows_of_proposals_have_a_box_for_each_class():
    adapter = adapt(made("fasterrcnn_resnet18"))
    seen = {}
    for part in ("box_roi_pool", "box_head"):
        module = getattr(adapter.detector.roi_heads, part)
        module.register_forward_hook(lambda module, args, output, part=part: seen.update({part: output.shape}))
    step = adapter.learn(adapter.frame(*batch(FULL), torch.arange(1)))
    count = len(step.proposals[0])
    assert seen == {"box_roi_pool": (count, 256, 7, 7), "box_head": (count, 1024)}
    assert step.features.rows["roi"].logits.shape == (count, 4)
    assert step.features.rows["roi"].deltas.shape == (count, 4, 4)
