"""What is scored, and on which scale."""

from dataclasses import replace

import pytest
import torch

from kdscope.detection.average_precision import RELATIVE_AREAS, areas_for
from kdscope.detection.data import load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.data.record import box_area
from kdscope.detection.evaluate import detect, most_of, scored
from kdscope.detection.measures.found import Found


def made(boxes, size=128):
    """One test image of `size` pixels with objects of class 1 at `boxes`."""
    split = load(f"scenes:1:{size}:1").test
    boxes = torch.tensor(boxes, dtype=torch.float32)
    some, none = torch.ones(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.bool)
    objects = replace(
        split.objects, offsets=torch.tensor([0, len(boxes)]), boxes=boxes, labels=some, crowd=none, area=box_area(boxes)
    )
    return replace(split, objects=objects)


def test_vis_drone_has_crowded_images():
    assert [most_of(name) for name in ("visdrone:/data", "coco:/data", "scenes:100")] == [500, 100, 100]


def test_as_many_detections_count_as_an_image_may_have():
    """150 objects of one image, all found: a cap of 100 finds two thirds of them."""
    corner = torch.tensor([[12.0 * (k % 20), 12.0 * (k // 20)] for k in range(150)])
    boxes = torch.cat([corner, corner + 10], 1)
    split, found = made(boxes.tolist(), 256), [Found.of(boxes, torch.linspace(0.9, 0.5, 150), [1] * 150)]
    assert scored(found, split, 1, most=100)["ar"] == pytest.approx(2 / 3)
    assert scored(found, split, 1, most=500)["ar"] == 1


def test_sizes_are_pixels_and_of_scenes_parts_of_the_image():
    """Of sides 20 and 30 in 128 pixels the first is below 3/16 of the image, and both are below 32 pixels."""
    boxes = [[0, 0, 20, 20], [60, 60, 90, 90]]
    split, found = made(boxes), [Found.of(boxes[:1], [0.9], [1])]
    pixels = scored(found, split, 1)
    assert pixels["ap_small"] == pytest.approx(51 / 101)  # one of two
    assert pixels["ap_medium"] != pixels["ap_medium"]  # none there is
    parts = scored(found, split, 1, areas=areas_for("scenes:1:128:1"))
    assert (parts["ap_small"], parts["ap_medium"]) == (1, 0)
    assert areas_for("voc:/data").relative is False
    assert areas_for("scenes").ranges == RELATIVE_AREAS.ranges


def test_what_is_scored_is_what_was_looked_at():
    """Each rank sees a run of the images; what they found stands beside the objects of those images."""
    split = load("scenes:1:128:5").test
    truth = [Found.of(split[k].boxes, [0.9] * len(split[k].boxes), split[k].labels) for k in range(5)]
    index = torch.tensor([3, 1])
    assert scored([truth[3], truth[1]], split, 3, index)["ap"] == 1
    assert scored([truth[1], truth[3]], split, 3, index)["ap"] < 0.5
    assert scored(truth, split, 3)["ap"] == 1


def test_a_column_of_a_class_that_nothing_has_is_left_out():
    """One-stage heads of torchvision can give label 0."""

    class Two(torch.nn.Module):
        def features(self, batch):
            return {}

        def forward(self, images):
            box = torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2)
            return [{"boxes": box, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([0, 2])} for _ in images]

    index, found = detect(Two(), DetectionBatches(load("scenes:1:128:3").test, batch_size=2))
    assert index.tolist() == [0, 1, 2]
    assert [one.labels.tolist() for one in found] == [[2]] * 3
