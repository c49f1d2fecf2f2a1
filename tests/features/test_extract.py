"""What an extraction writes of a network, and what it refuses."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from kdscope.data import Batches, Split
from kdscope.errors import KDScopeError
from kdscope.features import Capture, FeatureCache, extract_features
from kdscope.features.upkeep import verify


@pytest.mark.parametrize("reduction", ["pool", "attention", "full"])
def test_the_cache_holds_what_the_network_says(extract, net, dataset, reduction):
    cache = extract(reduction=reduction, dtype="float32")
    batches = Batches(dataset.test, dataset, batch_size=16)
    with torch.inference_mode(), Capture(net, ["bn"]) as capture:
        seen = [capture(batch.image) for batch in batches.epoch()]
    logits, maps = torch.cat([f.logits for f in seen]), torch.cat([f["bn"] for f in seen])
    expected = {"pool": maps.mean((2, 3)), "attention": maps.square().sum(1), "full": maps}[reduction]
    assert torch.equal(torch.from_numpy(cache.logits), logits)
    torch.testing.assert_close(torch.from_numpy(cache.feature("bn")[:]), expected)
    assert cache.labels.tolist() == dataset.test.labels.tolist()
    assert cache.index.tolist() == list(range(103))
    assert (cache.logits.dtype, cache.labels.dtype, cache.feature("bn").dtype) == (np.float32, np.int64, np.float32)
    assert cache.feature("penultimate").shape == (103, 6)
    assert cache.layers == ["bn", "relu", "penultimate"]


def test_the_default_is_the_stages_pooled_and_the_penultimate_vector(dataset, tmp_path):
    from kdscope.models import build

    cache = extract_features(build("resnet8", 5, image_size=8), dataset, "test", tmp_path / "a")
    assert cache.layers == ["layer1", "layer2", "layer3", "penultimate"]
    assert [cache.feature(layer).shape for layer in cache.layers] == [(103, 16), (103, 32), (103, 64), (103, 64)]
    np.testing.assert_array_equal(cache.feature("layer3")[:], cache.feature("penultimate")[:])
    assert cache.feature("layer3").dtype == np.float16


def test_a_network_without_stages_or_classifier_has_its_logits(dataset, tmp_path):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cache = extract_features(net, dataset, "test", tmp_path / "a")
    assert cache.layers == []
    assert cache.logits.shape == (103, 3)


def test_the_network_is_given_back_as_it_was(extract, net):
    net.train()
    net.bn.eval()
    net.conv.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract()
    assert [m.training for m in net] == [True, False, True, True, True, True]
    assert not net.conv.weight.requires_grad
    assert net.fc.weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_network_is_given_back_after_an_error(extract, net):
    net.train()
    net.bn.weight.data[:] = 1e6
    with pytest.raises(KDScopeError, match="float16"):
        extract(reduction="full")
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


def test_a_view_can_be_made_again(extract, dataset):
    cache = extract(view="standard", view_seed=3, view_epoch=2, dtype="float32", reduction="full")
    batch = Batches(dataset.test, dataset, augment="standard", seed=3).batch(torch.arange(16), epoch=2)
    again = Batches(dataset.test, dataset, augment="standard", seed=3).batch(torch.arange(16), epoch=3)
    assert not torch.equal(batch.image, again.image)
    other = extract("b", view="standard", view_seed=3, view_epoch=3)
    assert not np.array_equal(cache.logits, other.logits)
    assert cache.view == "standard"
    assert cache.identity["view"] == {"name": "standard", "seed": 3, "epoch": 2}


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17])
def test_ragged_ends(extract, count):
    cache = extract(limit=torch.arange(count))
    assert cache.index.tolist() == list(range(count))
    assert verify(cache.path) == []


def test_a_probe_set_is_sorted_and_each_image_is_taken_once(extract):
    limit = torch.tensor([90, 3, 4, 5, 3, 41])
    cache, whole = extract(limit=limit, dtype="float32"), extract("b", dtype="float32")
    assert cache.index.tolist() == [3, 4, 5, 41, 90]
    assert cache.identity["samples"] == "3:6,41,90"
    np.testing.assert_allclose(cache.logits, whole.logits[cache.index], rtol=1e-5, atol=1e-6)
    with pytest.raises(KDScopeError, match="0 to 102"):
        extract("c", limit=torch.tensor([103]))


def test_bfloat16_makes_the_round_trip_exactly(extract, net, dataset):
    cache = extract(dtype="bfloat16", reduction="full")
    exact = extract("b", dtype="float32", reduction="full").feature("bn")[:]
    expected = torch.from_numpy(exact).to(torch.bfloat16)
    assert torch.equal(torch.from_numpy(cache.feature("bn")[:]), expected.float())
    assert torch.equal(torch.from_numpy(cache.feature("bn")[5:7]).to(torch.bfloat16), expected[5:7])
    with h5py.File(cache.path / "index.h5") as file:
        stored = file["features/bn"]
        assert (stored.dtype, stored.attrs["torch_dtype"]) == (np.uint16, "bfloat16")
        assert torch.equal(torch.from_numpy(stored[:]).view(torch.bfloat16), expected)


def test_what_float16_cannot_hold_stops_the_extraction(extract, net, tmp_path):
    net.bn.weight.data[:] = 1e6
    with pytest.raises(KDScopeError, match=r"layer 'bn' has a value beyond the range of float16"):
        extract(reduction="full")
    assert not list((tmp_path / "a.kdcache").glob("*.h5"))
    assert not list((tmp_path / "a.kdcache").glob(".*.tmp"))
    again = extract(reduction="full", dtype="bfloat16")  # in the same place: nothing was committed there
    assert np.isfinite(again.feature("bn")[:]).all()
    assert verify(again.path) == []


class Sick(nn.Module):
    """A network that says nothing sensible of images whose first pixel is white."""

    def __init__(self, net, layer, value):
        super().__init__()
        self.net, self.layer, self.value, self.side = net, layer, value, nn.Identity()

    def forward(self, image):
        sick = image[:, :1, 0, 0] > 1.5
        logits = self.net(image)
        self.side(torch.where(sick, self.value if self.layer == "side" else 0.0, logits))
        return torch.where(sick, self.value if self.layer == "logits" else 0.0, logits)


@pytest.mark.parametrize(
    ("layer", "value", "message"),
    [
        ("logits", float("nan"), "the logits are NaN for 2 of 16 images"),
        ("logits", float("inf"), "the logits are NaN or infinite for 2 of 16 images"),
        ("side", float("nan"), "layer 'side' is NaN for 2 of 16 images"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_network_that_gives_no_numbers_is_refused_by_its_images(
    extract, net, dataset, tmp_path, layer, value, message, dtype
):
    images = dataset.test.images.clone().clamp_max_(200)
    images[[35, 40], :, 0, 0] = 255
    data = replace(dataset, test=Split("test", images, dataset.test.labels))
    model = Sick(net, layer, value)
    with pytest.raises(KDScopeError, match=f"{message} of a batch, the first is image 35"):
        extract(model=model, dataset=data, dtype=dtype, layers=["side"])
    assert not list((tmp_path / "a.kdcache").glob("*.h5"))
    with pytest.raises(KDScopeError, match="not complete"):
        FeatureCache(tmp_path / "a").logits  # noqa: B018


def test_attention_maps_are_single_precision_unless_asked(extract):
    assert extract(reduction="attention").feature("bn").dtype == np.float32
    assert extract("b", reduction="attention", dtype="float16").feature("bn").dtype == np.float16


def test_dry_run_writes_nothing(extract, tmp_path):
    plan = extract(dry_run=True, reduction="full")
    assert list(tmp_path.iterdir()) == []
    rows = {array.name: (array.shape, array.dtype, array.bytes) for array in plan.arrays}
    assert rows["features/bn"] == ((6, 8, 8), "float16", 768)
    assert rows["features/penultimate"] == ((6,), "float16", 12)
    assert rows["logits"] == ((5,), "float32", 20)
    assert plan.total == 103 * (20 + 8 + 8 + 768 + 768 + 12)


def test_layers_that_mix_images_are_refused(dataset, tmp_path):
    class Mixes(nn.Module):
        def __init__(self):
            super().__init__()
            self.windows = nn.Identity()
            self.fc = nn.Linear(192, 5)

        def forward(self, x):
            return self.fc(self.windows(x.reshape(-1, 48)).reshape(len(x), -1))

    with pytest.raises(KDScopeError, match=r"'windows' gives .* for 2 images"):
        extract_features(Mixes(), dataset, "test", tmp_path / "a", layers=["windows"])


def test_classes_and_provenance_are_in_the_index(extract, tmp_path):
    cache = extract(identity={"model": "tiny", "weights": "w"})
    with h5py.File(cache.path / "index.h5") as file:
        assert [name.decode() for name in file["meta/classes"]] == ["a", "b", "c", "d", "e"]
        identity = json.loads(file["meta/provenance"][()])
    assert identity == cache.identity
    assert (identity["model"], identity["weights"], identity["target"]) == ("tiny", "w", None)


def test_unknown_choices(extract):
    with pytest.raises(KDScopeError, match="nearest: float16"):
        extract(dtype="float61")
    with pytest.raises(KDScopeError, match="nearest: pool"):
        extract(reduction="pol")
    with pytest.raises(KDScopeError, match="nearest: relu"):
        extract(layers=["rellu"])
    with pytest.raises(KDScopeError, match="precision"):
        extract(precision="8")
    assert extract(precision="bf16").logits.dtype == np.float32
