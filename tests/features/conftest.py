"""A dataset of random pixels and a network of a few weights, so that every test here is quick."""

import pytest
import torch
from torch import nn

from kdscope.data import Dataset, Split
from kdscope.features import extract_features


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for name, count in (("train", 40), ("test", 103)):
        images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
        splits[name] = Split(name, images, torch.randint(0, 5, (count,), generator=generator))
    classes = ("a", "b", "c", "d", "e")
    return Dataset("noise", splits["train"], splits["test"], None, classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def net():
    """conv, batch normalisation, ReLU in place, pooling, head: [B, 3, 8, 8] to [B, 5]."""
    torch.manual_seed(0)
    layers = {
        "conv": nn.Conv2d(3, 6, 3, padding=1),
        "bn": nn.BatchNorm2d(6),
        "relu": nn.ReLU(inplace=True),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "fc": nn.Linear(6, 5),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    nn.init.uniform_(network.bn.running_mean, -0.5, 0.5)
    return network.eval()


@pytest.fixture
def extract(net, dataset, tmp_path):
    def call(out="a", **options):
        options = {"layers": ["bn", "relu", "penultimate"], "batch_size": 16, **options}
        return extract_features(
            options.pop("model", net), options.pop("dataset", dataset), "test", tmp_path / out, **options
        )

    return call
