"""Datasets by name, and what a bad name or an absent dataset is answered."""

import numpy as np
import pytest
import torch

from kdscope.data import DATASETS, load
from kdscope.errors import KDScopeError


def test_datasets_find_themselves():
    assert {"cifar10", "cifar100", "digits", "folder", "shapes"} <= set(DATASETS)


def test_digits_are_the_scans():
    from sklearn.datasets import load_digits

    data = load("digits:8")
    assert (len(data.train), len(data.test), data.image_size, data.classes[3]) == (1438, 359, 8, "3")
    both = torch.cat([data.train.images, data.test.images])[:, 0].flatten(1)
    scans = np.round(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, 64)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, scans))
    assert (data.train.images[:, 0] == data.train.images[:, 2]).all()


def test_digits_test_part_is_a_fifth_of_each_class_whatever_the_seed():
    first, second = load("digits", seed=0), load("digits", seed=1, validation=0.2)
    assert first.test.fingerprint == second.test.fingerprint
    assert first.image_size == 16
    whole = torch.bincount(torch.cat([first.train.labels, first.test.labels]))
    assert ((torch.bincount(first.test.labels) - whole / 5).abs() < 1).all()
    pixels = first.train.images.double() / 255
    assert first.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert first.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_sizes_in_the_name_and_beside_it():
    assert load("digits:32").image_size == load("digits", image_size=32).image_size == 32
    with pytest.raises(KDScopeError, match="give one"):
        load("digits:32", image_size=16)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown dataset 'digit'; nearest: digits"),
        ("digits:big", {}, "write digits:SIZE"),
        ("digits:4", {}, "8 to 512 px"),
        ("digits", {"image_size": 0}, "image_size=0"),
        ("digits", {"validation": 1.5}, "validation=1.5"),
        ("cifar10:3", {}, "write cifar10"),
        ("folder", {}, "write folder:PATH"),
    ],
)
def test_bad_requests(name, options, message):
    with pytest.raises(KDScopeError, match=message):
        load(name, **options)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_absent_cifar_says_where_it_looked_and_what_to_do(name, tmp_path, monkeypatch):
    with pytest.raises(KDScopeError) as error:
        load(name, root=tmp_path / "here")
    for word in (name, str(tmp_path / "here"), "--download", "KDSCOPE_DATA", "folder:PATH"):
        assert word in str(error.value)
    monkeypatch.setenv("KDSCOPE_DATA", str(tmp_path / "there"))
    with pytest.raises(KDScopeError, match="there"):
        load(name)
    assert list(tmp_path.iterdir()) == []


def test_cifar_is_what_the_loader_gives(monkeypatch):
    import torchvision

    class Loader:
        base_folder, classes = "none", ["cat", "dog"]

        def __init__(self, root, train, download):
            generator = np.random.default_rng(int(train))
            self.data = generator.integers(0, 256, (20 if train else 10, 32, 32, 3), dtype=np.uint8)
            self.targets = [position % 2 for position in range(len(self.data))]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Loader)
    data = load("cifar10")
    assert (len(data.train), len(data.test), data.classes) == (20, 10, ("cat", "dog"))
    expected = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert load("cifar10", image_size=16).image_size == 16
