"""`kdscope extract` on a network and images from elsewhere."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdscope.cli.extract import extract
from kdscope.errors import KDScopeError
from kdscope.features import FeatureCache
from kdscope.models import build


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "decoded"))
    rng = np.random.default_rng(0)
    for k, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / "photos" / place).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20 + k, 24, 3), np.uint8)).save(tmp_path / "photos" / place / "0.png")
    torch.save(build("resnet8", 2).state_dict(), "weights.pt")
    return ["--model", "resnet8", "--checkpoint", "weights.pt", "--data", "folder:photos", "--device", "cpu"]


def call(*arguments):
    return CliRunner().invoke(extract, list(arguments), catch_exceptions=False)


def test_images_of_many_sizes_are_scaled_where_asked(photos, tmp_path):
    with pytest.raises(KDScopeError, match=r"24 x 21 pixels .*--image-size N"):
        call(*photos, "--out", "net")
    assert not list(tmp_path.glob("*.kdcache"))
    assert call(*photos, "--out", "net", "--image-size", "16").exit_code == 0
    assert FeatureCache(tmp_path / "net-test").identity["transform"]["size"] == [16, 16]
