"""Class folders: decoded once and kept whole, whatever is wrong with the images or happens on the way."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from PIL import Image

from kdscope.data import folder as module
from kdscope.data import load
from kdscope.errors import KDScopeError


@pytest.fixture
def images(tmp_path):
    """PNG images of 12 x 12 in PATH/train and PATH/test, three classes; those of train by (class, number)."""
    generator = np.random.default_rng(0)
    pixels = {}
    for split, count in (("train", 5), ("test", 2)):
        for name in ("bee", "ant", "cow"):
            place = tmp_path / "pictures" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(image).save(place / f"{number}.png")
                pixels[split, name, number] = image
    return tmp_path / "pictures", pixels


def open_folder(path, cache, **options):
    return load(f"folder:{path}", cache_dir=cache, **options)


def test_images_labels_and_classes(images, tmp_path):
    path, pixels = images
    data = open_folder(path, tmp_path / "cache")
    assert data.classes == ("ant", "bee", "cow")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = np.stack([pixels["train", name, number] for name in data.classes for number in range(5)])
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert data.mean == pytest.approx((expected / 255).mean((0, 1, 2)))
    assert data.std == pytest.approx((expected / 255).std((0, 1, 2)))


def test_the_second_start_decodes_nothing(images, tmp_path, monkeypatch):
    path, _ = images
    first = open_folder(path, tmp_path / "cache")
    monkeypatch.setattr(module, "read_image", None)
    monkeypatch.setattr(module, "decode", None)
    second = open_folder(path, tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.train.images, torch.Tensor)


def test_a_changed_folder_is_decoded_anew(images, tmp_path):
    path, _ = images
    first = open_folder(path, tmp_path / "cache")
    Image.new("RGB", (12, 12), "red").save(path / "train" / "ant" / "9.png")
    assert len(open_folder(path, tmp_path / "cache").train) == len(first.train) + 1
    before = (path / "train" / "ant" / "0.png").stat()
    Image.new("RGB", (12, 12), "blue").save(path / "train" / "ant" / "0.png")
    os.utime(path / "train" / "ant" / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert open_folder(path, tmp_path / "cache").train.images[0, 2].unique().item() == 255


def test_val_stands_in_for_test_and_other_files_are_left_alone(images, tmp_path):
    path, _ = images
    (path / "test").rename(path / "val")
    (path / "train" / "ant" / "notes.txt").write_text("not an image")
    (path / "train" / ".hidden").mkdir()
    data = open_folder(path, tmp_path / "cache")
    assert (len(data.train), len(data.test)) == (15, 6)


def test_image_size_scales_the_short_side_and_cuts_the_centre(images, tmp_path):
    path, _ = images
    wide = np.zeros((12, 24, 3), dtype=np.uint8)
    wide[:, 6:18] = 200
    Image.fromarray(wide).save(path / "train" / "ant" / "0.png")
    with pytest.raises(KDScopeError, match=r"24 x 12 pixels and others have|12 x 12 pixels and others have"):
        open_folder(path, tmp_path / "cache")
    data = open_folder(path, tmp_path / "cache", image_size=12)
    assert (data.train.images[0] == 200).all()
    assert open_folder(path, tmp_path / "cache", image_size=6).train.images.shape == (15, 3, 6, 6)


def test_grey_and_transparent_images_become_colour(images, tmp_path):
    path, _ = images
    Image.new("L", (12, 12), 90).save(path / "train" / "ant" / "0.png")
    Image.new("RGBA", (12, 12), (1, 2, 3, 255)).save(path / "train" / "ant" / "1.png")
    data = open_folder(path, tmp_path / "cache")
    assert (data.train.images[0] == 90).all()
    assert data.train.images[1, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(images, tmp_path, suffix):
    path, _ = images
    deep = np.linspace(0, 65535, 144).round().astype(np.uint16).reshape(12, 12)
    target = path / "train" / "ant" / f"00.{suffix}"
    if suffix == "pgm":
        target.write_bytes(b"P5 12 12 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(target)
    first = open_folder(path, tmp_path / "cache").train.images[1].numpy()  # after 0.png
    assert np.array_equal(first, np.stack([(deep / 257).round()] * 3))
    assert (first.min(), first.max()) == (0, 255)


def test_pixels_without_a_known_white_are_refused(images, tmp_path):
    path, _ = images
    Image.fromarray(np.full((12, 12), 0.5, dtype=np.float32)).save(path / "train" / "ant" / "9.tif")
    with pytest.raises(KDScopeError, match=r"9\.tif .*numbers of 32 bits \(F\)"):
        open_folder(path, tmp_path / "cache")


def test_a_decode_that_fails_late_leaves_nothing(images, tmp_path):
    path, _ = images
    (path / "test" / "cow" / "1.png").write_bytes(b"broken")
    with pytest.raises(KDScopeError, match=r"test/cow/1\.png"):
        open_folder(path, tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["lock"]


@pytest.mark.parametrize("broken", ["text", "truncated", "empty"])
def test_an_unreadable_image_is_named_and_nothing_is_left(images, tmp_path, broken):
    path, _ = images
    target = path / "train" / "cow" / "3.png"
    content = {"text": b"no image", "truncated": target.read_bytes()[:200], "empty": b""}[broken]
    target.write_bytes(content)
    with pytest.raises(KDScopeError, match=r"train/cow/3\.png is not an image that can be read"):
        open_folder(path, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != "lock"] == []


def test_many_images_go_through_several_processes(images, tmp_path, monkeypatch):
    path, pixels = images
    monkeypatch.setattr(module, "CHUNK", 2)
    data = open_folder(path, tmp_path / "cache")
    expected = np.stack([pixels["train", name, number] for name in data.classes for number in range(5)])
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), expected)
    (path / "train" / "bee" / "1.png").write_bytes(b"broken")
    with pytest.raises(KDScopeError, match=r"bee/1\.png"):
        open_folder(path, tmp_path / "cache")


def _open_and_count(path, cache, ready, queue):
    torch.set_num_threads(1)  # a forked process has none of its parent's OpenMP threads, and would wait for them
    decoded = []
    decode = module.decode
    module.decode = lambda *arguments: (decoded.append(arguments[3]), decode(*arguments))
    ready.wait()
    queue.put((len(decoded), open_folder(path, cache).fingerprint, len(decoded)))


def test_two_processes_at_once_decode_once(images, tmp_path):
    path, _ = images
    context = multiprocessing.get_context("fork")
    queue, ready = context.Queue(), context.Barrier(2)
    pair = [
        context.Process(target=_open_and_count, args=(path, tmp_path / "cache", ready, queue), daemon=True)
        for _ in range(2)
    ]
    for process in pair:
        process.start()
    found = [queue.get(timeout=60) for _ in pair]
    for process in pair:
        process.join()
    assert sorted(count for _, _, count in found) == [0, 2]
    assert len({print_ for _, print_, _ in found}) == 1


def test_what_a_killed_process_left_is_swept_away(images, tmp_path):
    path, _ = images
    open_folder(path, tmp_path / "cache")
    (place,) = (tmp_path / "cache" / "folder").iterdir()
    (place / "facts.json").unlink()
    (place / ".train.npy.123.tmp").write_bytes(b"half")
    (place / "train.npy").write_bytes(b"half")
    assert len(open_folder(path, tmp_path / "cache").train) == 15
    assert sorted(p.name for p in place.iterdir()) == ["facts.json", "lock", "test.npy", "train.npy"]


def test_a_full_disk_is_one_line(images, tmp_path, monkeypatch):
    path, _ = images

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_decode_some", full)
    with pytest.raises(KDScopeError, match="the disk is full"):
        open_folder(path, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != "lock"] == []


def test_folders_that_are_not_as_they_should_be(images, tmp_path):
    path, _ = images
    cases = [(path / "nowhere", "is not a folder"), (path / "train", r"train/train is missing")]
    for place, message in cases:
        with pytest.raises(KDScopeError, match=message):
            open_folder(place, tmp_path / "cache")
    (path / "train" / "dog").mkdir()
    with pytest.raises(KDScopeError, match="train/dog has no images"):
        open_folder(path, tmp_path / "cache")
    Image.new("RGB", (12, 12)).save(path / "train" / "dog" / "0.png")
    with pytest.raises(KDScopeError, match="differ in classes: dog"):
        open_folder(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_validation_is_held_out_of_the_mapped_images(images, tmp_path):
    path, _ = images
    data = open_folder(path, tmp_path / "cache", validation=0.2)
    assert (len(data.train), len(data.validation)) == (12, 3)
    assert sorted(data.validation.labels.tolist()) == [0, 1, 2]
