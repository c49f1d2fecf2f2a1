import numpy as np
import pytest
import torch
from torch import nn

from kdscope.attention import activation_map
from kdscope.data import load
from kdscope.errors import KDScopeError
from kdscope.features.hooks import Capture
from kdscope.features.maps import extract_maps
from kdscope.features.thumbnails import thumbnails
from kdscope.features.upkeep import verify
from kdscope.models import build

SOME = torch.arange(20)


@pytest.fixture(scope="module")
def shapes():
    return load("shapes:32")


def network(seed=0, classes=10):
    torch.manual_seed(seed)
    return build("resnet8", num_classes=classes).eval()


def test_maps_masks_and_logits_are_those_of_the_network(tmp_path, shapes):
    net = network(classes=shapes.num_classes)
    learns = [p.requires_grad for p in net.parameters()]
    cache = extract_maps(net, shapes, "test", tmp_path / "c", limit=SOME, batch_size=8)
    assert cache.kind == "maps"
    assert not verify(cache.path)
    assert [n for n in cache.names if "layer3" in n] == [f"maps/{m}/layer3" for m in METHODS]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (shapes.mean, shapes.std))
    images = (shapes.test.images[:20].float() / 255 - mean) / std
    with torch.inference_mode(), Capture(net, ["layer1"]) as capture:
        features = capture(images)
    assert np.allclose(cache.logits, features.logits, atol=1e-4)
    assert np.allclose(
        cache.array("maps/activation/layer1")[:], activation_map(features["layer1"]), rtol=1e-3, atol=1e-4
    )
    assert np.array_equal(cache.array("meta/mask")[:], shapes.test.masks[:20].numpy().astype(np.uint8))
    assert np.array_equal(cache.array("meta/image")[:], shapes.test.images[:20].numpy())
    assert [p.requires_grad for p in net.parameters()] == learns
    cells = 64
    assert np.allclose(cache.array("maps/grad-cam/layer3")[:] * cells, cache.array("maps/cam/layer3")[:], atol=1e-4)


METHODS = ("activation", "cam", "cam-sum", "grad-cam")


def test_another_view_has_no_masks_and_another_class_another_key(tmp_path, shapes):
    net = network(classes=shapes.num_classes)
    view = extract_maps(net, shapes, "test", tmp_path / "v", limit=SOME, view="standard")
    assert "meta/mask" not in view.names
    extract_maps(net, shapes, "test", tmp_path / "l", limit=SOME, methods=["cam"])
    with pytest.raises(KDScopeError, match=r"target\.class is label there and predicted here"):
        extract_maps(net, shapes, "test", tmp_path / "l", limit=SOME, methods=["cam"], about="predicted")


def test_a_thumbnail_of_a_large_image_is_its_mean_over_areas():
    image = torch.arange(2 * 3 * 128 * 96, dtype=torch.float32).view(2, 3, 128, 96) / (2 * 3 * 128 * 96)
    small = thumbnails((image - 0.5) / 0.25, (0.5,) * 3, (0.25,) * 3)
    expected = image.unflatten(3, (48, 2)).unflatten(2, (64, 2)).mean((3, 5)) * 255
    assert small.shape == (2, 3, 64, 48)
    assert (small.float() - expected).abs().max() <= 0.501


def test_a_network_whose_head_reads_something_else(tmp_path):
    digits = load("digits")
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(KDScopeError, match="class activation map needs a linear head"):
        extract_maps(net, digits, "test", tmp_path / "none", limit=SOME, methods=["cam"])
    kept = extract_maps(net, digits, "test", tmp_path / "rest", limit=SOME)
    assert {name.split("/")[1] for name in kept.names if name.startswith("maps/")} == {"activation", "grad-cam"}
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 10))
    with pytest.raises(KDScopeError, match="not a linear head's of the average"):
        extract_maps(flat, digits, "test", tmp_path / "flat", limit=SOME, methods=["cam"])
    with pytest.raises(KDScopeError, match="unknown map 'cams'"):
        extract_maps(net, digits, "test", tmp_path / "unknown", methods=["cams"])
    with pytest.raises(KDScopeError, match="no attention blocks"):
        extract_maps(net, digits, "test", tmp_path / "tokens", methods=["rollout"])
    assert not (tmp_path / "flat.kdcache").exists()


def test_a_transformer(tmp_path):
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=10).eval()
    cache = extract_maps(net, load("digits"), "test", tmp_path / "vit", limit=SOME)
    kinds = [name for name in cache.names if name.startswith("maps/")]
    assert [name.split("/")[1] for name in kinds] == ["activation", "cls-attention", "rollout"]
    assert all(cache.array(name).shape == (20, 4, 4) for name in kinds)
