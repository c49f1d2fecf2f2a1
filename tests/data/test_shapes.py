"""The generated pictures: reproducible, with masks and boxes that agree with each other and with the pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.data import load
from kdscope.data.shapes import MOST, NAMES, class_names, generate, outline, tight_boxes
from kdscope.errors import KDScopeError


def one(name="train", count=120, size=32, classes=8, seed=0):
    return generate(name, torch.arange(count), size, classes, seed)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=6), st.sampled_from([16, 33, 64]), st.integers(2, MOST))
@settings(max_examples=15, deadline=None)
def test_any_part_is_the_same_as_in_the_whole(index, size, classes):
    together = generate("train", torch.tensor(index), size, classes, seed=1)
    alone = [generate("train", torch.tensor([position]), size, classes, seed=1) for position in index]
    for part in ("images", "labels", "masks", "boxes"):
        assert torch.equal(getattr(together, part), torch.cat([getattr(split, part) for split in alone]))


def test_seed_and_split_change_the_pictures():
    prints = {one(name, seed=seed).fingerprint for name in ("train", "test") for seed in (0, 1)}
    assert len(prints) == 4
    assert one().fingerprint == one().fingerprint


@pytest.mark.parametrize(("size", "classes"), [(16, 2), (32, 12), (64, 48), (40, 30)])
def test_masks_and_boxes_agree(size, classes):
    split = one(size=size, classes=classes)
    assert split.masks.shape == (120, size, size)
    assert split.boxes.shape == (120, 3, 5)
    assert torch.equal(split.boxes[:, 0, 0].long(), split.labels)
    for mask, (_, x0, y0, x1, y1) in zip(split.masks, split.boxes[:, 0].long().tolist(), strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x0, y0, x1, y1]
    there = split.boxes[..., 0] >= 0
    assert torch.equal(there, (split.boxes >= 0).all(-1))
    assert (split.boxes[~there] == -1).all()
    assert {1, 2, 3} == set(there.sum(1).tolist())
    assert (split.boxes[..., 0][there] < classes).all()


def test_distractors_are_smaller_and_of_other_classes():
    boxes = one(count=300, size=64).boxes
    side = (boxes[..., 3:] - boxes[..., 1:3]).amax(-1)
    for row in (1, 2):
        there = boxes[:, row, 0] >= 0
        assert (boxes[there, row, 0] != boxes[there, 0, 0]).all()
        assert (side[there, row] < side[there, 0]).all()


def test_the_foreground_differs_from_what_surrounds_it():
    split = one(count=300, size=64)
    images = split.images.float() / 255
    near = torch.nn.functional.max_pool2d(split.masks[:, None].float(), 9, 1, 4)[:, 0].bool() & ~split.masks
    inside, around = (
        (images * mask[:, None]).sum((2, 3)) / mask.sum((1, 2)).clamp(min=1)[:, None] for mask in (split.masks, near)
    )
    difference = (inside - around).abs().amax(1)
    assert (difference > 0.08).double().mean() > 0.97


def test_labels_are_balanced_and_no_colour_gives_them_away():
    split = one(count=4000, size=16)
    counts = torch.bincount(split.labels, minlength=8)
    assert (counts - 500).abs().max() < 5 * 500**0.5
    mean = split.images.float().mean((2, 3))
    between = torch.stack([mean[split.labels == label].mean(0) for label in range(8)]).var(0)
    assert (between < 3 * mean.var(0) / 500).all()


def test_areas_of_outlines_are_those_of_geometry():
    centre = (torch.arange(800, dtype=torch.float64) + 0.5) / 400 - 1
    x, y = centre.expand(1, 800, 800), centre[:, None].expand(1, 800, 800)
    for name, area in {
        "disc": torch.pi,
        "square": 2.0,
        "triangle": 3**1.5 / 4,
        "hexagon": 1.5 * 3**0.5,
        "frame": 1.5,
    }.items():
        found = (outline(torch.tensor([NAMES.index(name)]), x, y) >= 0).double().mean() * 4
        assert found == pytest.approx(area, abs=1e-2)


def test_boxes_of_empty_masks_are_minus_one():
    assert torch.equal(tight_boxes(torch.zeros(2, 3, 4, 5, dtype=torch.bool)), torch.full((2, 3, 4), -1.0))


def test_the_name_says_size_classes_count_and_seed():
    data = load("shapes:24:14:40:3")
    assert (data.image_size, data.num_classes, len(data.train), len(data.test)) == (24, 14, 40, 10)
    assert data.classes == class_names(14)
    assert data.train.fingerprint == one(count=40, size=24, classes=14, seed=3).fingerprint
    assert load("shapes:24:14:40:3", seed=9).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shapes:8", "size must be 16 to 256, not 8"),
        ("shapes:32:49", "class count must be 2 to 48, not 49"),
        ("shapes:32:5:2", "count must be 8"),
        ("shapes:big", "write shapes:SIZE:CLASSES:COUNT:SEED"),
        ("shapes:1:2:3:4:5", "write shapes:SIZE:CLASSES:COUNT:SEED"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(KDScopeError, match=message):
        load(name)
