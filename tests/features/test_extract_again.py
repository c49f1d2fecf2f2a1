"""An extraction into a cache that is there: complete, begun, of something else, damaged, or shared between ranks."""

import errno
import itertools
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kdscope.data import Batches, Split
from kdscope.errors import KDScopeError
from kdscope.features import FeatureCache, produce, shard, writer
from kdscope.features.upkeep import verify


def content(cache):
    return {name: next(cache.blocks([name], len(cache)))[name] for name in ["logits", "labels", "index", *cache.layers]}


def same(a, b):
    a, b = content(a), content(b)
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def snapshot(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}


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
