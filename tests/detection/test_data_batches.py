"""Batches of detection: what an epoch shows is a function of (seed, epoch, index), wherever it is begun or shared."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdscope.detection.data import load
from kdscope.detection.data.batches import DetectionBatches, mirror
from kdscope.detection.data.image_files import DetectionImages
from kdscope.detection.data.record import DetectionSplit, Objects
from kdscope.errors import KDScopeError


@pytest.fixture(scope="module")
def split():
    return load("scenes:21").train


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five PNG files of five sizes; the second has a crowd beside an object, the third nothing."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    sizes = [(20, 30), (24, 16), (18, 18), (32, 20), (40, 41)]
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(pixels.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{i}.png")
    box = torch.tensor([[2.0, 3.0, 9.0, 11.0]])
    objects = Objects.of(
        [box, torch.cat([box, box + 4]), box[:0], box, box],
        [[1], [2, 1], [], [1], [2]],
        [[False], [False, True], [], [False], [False]],
    )
    images = DetectionImages(root, [f"{i}.png" for i in range(5)], torch.tensor(sizes))
    return DetectionSplit("train", images, objects, torch.arange(5) + 100)


def same(a, b):
    assert torch.equal(a.index, b.index)
    assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
    for one, other in zip(a.targets, b.targets, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["split", "files"])
def test_an_epoch_begun_in_the_middle_goes_on_as_the_whole(kind, workers, request):
    batches = DetectionBatches(
        request.getfixturevalue(kind), batch_size=2, shuffle=True, flip=0.5, seed=4, workers=workers
    )
    whole = list(batches.epoch(3))
    assert len(whole) == len(batches)
    for a, b in zip(whole[1:], batches.epoch(3, start=1), strict=True):
        same(a, b)
    same(whole[1], batches.batch(whole[1].index, epoch=3))
    shown = torch.cat([scenes.index for scenes in whole])
    assert sorted(shown.tolist()) == list(range(len(batches.split)))
    assert shown.tolist() != torch.cat([scenes.index for scenes in batches.epoch(4)]).tolist()


def test_pixels_and_boxes_are_those_of_the_split(split, files):
    for some in (split, files):
        for scenes in DetectionBatches(some, batch_size=3, everything=True, workers=0).epoch():
            for i, image, target in zip(scenes.index.tolist(), scenes.images, scenes.targets, strict=True):
                record = some[i]
                assert torch.equal((image * 255).round().to(torch.uint8), record.image)
                assert all(
                    torch.equal(target[key], getattr(record, key)) for key in ("boxes", "labels", "crowd", "area")
                )


def test_crowds_are_not_trained_on_and_stay_for_evaluation(files):
    train = DetectionBatches(files, batch_size=5, workers=0).batch(torch.arange(5))
    every = DetectionBatches(files, batch_size=5, workers=0, everything=True).batch(torch.arange(5))
    assert [len(target["boxes"]) for target in train.targets] == [1, 1, 0, 1, 1]
    assert [len(target["boxes"]) for target in every.targets] == [1, 2, 0, 1, 1]
    assert train.targets[1]["labels"].tolist() == [2]
    assert every.targets[1]["crowd"].tolist() == [False, True]
    assert train.targets[2]["boxes"].shape == (0, 4)
    assert train.targets[2]["labels"].dtype == torch.int64


@pytest.mark.parametrize("kind", ["split", "files"])
def test_a_flip_moves_pixels_and_boxes_together(kind, request):
    """What lies in a box is the same before and after, mirrored; half of the images are, and chosen anew each epoch."""
    some = request.getfixturevalue(kind)
    plain = DetectionBatches(some, batch_size=21, workers=0).batch(torch.arange(len(some)))
    always = DetectionBatches(some, batch_size=21, flip=1.0, workers=0).batch(torch.arange(len(some)))
    for image, turned, before, after in zip(plain.images, always.images, plain.targets, always.targets, strict=True):
        assert torch.equal(turned, image.flip(-1))
        assert len(before["boxes"]) == len(after["boxes"])
        for box, moved in zip(before["boxes"].int().tolist(), after["boxes"].int().tolist(), strict=True):
            inside = image[:, box[1] : box[3], box[0] : box[2]]
            assert torch.equal(turned[:, moved[1] : moved[3], moved[0] : moved[2]], inside.flip(-1))
    half = DetectionBatches(some, batch_size=21, flip=0.5, seed=1, workers=0)
    turns = [
        [
            torch.equal(a, b)
            for a, b in zip(half.batch(torch.arange(len(some)), epoch).images, plain.images, strict=True)
        ]
        for epoch in range(8)
    ]
    assert 0.3 < np.mean(turns) < 0.7
    assert turns[0] != turns[1]


def test_mirroring_twice_changes_nothing():
    boxes, widths, every = torch.tensor([[1.0, 2.0, 4.0, 7.0]]), torch.tensor([11.0]), torch.tensor([True])
    assert torch.equal(mirror(mirror(boxes, widths, every), widths, every), boxes)


@pytest.mark.parametrize("batch_size", [4, 6])
def test_ranks_share_each_batch(split, batch_size):
    alone = list(DetectionBatches(split, batch_size=batch_size, shuffle=True, flip=0.5, seed=2).epoch(1))
    ranks = [
        list(
            DetectionBatches(split, batch_size=batch_size, shuffle=True, flip=0.5, seed=2, rank=r, world_size=2).epoch(
                1
            )
        )
        for r in range(2)
    ]
    assert len(ranks[0]) == len(ranks[1])
    for whole, *parts in zip(alone, *ranks, strict=False):
        together = torch.cat([part.index for part in parts])
        assert together.tolist() == whole.index[: len(together)].tolist()
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images[: len(together)])
    covered = [DetectionBatches(split, batch_size=4, rank=r, world_size=2) for r in range(2)]
    seen = torch.cat([scenes.index for batches in covered for scenes in batches.epoch()])
    assert sorted(seen.tolist()) == list(range(21))
    assert [len(batches) for batches in covered] == [5, 6]


@pytest.mark.parametrize(("world", "least", "sizes"), [(1, 1, [4] * 5 + [1]), (1, 2, [4] * 5), (2, 1, [2] * 5)])
def test_a_ragged_batch_of_too_few_images_is_left_out(split, world, least, sizes):
    batches = DetectionBatches(split, batch_size=4, shuffle=True, least=least, world_size=world)
    assert [len(scenes.index) for scenes in batches.epoch()] == sizes
    assert len(batches) == len(sizes)


def test_what_does_not_fit_the_budget_gives_the_same(split):
    small = DetectionBatches(split, batch_size=4, shuffle=True, flip=0.5, memory_budget=1)
    for a, b in zip(small.epoch(), DetectionBatches(split, batch_size=4, shuffle=True, flip=0.5).epoch(), strict=True):
        same(a, b)


def test_an_image_of_another_size_than_its_boxes_is_named(files):
    images = DetectionImages(files.stored.root, ["0.png"], torch.tensor([[30, 20]]))
    wrong = DetectionSplit("train", images, files.objects.subset(torch.tensor([0])), torch.tensor([0]))
    with pytest.raises(KDScopeError, match=r"0\.png has 30 x 20 pixels and its annotations are for 20 x 30"):
        next(DetectionBatches(wrong, batch_size=1, workers=1).epoch())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 3, "shuffle": True, "world_size": 2}, "batch_size=3 is not a positive multiple of the 2"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not one"),
        ({"flip": 1.5}, "flip=1.5 is not a probability"),
    ],
)
def test_bad_options(split, options, said):
    with pytest.raises(KDScopeError, match=said):
        DetectionBatches(split, **options)


def test_an_index_outside_and_an_empty_split(split):
    with pytest.raises(KDScopeError, match="index 21 is outside split 'train' of 21 images"):
        DetectionBatches(split).batch(torch.tensor([21]))
    with pytest.raises(KDScopeError, match="split 'train' has no images"):
        DetectionBatches(split.subset(torch.tensor([], dtype=torch.int64)))
