"""ImageNet, ImageNet-LT and Tiny ImageNet on made-up trees of their layouts: labels, pixels, and what is answered."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from kdscope.data import Batches, Split, load
from kdscope.data.decoding import read_image
from kdscope.data.image_files import ImageFiles
from kdscope.errors import KDScopeError

CLASSES = ("n01440764", "n01443537", "n01484850")


def picture(path, number, size=(40, 30)):
    """A JPEG of one colour at each end, so that cutting and scaling show."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2] = (7 * number % 256, 200, 30)
    pixels[:, size[0] // 2 :] = (20, 11 * number % 256, 90)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture
def tree(tmp_path):
    """PATH/train/CLASS/ with 5 images each and PATH/val/CLASS/ with 2, of several sizes."""
    root = tmp_path / "ilsvrc"
    for c, name in enumerate(CLASSES):
        for number in range(5):
            picture(root / "train" / name / f"{name}_{number}.JPEG", 10 * c + number, (40 + number, 30))
        for number in range(2):
            picture(root / "val" / name / f"ILSVRC2012_val_{2 * c + number:08d}.JPEG", 50 + c + number, (30, 48))
    return root


@pytest.fixture
def lists(tree):
    """Lists as ImageNet-LT has them: 4, 2 and 1 images of train, one of each class to validate, all of val to test."""
    (tree / "ImageNet_LT").mkdir()
    train = [(c, n) for c, count in enumerate((4, 2, 1)) for n in range(count)]
    lines = [f"train/{CLASSES[c]}/{CLASSES[c]}_{n}.JPEG {c}" for c, n in train]
    (tree / "ImageNet_LT" / "ImageNet_LT_train.txt").write_text("\n".join(lines) + "\n")
    lines = [f"train/{name}/{name}_4.JPEG {c}" for c, name in enumerate(CLASSES)]
    (tree / "ImageNet_LT" / "ImageNet_LT_val.txt").write_text("\n".join(lines))
    lines = [
        f"{path.relative_to(tree)} {c}" for c, name in enumerate(CLASSES) for path in (tree / "val" / name).iterdir()
    ]
    (tree / "ImageNet_LT" / "ImageNet_LT_test.txt").write_text("\n".join(lines))
    return tree


@pytest.fixture
def tiny(tmp_path):
    """The archive's layout: train/CLASS/images/ with boxes beside, val/images/ with one list, an unlabelled test/."""
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for c, name in enumerate(CLASSES):
        for number in range(4):
            picture(root / "train" / name / "images" / f"{name}_{number}.JPEG", 10 * c + number, (64, 64))
        (root / "train" / name / f"{name}_boxes.txt").write_text("x.JPEG\t0\t0\t9\t9\n")
    for number, c in enumerate((2, 0, 1, 0)):
        picture(root / "val" / "images" / f"val_{number}.JPEG", 70 + number, (64, 64))
        lines.append(f"val_{number}.JPEG\t{CLASSES[c]}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    picture(root / "test" / "images" / "test_0.JPEG", 3, (64, 64))
    return root


def test_imagenet_is_class_folders_that_are_decoded_when_read(tree):
    data = load(f"imagenet:{tree}", image_size=14)
    assert data.classes == CLASSES
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (data.train.shape, data.test.shape) == ((15, 3, 14, 14), (6, 3, 14, 14))
    assert (data.validation, data.train.masks, data.train.boxes) == (None, None, None)
    paths = sorted((tree / "train").rglob("*.JPEG"))
    for position in (0, 7, 14):
        expected = read_image(str(paths[position]), 14)
        assert np.array_equal(data.train.read(torch.tensor([position]))[0].numpy(), expected)
    assert np.array_equal(data.train.images.numpy(), np.stack([read_image(str(path), 14) for path in paths]))
    assert load(f"imagenet:{tree}").image_size == 224


def test_evaluation_scales_to_eight_sevenths_and_cuts_the_centre(tree):
    data = load(f"imagenet:{tree}", image_size=14)
    path = sorted((tree / "val" / CLASSES[0]).iterdir())[0]
    with Image.open(path) as image:
        scaled = image.resize((16, round(48 * 16 / 30)), Image.Resampling.BICUBIC)
    top = (scaled.height - 14) // 2
    expected = np.asarray(scaled.crop((1, top, 15, top + 14))).transpose(2, 0, 1)
    assert np.array_equal(data.test.read(torch.tensor([0]))[0].numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_decode_the_very_images_that_memory_would_hold(tree, workers):
    data = load(f"imagenet:{tree}", image_size=14, validation=0.2)
    assert (len(data.train), len(data.validation)) == (12, 3)
    assert sorted(data.validation.labels.tolist()) == [0, 1, 2]
    resident = Split("train", data.train.images, data.train.labels)
    options = {"augment": "standard", "batch_size": 5, "shuffle": True, "seed": 3}
    streamed = Batches(data.train, data, workers=workers, **options)
    stored = Batches(resident, data, **options)
    assert (streamed.streams, stored.streams) == (True, False)  # files stream whatever the budget
    for first, second in zip(streamed.epoch(1), stored.epoch(1), strict=True):
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.label, second.label)
    index = torch.tensor([7, 0])
    assert torch.equal(streamed.batch(index).image, stored.batch(index).image)
    assert (
        data.train.fingerprint
        == resident.fingerprint
        == load(f"imagenet:{tree}", image_size=14, validation=0.2).train.fingerprint
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_line_from_a_worker_too(tree, workers):
    path = tree / "train" / CLASSES[1] / f"{CLASSES[1]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    data = load(f"imagenet:{tree}", image_size=14)
    with pytest.raises(KDScopeError, match=r"n01443537_2\.JPEG is not an image that can be read") as error:
        list(Batches(data.train, data, workers=workers, batch_size=4).epoch())
    assert "\n" not in str(error.value)


def test_a_part_of_a_part_reads_its_own_files(tree):
    data = load(f"imagenet:{tree}", image_size=8)
    part = data.train.subset(torch.tensor([9, 3, 12])).subset(torch.tensor([2, 0]))
    assert torch.equal(part.images, data.train.images[[12, 9]])
    assert part.labels.tolist() == [2, 1]


def test_names_of_any_letters_survive(tmp_path):
    names = ["a/é ü.png", "b/日本.png", "b/x" * 3 + ".png"]
    for number, name in enumerate(names):
        picture(tmp_path / name, number, (8, 8))
    images = ImageFiles(tmp_path, names, 8)
    assert [images.path(k) for k in range(3)] == [f"{tmp_path}/{name}" for name in names]
    assert images[torch.tensor([2, 0])].shape == (2, 3, 8, 8)
    assert images[torch.tensor([], dtype=torch.int64)].shape == (0, 3, 8, 8)


def test_imagenet_lt_follows_its_lists(lists):
    data = load(f"imagenet-lt:{lists}", image_size=14)
    assert torch.bincount(data.train.labels).tolist() == [4, 2, 1]
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert data.classes == CLASSES
    assert data.validation.labels.tolist() == [0, 1, 2]
    expected = read_image(str(lists / "train" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG"), 14)
    assert np.array_equal(data.train.read(torch.tensor([5]))[0].numpy(), expected)
    evaluated = read_image(str(lists / "train" / CLASSES[2] / f"{CLASSES[2]}_4.JPEG"), 14, 16)
    assert np.array_equal(data.validation.read(torch.tensor([2]))[0].numpy(), evaluated)
    shutil.move(lists / "ImageNet_LT" / "ImageNet_LT_train.txt", lists)
    (lists / "ImageNet_LT" / "ImageNet_LT_val.txt").unlink()
    moved = load(f"imagenet-lt:{lists}", image_size=14)
    assert moved.train.fingerprint == data.train.fingerprint
    assert moved.validation is None


@pytest.mark.parametrize(
    ("list_", "line", "message"),
    [
        (
            "train",
            "train/n01440764/n01440764_9.JPEG 0",
            r"line 8 names .*_9\.JPEG, which is not in .*; nearest there: n01440",
        ),
        ("train", "train/n09999999/x.JPEG 3", r"line 8 names .*x\.JPEG, which is not in .*n09999999 has no files"),
        (
            "train",
            "train/n01443537/n01443537_3.JPEG 0",
            "line 8 gives label 0 to n01443537, which is that of n01440764",
        ),
        ("train", "train/n01443537/n01443537_3.JPEG 7", "has labels up to 7 and no image of label 3"),
        ("train", "train/n01443537/n01443537_3.JPEG", "line 8 is not FOLDER/CLASS/FILE, space, LABEL"),
        ("test", "val/n01443538/x.JPEG 1", r"unknown class 'n01443538' in .*_test\.txt, line 7; nearest: n01443537"),
        ("test", "val/n01443537/x.JPEG 2", "line 7 gives label 2 to n01443537, which is that of n01484850"),
    ],
)
def test_bad_lists_are_told_by_line(lists, list_, line, message):
    path = lists / "ImageNet_LT" / f"ImageNet_LT_{list_}.txt"
    path.write_text(path.read_text().rstrip() + "\n" + line)
    with pytest.raises(KDScopeError, match=message) as error:
        load(f"imagenet-lt:{lists}")
    assert "\n" not in str(error.value)


def test_tiny_imagenet_is_labelled_by_its_annotations(tiny, tmp_path):
    data = load(f"tiny-imagenet:{tiny}", cache_dir=tmp_path / "cache", validation=0.25)
    assert (data.classes, data.image_size) == (CLASSES, 64)
    assert torch.bincount(data.train.labels).tolist() == [3, 3, 3]
    assert data.validation.labels.sort().values.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [2, 0, 1, 0]
    expected = np.stack([read_image(str(tiny / "val" / "images" / f"val_{k}.JPEG"), 64) for k in range(4)])
    assert np.array_equal(data.test.images.numpy(), expected)
    first = read_image(str(tiny / "train" / CLASSES[0] / "images" / f"{CLASSES[0]}_0.JPEG"), 64)
    whole = load(f"tiny-imagenet:{tiny}", cache_dir=tmp_path / "cache")
    assert np.array_equal(whole.train.images[0].numpy(), first)
    assert whole.train.masks is None


def test_tiny_imagenet_with_a_sorted_val_is_the_same(tiny, tmp_path):
    before = load(f"tiny-imagenet:{tiny}", cache_dir=tmp_path / "cache")
    for number, c in enumerate((2, 0, 1, 0)):
        place = tiny / "val" / CLASSES[c] / "images"
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(tiny / "val" / "images" / f"val_{number}.JPEG", place)
    (tiny / "val" / "images").rmdir()
    (tiny / "val" / "val_annotations.txt").unlink()
    after = load(f"tiny-imagenet:{tiny}", cache_dir=tmp_path / "cache")
    assert after.test.labels.tolist() == [0, 0, 1, 2]
    assert torch.equal(after.test.images, before.test.images[[1, 3, 2, 0]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_9.JPEG\tn01440764\t0\t0\t1\t1", r"line 5 names val_9\.JPEG, which is not in .*; nearest there: val_"),
        ("val_0.JPEG\tn01440765\t0\t0\t1\t1", r"unknown class 'n01440765' in .*line 5; nearest: n01440764"),
        ("val_0.JPEG n01440764", "line 5 is not FILE, tab, CLASS"),
    ],
)
def test_bad_annotations_are_told_by_line(tiny, tmp_path, line, message):
    path = tiny / "val" / "val_annotations.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(KDScopeError, match=message):
        load(f"tiny-imagenet:{tiny}", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_folders_that_are_not_as_they_should_be(tree, tmp_path):
    def refused(name, message):
        with pytest.raises(KDScopeError, match=message) as error:
            load(name)
        assert "\n" not in str(error.value)

    refused("imagenet", "write imagenet:PATH, where PATH has train/ and val/")
    refused(f"imagenet:{tree}x", "ilsvrcx is not a folder; .*beside it: ilsvrc")
    refused(f"tiny-imagenet:{tree / 'val'}", r"val/train is missing; tiny-imagenet:PATH needs PATH/train/CLASS/images/")
    refused(f"imagenet-lt:{tree}", r"has no ImageNet_LT_train\.txt")
    (tree / "imagenet_lt_train.txt").write_text("")
    refused(f"imagenet-lt:{tree}", r"has no ImageNet_LT_train\.txt, .*nearest there: imagenet_lt_train\.txt")
    deep = tmp_path / "kaggle" / "ILSVRC" / "Data"
    deep.mkdir(parents=True)
    shutil.copytree(tree, deep / "CLS-LOC")
    refused(f"imagenet:{tmp_path / 'kaggle'}", r"has no train/; it is in .*: write imagenet:.*ILSVRC/Data/CLS-LOC")
    shutil.rmtree(tree / "val" / CLASSES[2])
    refused(f"imagenet:{tree}", r"train/ and val/ differ in classes: n01484850")
    shutil.rmtree(tree / "val")
    picture(tree / "val" / "ILSVRC2012_val_00000001.JPEG", 1)
    refused(
        f"imagenet:{tree}", r"val has only images such as ILSVRC2012_val_00000001\.JPEG; put the images of each class"
    )
