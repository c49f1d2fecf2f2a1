"""Long-tailed versions: exact sizes, the same images every time, a test part that stays as it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.config import DataSettings
from kdscope.data import load
from kdscope.data.long_tail import class_counts, long_tailed
from kdscope.errors import KDScopeError

CIFAR100 = torch.arange(100).repeat(500)[torch.randperm(50_000, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("ratio", "total", "last"), [(10, 19_573, 50), (50, 12_608, 10), (100, 10_847, 5)])
def test_cifar100_has_its_published_sizes(ratio, total, last):
    kept = CIFAR100[long_tailed(CIFAR100, ratio)]
    sizes = torch.bincount(kept, minlength=100)
    assert (len(kept), int(sizes[0]), int(sizes[-1])) == (total, 500, last)
    assert sizes.tolist() == [int(500 * (1 / ratio) ** (c / 99)) for c in range(100)]
    assert (sizes.diff() <= 0).all()


def test_the_sizes_of_ratio_100_begin_and_end_as_published():
    sizes = class_counts(500, 100, 100)
    assert sizes[:3] == [500, 477, 455]
    assert sizes[-3:] == [5, 5, 5]


@given(st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_the_smallest_class_is_the_exact_share(ratio):
    sizes = class_counts(500, 100, ratio)
    assert (sizes[0], sizes[-1]) == (500, 500 // ratio)
    assert class_counts(500, 4, 8)[1] == 250  # 500 / 8^(1/3), which floating point puts just below


def test_the_choice_is_chance_and_the_same_every_time_and_nested():
    first = long_tailed(CIFAR100, 100)
    assert torch.equal(first, long_tailed(CIFAR100, 100))
    assert torch.equal(first, first.unique())  # ascending, none twice
    assert set(first.tolist()) < set(long_tailed(CIFAR100, 50).tolist()) < set(long_tailed(CIFAR100, 10).tolist())
    tail = first[CIFAR100[first] >= 50].double() / 50_000
    assert abs(float(tail.mean()) - 0.5) < 4 / (12 * len(tail)) ** 0.5  # from all over, not the first of each class


def test_no_imbalance_keeps_all():
    assert torch.equal(long_tailed(CIFAR100, 1), torch.arange(50_000))


def test_any_dataset_has_long_tailed_versions():
    whole, tail = load("digits"), load("long-tail:10:digits", validation=0.1)
    sizes = torch.bincount(load("long-tail:10:digits").train.labels)
    largest = int(torch.bincount(whole.train.labels).max())
    asked = torch.tensor(class_counts(largest, 10, 10))
    assert torch.equal(sizes, torch.minimum(asked, torch.bincount(whole.train.labels)))
    assert tail.test.fingerprint == whole.test.fingerprint
    assert len(tail.validation) == round(0.1 * int(sizes.sum()))
    assert tail.train.masks is None
    pixels = load("long-tail:10:digits").train.images.double() / 255
    assert tail.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())


def test_cifar_versions_are_of_cifar(tmp_path, monkeypatch):
    import numpy as np
    import torchvision

    class Loader:
        base_folder, classes = "none", [str(c) for c in range(100)]

        def __init__(self, root, train, download):
            self.targets = list(range(100)) * (100 if train else 2)
            self.data = np.zeros((len(self.targets), 32, 32, 3), dtype=np.uint8)
            self.data[:, 0, 0, 0] = np.arange(len(self.targets)) % 256

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Loader)
    data = load("cifar100-lt:20")
    assert torch.bincount(data.train.labels).tolist() == class_counts(100, 100, 20)
    whole = load("cifar100")
    assert torch.equal(data.train.images, whole.train.images[long_tailed(whole.train.labels, 20)])
    assert len(data.test) == 200
    assert data.name == "cifar100-lt:20"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar100-lt", r"a number of at least 1; write cifar100-lt:100"),
        ("cifar10-lt:0.5", r"a number of at least 1; write cifar10-lt:100"),
        ("cifar100-lt:many", r"a number of at least 1; write cifar100-lt:100"),
        ("long-tail:10", "write long-tail:R:NAME"),
        ("long-tail:x:digits", "write long-tail:100:digits"),
        ("long-tail:10:digit", "unknown dataset 'digit'; nearest: digits"),
        ("long-tail:1000:digits", "leaves class 9 without an image; the largest is 146"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(KDScopeError, match=message):
        load(name)


def test_a_path_inside_the_name_means_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("folder", "imagenet", "imagenet-lt", "tiny-imagenet", "long-tail:10:folder"):
        assert DataSettings(name=f"{kind}:here").name == f"{kind}:{tmp_path / 'here'}"
    assert DataSettings(name="long-tail:10:digits").name == "long-tail:10:digits"
