import errno
import itertools
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from kdscope.data import Batches, Split
from kdscope.errors import KDScopeError
from kdscope.features import Capture, FeatureCache, extract_features, produce, shard, writer
from kdscope.features.upkeep import verify


@pytest.fixture
def extract(net, dataset, tmp_path):
    def call(out="a", **options):
        options = {"layers": ["bn", "relu", "penultimate"], "batch_size": 16, **options}
        return extract_features(
            options.pop("model", net), options.pop("dataset", dataset), "test", tmp_path / out, **options
        )

    return call


def content(cache):
    return {name: next(cache.blocks([name], len(cache)))[name] for name in ["logits", "labels", "index", *cache.layers]}


def same(a, b):
    a, b = content(a), content(b)
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def snapshot(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}


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


def test_a_complete_cache_is_returned_untouched(extract, tmp_path):
    first = extract()
    before = snapshot(first.path)
    assert same(extract(), first)
    assert snapshot(first.path) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"view": "standard"}, "view.name is none there and standard here"),
        ({"view_seed": 1}, "view.seed is 0 there and 1 here"),
        ({"dtype": "float32"}, "dtype is float16 there and float32 here"),
        ({"reduction": "full"}, "reduction is pool there and full here"),
        ({"layers": ["bn"]}, "layers is .* there and .'bn'. here"),
        ({"limit": torch.arange(4)}, "samples is 0:103 there and 0:4 here"),
        ({"identity": {"weights": "other"}}, "weights is .* there and other here"),
    ],
)
def test_another_key_is_refused_by_the_field_that_differs(extract, change, field):
    cache = extract()
    before = snapshot(cache.path)
    with pytest.raises(KDScopeError, match=field) as caught:
        extract(**change)
    assert "\n" not in str(caught.value)
    assert snapshot(cache.path) == before


def test_a_run_may_be_renamed(extract):
    first = extract(identity={"run": "before"})
    assert extract(identity={"run": "after"}).identity == first.identity
    with pytest.raises(KDScopeError, match=r"else: weights is \S+ there and w here$"):
        extract(identity={"run": "after", "weights": "w"})


def test_other_weights_and_other_data_are_refused(extract, net, dataset):
    extract()
    net.fc.bias.data[0] += 1
    with pytest.raises(KDScopeError, match="made from something else: weights is"):
        extract()
    net.fc.bias.data[0] -= 1
    images = dataset.test.images.clone()
    images[0] += 1
    with pytest.raises(KDScopeError, match=r"made from something else: (weights|data) is"):
        extract(dataset=replace(dataset, test=Split("test", images, dataset.test.labels)))


def test_other_data_are_named_in_a_short_line(extract, dataset):
    extract()
    half = replace(dataset, test=dataset.test.subset(torch.arange(0, 103, 2)), mean=(0.1, 0.2, 0.3))
    with pytest.raises(KDScopeError, match=r"made from something else: data is \S+ there and \S+ here$"):
        extract(dataset=half)


def test_a_complete_cache_of_other_versions_is_good(extract, monkeypatch):
    first = extract()
    before = snapshot(first.path)
    monkeypatch.setattr(torch, "__version__", "99.0")
    again = extract()
    assert (again.key, snapshot(again.path)) == (first.key, before)
    with pytest.raises(KDScopeError, match=r"else: view.name is none there and standard here$"):
        extract(view="standard")
    next(first.path.glob("shard-*.h5")).unlink()
    with pytest.raises(
        KDScopeError, match=r"not whole, and was begun under other versions: versions.torch .*remove it"
    ):
        extract()


def test_a_cache_begun_under_other_versions_is_not_gone_on_with(extract, monkeypatch, tmp_path):
    with pytest.raises(KDScopeError, match="images are missing"):
        extract(rank=0, world_size=2)
    monkeypatch.setattr(torch, "__version__", "99.0")
    with pytest.raises(KDScopeError, match=r"under other versions: versions.torch is \S+ there and 99.0 here; go on"):
        extract()
    shutil.rmtree(tmp_path / "a.kdcache")
    assert extract().complete


@pytest.mark.parametrize("view", ["none", "standard"])
def test_a_streamed_split_is_read_ahead_and_gives_the_same(extract, monkeypatch, view):
    resident, reads = extract("resident", view=view), []
    read = Batches._reader
    monkeypatch.setattr(Batches, "_reader", lambda self, parts: reads.append(len(parts)) or read(self, parts))
    monkeypatch.setattr(produce, "Batches", partial(Batches, memory_budget=0))
    assert not extract("streamed", view=view, rank=1, world_size=3).complete
    streamed = extract("streamed", view=view)
    assert reads == [2, 5]
    assert same(resident, streamed)
    assert verify(streamed.path) == []


