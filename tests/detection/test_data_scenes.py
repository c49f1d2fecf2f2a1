"""Generated scenes: what their boxes say is what their pixels show, and they depend on nothing but (seed, index)."""

import math

import pytest
import torch

from kdscope.detection.data import load
from kdscope.detection.data.scenes import OVERLAP, covers, generate
from kdscope.errors import KDScopeError

NOISE = 31  # how far apart two pixels of one shape can be; the background's are up to 127 apart


@pytest.fixture(scope="module")
def scenes():
    return generate("train", torch.arange(60))


def test_a_box_holds_its_shape_and_nothing_around_it(scenes):
    """In an image with one square, the box has the shape's own small noise and the pixels around it do not."""
    counts = scenes.objects.counts
    alone = [i for i in range(60) if counts[i] == 1 and scenes[i].labels[0] == 2]
    assert len(alone) >= 3
    for i in alone:
        image, (x0, y0, x1, y1) = scenes[i].image.int(), scenes[i].boxes[0].int().tolist()
        inside = image[:, y0:y1, x0:x1]
        assert int((inside.amax((1, 2)) - inside.amin((1, 2))).max()) <= NOISE
        sides = [image[:, y0:y1, x0 - 1] if x0 else None, image[:, y0:y1, x1] if x1 < 128 else None]
        sides += [image[:, y0 - 1, x0:x1] if y0 else None, image[:, y1, x0:x1] if y1 < 128 else None]
        for side in sides:
            assert side is None or int((side.amax(1) - side.amin(1)).max()) > NOISE


def test_shapes_have_their_areas():
    """pi r^2, (2 r)^2 and half of that, of a shape 64 px wide, up to the rounding of its edge."""
    cover = covers(torch.arange(3), torch.full((3, 2), 64.0), torch.full((3,), 64.0), 128)
    areas = cover.sum((1, 2)).float()
    assert areas.tolist() == pytest.approx([math.pi * 32**2, 64**2, 64**2 / 2], rel=0.02)


def test_objects_are_of_the_stated_sizes_and_hardly_overlap(scenes):
    sides = scenes.objects.boxes[:, 2:] - scenes.objects.boxes[:, :2]
    assert scenes.objects.boxes.min() >= 0
    assert scenes.objects.boxes.max() <= 128
    assert sides.min() >= 11  # 12 px, less what the pixels' centres miss
    assert sides.max() <= 57
    assert set(scenes.objects.counts.tolist()) == {1, 2, 3, 4}
    assert set(scenes.objects.labels.tolist()) == {1, 2, 3}
    for i in range(60):
        boxes = scenes[i].boxes
        low, high = (
            torch.maximum(boxes[:, None, :2], boxes[None, :, :2]),
            torch.minimum(boxes[:, None, 2:], boxes[:, 2:]),
        )
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        shared = (high - low).clamp(min=0).prod(-1) / torch.minimum(area[:, None], area)
        assert shared.fill_diagonal_(0).max() < OVERLAP + 0.15  # the boxes of pixels against those of the plan


def test_any_part_is_the_same_as_the_whole(scenes):
    part = generate("train", torch.tensor([40, 7]))
    assert torch.equal(part.stored, scenes.stored[[40, 7]])
    assert torch.equal(part.objects.boxes, scenes.subset(torch.tensor([40, 7])).objects.boxes)


def test_fewer_training_images_are_the_first_and_have_the_same_test():
    few, more = load("scenes:6:128:5"), load("scenes:9:128:5")
    assert torch.equal(few.train.stored, more.train.stored[:6])
    assert few.test.fingerprint == more.test.fingerprint
    assert few.fingerprint != more.fingerprint
    assert not torch.equal(few.train.stored[:5], few.test.stored)
    assert load("scenes:6:128:5:1").train.fingerprint != few.train.fingerprint


def test_larger_scenes_are_in_proportion():
    data = load("scenes:30", image_size=256)
    assert data.train.stored.shape == (30, 3, 256, 256)
    sides = data.train.objects.boxes[:, 2:] - data.train.objects.boxes[:, :2]
    assert 22 <= sides.min() <= 60
    assert 80 <= sides.max() <= 114


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scenes:0", "the count must be 1"),
        ("scenes:8:128:0", "the test count must be 1 to 1000000, not 0"),
        ("scenes:5:64", "the size must be 128 to 1024"),
        ("scenes:five", "write scenes:COUNT:SIZE:TEST:SEED"),
        ("scene", "nearest: scenes"),
    ],
)
def test_bad_names(name, said):
    with pytest.raises(KDScopeError, match=said):
        load(name)
