"""The geometric operations against Pillow, and the boxes that random resized crops draw."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from kdscope.data import augmentation
from kdscope.data.chance import Chance
from kdscope.data.geometry import crop_and_scale, crop_weights, cutout, draw_box, flip, resize


def noise(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def chance(count: int) -> Chance:
    return Chance(0, 0, torch.arange(count))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (20, 33)])
def test_crop_and_scale_equals_pillow_up_to_rounding(height, width):
    images, boxes = noise(64, height, width), draw_box(chance(64), height, width)
    expected = [
        TF.resized_crop(
            Image.fromarray(image.permute(1, 2, 0).numpy()), *box, (height, width), InterpolationMode.BICUBIC
        )
        for image, box in zip(images, boxes.tolist(), strict=True)
    ]
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in expected])
    difference = (crop_and_scale(images, boxes).int() - expected.int()).abs()
    # Pillow's weights are finer (2^-22): a tie may round otherwise in the first pass, and that again in the second.
    assert difference.max() <= 2
    assert (difference > 1).double().mean() < 1e-4
    assert (difference > 0).double().mean() < 0.01


def test_the_whole_image_stays_and_one_colour_stays():
    images = noise(4, 16, 24)
    assert torch.equal(crop_and_scale(images, torch.tensor([[0, 0, 16, 24]]).expand(4, 4)), images)
    for level in (0, 1, 128, 255):
        colour = torch.full((50, 3, 16, 24), level, dtype=torch.uint8)
        assert (crop_and_scale(colour, draw_box(chance(50), 16, 24)) == level).all()


def test_crop_weights_are_sums_that_float32_holds_exactly():
    weights = crop_weights(32, torch.device("cpu"))
    assert torch.equal(weights * 2**15, (weights * 2**15).round())
    assert (255 * weights.abs().sum(-1)).max() < 2**9  # so that level x weight sums need 24 bits at most
    torch.testing.assert_close(weights.sum(-1), torch.ones(32, 1, 32), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
def test_boxes_have_the_areas_and_ratios_asked_for(height, width):
    boxes = draw_box(chance(20_000), height, width)
    top, left, tall, wide = boxes.unbind(1)
    assert (boxes >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    share = (tall * wide).double() / (height * width)
    ratio = wide.double() / tall
    assert 0.15 < share.min() < 0.25
    assert share.max() > 0.8
    assert ratio.min() > 0.65
    assert ratio.max() < 1.5
    assert abs(ratio.log().mean()) < 0.1
    if height == width:  # symmetric in x and y; both ends are reached
        assert abs((top - left).double().mean()) < 0.2
        assert ((top + tall == height) & (left + wide == width)).any()


def test_a_strip_that_fits_no_ratio_gives_its_centre():
    boxes = draw_box(chance(5), 10, 100)
    assert torch.equal(boxes, torch.tensor([[0, (100 - 13) // 2, 10, 13]]).expand(5, 4))


def test_flip_mirrors_the_chosen():
    images = noise(6, 5, 7)
    chosen = torch.tensor([True, False, True, True, False, False])
    found = flip(images, chosen)
    assert torch.equal(found[chosen], images[chosen].flip(-1))
    assert torch.equal(found[~chosen], images[~chosen])


def test_cutout_equals_a_slice():
    images, centre = noise(81, 9, 9).clamp(min=1), torch.cartesian_prod(torch.arange(9), torch.arange(9))
    found = cutout(images, centre, side=4)
    for image, out, (y, x) in zip(images, found, centre.tolist(), strict=True):
        expected = image.clone()
        expected[:, max(0, y - 2) : y + 2, max(0, x - 2) : x + 2] = 0
        assert torch.equal(out, expected)


@pytest.mark.parametrize(("side", "hole"), [(32, 2), (224, 16), (64, 5), (8, 1)])
def test_strong_cuts_out_the_published_share_of_the_side(side, hole):
    strong = augmentation("strong")
    drawn = strong.draw(chance(1), side, side)
    drawn["operation-1"], drawn["operation-2"] = torch.zeros(2, 1, dtype=torch.int64)
    drawn["cutout"] = torch.tensor([[side // 2, side // 2]])
    white = torch.full((1, 3, side, side), 255, dtype=torch.uint8)
    assert (strong.apply(white, drawn) == 0).sum() == 3 * hole**2


@pytest.mark.parametrize(("side", "other"), [(8, 8), (16, 16), (30, 17)])
@pytest.mark.parametrize("name", ["none", "standard", "weak", "strong", "randaugment:0", "randaugment:30"])
def test_every_augmentation_takes_any_size(name, side, other):
    augment = augmentation(name)
    images = noise(50, side, other)
    out = augment.apply(images.clone(), augment.draw(chance(50), side, other))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)


def test_weak_turns_by_at_most_fifteen_degrees():
    degrees = augmentation("weak").draw(chance(10_000), 32, 32)["degrees"]
    assert -15 <= degrees.min() < -14.9
    assert 14.9 < degrees.max() < 15


def test_strong_draws_each_operation_as_often_as_its_policy_says():
    from kdscope.data.operations import NAMES
    from kdscope.data.weak_strong import POLICY

    count = 50_000
    drawn = augmentation("strong").draw(chance(count), 32, 32)
    for slot in (1, 2):
        found = torch.bincount(drawn[f"operation-{slot}"], minlength=len(NAMES)) / count
        for position, name in enumerate(NAMES[1:], start=1):
            expected = sum(pair[slot - 1][1] for pair in POLICY if pair[slot - 1][0] == name) / len(POLICY)
            assert abs(found[position] - expected) < 5 * math.sqrt(0.25 / count)


def test_randaugment_levels_grade_the_distance_from_standard():
    images = torch.nn.functional.interpolate(noise(200, 4, 4).float(), (32, 32), mode="bilinear").to(torch.uint8)
    distance = []
    for level in (0, 8, 16, 30):
        augment = augmentation(f"randaugment:{level}")
        drawn = augment.draw(chance(200), 32, 32)
        moved = augment.apply(images.clone(), drawn)
        distance.append((moved.float() - flip(images, drawn["flip"]).float()).abs().mean().item())
    assert distance == sorted(distance)


def test_resize_halves_and_doubles_ramps():
    ramp = (torch.arange(16) * 16).to(torch.uint8).expand(1, 3, 16, 16)
    for size in (8, 32):
        middle = resize(ramp, size)[0, 0, size // 2, size // 4 : -size // 4].float()
        torch.testing.assert_close(middle.diff(), torch.full_like(middle[1:], 16 * 16 / size), atol=1.0, rtol=0)