def test_a_folder_with_other_files_is_left_alone(extract, tmp_path):
    (tmp_path / "a.kdcache").mkdir()
    (tmp_path / "a.kdcache" / "thesis.tex").write_text("x")
    with pytest.raises(KDScopeError, match="something else than a cache"):
        extract()
    assert [path.name for path in (tmp_path / "a.kdcache").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_give_the_content_of_one_process(extract, world_size):
    one = extract("one", reduction="full")
    for rank in reversed(range(world_size)):
        many = extract("many", reduction="full", rank=rank, world_size=world_size)
    assert {shard["file"][:12] for shard in many.manifest["shards"]} == {
        f"shard-rank{r:02d}" for r in range(world_size)
    }
    assert verify(many.path) == []
    assert same(one, many)
    one.check_compatible(many)


def test_more_ranks_than_batches(extract):
    for rank in (2, 1, 0):
        cache = extract(rank=rank, world_size=3, limit=torch.arange(5))
    assert cache.index.tolist() == [0, 1, 2, 3, 4]


def test_without_all_ranks_it_is_not_complete(extract):
    with pytest.raises(KDScopeError, match="images are missing"):
        extract(rank=0, world_size=2)
    with pytest.raises(KDScopeError, match="not complete: 64 of 103"):
        extract(rank=1, world_size=3).logits  # noqa: B018
    assert len(extract().logits) == 103  # one process goes on with what ranks began


def stop_after(shards, monkeypatch):
    """Make the disk full, as the operating system says it, after some shards, in the middle of the next."""
    write, count = Path.write_bytes, itertools.count()

    def failing(self, content):
        if next(count) >= shards:
            write(self, bytes(100))
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", failing)


def test_a_disk_that_fills_up_leaves_whole_shards_to_go_on_from(extract, tmp_path, monkeypatch):
    reference = extract("reference")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KDScopeError, match="the disk is full") as caught:
            extract(shard_bytes=1000)
    assert "\n" not in str(caught.value)
    names = sorted(path.name for path in (tmp_path / "a.kdcache").iterdir() if not path.name.startswith(".rank"))
    assert names[0] == "manifest.json"
    assert all(not shard.damage(tmp_path / "a.kdcache" / name) for name in names[1:])
    assert len(names) == 1 + 3
    assert same(extract(), reference)


def test_an_error_of_the_writer_is_raised_where_the_caller_is(extract, tmp_path, monkeypatch):
    def failing(self, batch):
        raise ArithmeticError("of the writer")

    monkeypatch.setattr(writer.ShardWriter, "add", failing)
    with pytest.raises(ArithmeticError, match="of the writer"):
        extract()
    assert [path.name for path in (tmp_path / "a.kdcache").glob("*.h5")] == []


def test_what_would_not_fit_is_refused_before_it_starts(extract, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=8000))
    with pytest.raises(KDScopeError, match=r"would take 7\.2 KiB, more than 80% of the 7\.8 KiB that are free"):
        extract()
    assert list(tmp_path.iterdir()) == []
    extract(limit=torch.arange(60))


def test_two_processes_on_one_cache(extract, tmp_path, net):
    from filelock import FileLock

    (tmp_path / "a.kdcache").mkdir()
    with FileLock(tmp_path / "a.kdcache" / ".rank00.lock"), pytest.raises(KDScopeError, match="another process"):
        extract()


def test_an_interrupted_extraction_goes_on_with_its_own_batches(extract, monkeypatch, tmp_path):
    """Another batch size would round differently: the one it was begun with is kept."""
    reference = extract("reference", dtype="float32")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KDScopeError):
            extract(dtype="float32", shard_bytes=1)
    assert len(list((tmp_path / "a.kdcache").glob("shard-*"))) == 3
    cache = extract(dtype="float32", batch_size=50)
    assert cache.manifest["batch_size"] == 16
    assert same(cache, reference)


def test_a_damaged_shard_is_made_again(extract, tmp_path):
    reference = extract("reference")
    cache = extract(shard_bytes=1000)
    broken = cache.path / cache.manifest["shards"][1]["file"]
    broken.unlink()
    assert verify(cache.path) != []
    with pytest.raises(KDScopeError, match=f"{broken.name} is missing; extract again"):
        FeatureCache(cache.path).logits  # noqa: B018
    mended = extract(shard_bytes=1000)
    assert verify(cache.path) == []
    assert same(mended, reference)


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
