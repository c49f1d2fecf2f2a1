import json
import random
import shutil

import h5py
import numpy as np
import pytest
import torch
from filelock import FileLock

from kdscope.errors import KDScopeError
from kdscope.features import extract_features
from kdscope.features.shard import seal
from kdscope.features.upkeep import caches, describe, leftovers, remove, verify


@pytest.fixture
def make(net, dataset, tmp_path):
    def call(name="a", **options):
        options = {"layers": ["bn"], "reduction": "full", "batch_size": 16, "shard_bytes": 30000, **options}
        return extract_features(net, dataset, "test", tmp_path / name, **options)

    return call


def flip(path, position, bit=3):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


def test_a_whole_cache_has_no_problems(make):
    assert verify(make().path) == []


def test_any_flipped_bit_is_found_in_its_shard(make):
    cache = make()
    chance = random.Random(0)
    for _ in range(40):
        shard = chance.choice(cache.manifest["shards"])
        place, bit = chance.randrange(shard["bytes"]), chance.randrange(8)
        flip(cache.path / shard["file"], place, bit)
        problems = verify(cache.path)
        assert problems
        assert problems[0].startswith(shard["file"])
        flip(cache.path / shard["file"], place, bit)
    assert verify(cache.path) == []


def test_missing_truncated_and_unlisted_shards(make):
    cache = make()
    files = [cache.path / shard["file"] for shard in cache.manifest["shards"]]
    rows = cache.manifest["shards"][0]["rows"]
    kept = files[0].read_bytes()
    files[0].unlink()
    problems = verify(cache.path)
    assert f"{files[0].name}: the shard is missing" in problems
    assert f"{rows} of 103 images are missing, the first is 0" in problems
    assert f"index.h5: its source {files[0].name} is missing" in problems
    files[0].write_bytes(kept[:-50])
    assert verify(cache.path)[0].startswith(f"{files[0].name}: its checksum")
    files[0].write_bytes(kept)
    (cache.path / "shard-rank07-000000.h5").write_bytes(kept)
    problems = verify(cache.path)
    assert "shard-rank07-000000.h5: the manifest does not know this shard" in problems
    assert f"{rows} of 103 images are there twice, the first is 0" in problems


def test_a_sound_shard_of_another_cache_is_not_taken(make):
    cache, other = make(), make("b", view="standard")
    name = cache.manifest["shards"][0]["file"]
    shutil.copy(other.path / name, cache.path / name)
    assert "another key" in verify(cache.path)[0]


def test_a_shard_that_was_changed_and_sealed_again(make):
    cache = make()
    name = cache.manifest["shards"][0]["file"]
    with h5py.File(cache.path / name, "r+") as file:
        file["logits"][0] = np.inf
    content = bytearray((cache.path / name).read_bytes())
    seal(memoryview(content))
    (cache.path / name).write_bytes(content)
    assert verify(cache.path) == [f"{name}: sha256 is not what the manifest says"]


def test_a_broken_index(make):
    cache = make()
    (cache.path / "index.h5").write_bytes(b"no")
    assert "index.h5 cannot be read" in verify(cache.path)[0]


def interrupt(make, name="a"):
    """A cache of which one rank of two is there."""
    with pytest.raises(KDScopeError, match="images are missing"):
        make(name, rank=0, world_size=2)


def test_an_incomplete_cache_is_described_and_verified(make, tmp_path):
    interrupt(make)
    found = describe(tmp_path / "a.kdcache")
    assert (found.complete, found.done, found.images) == (False, 48, 103)
    assert verify(tmp_path / "a.kdcache") == [
        "55 of 103 images are missing, the first is 48",
        "the extraction is not complete",
    ]


def test_caches_are_found(make, tmp_path):
    make("x/one"), make("x/y/two")
    assert [path.name for path in caches(tmp_path)] == ["one.kdcache", "two.kdcache"]
    assert caches(tmp_path / "x" / "one.kdcache") == [tmp_path / "x" / "one.kdcache"]
    with pytest.raises(KDScopeError, match="no folder"):
        caches(tmp_path / "nowhere")
    (tmp_path / "x" / "one.kdcache" / "manifest.json").write_text("{}")
    assert "schema" in describe(tmp_path / "x" / "one.kdcache").problem


def test_what_is_left_over_and_nothing_else_is_removed(make, tmp_path):
    whole = make("whole")
    interrupt(make, "half")
    draft = whole.path / ".shard-rank00-000009.h5.123.tmp"
    draft.write_bytes(b"x" * 10)
    found = leftovers(tmp_path)
    assert [(thing.path, thing.why) for thing in found] == [
        (tmp_path / "half.kdcache", "not complete: 48 of 103 images"),
        (draft, "draft of a process that was killed"),
    ]
    assert remove(found) == found[0].bytes + 10
    assert not (tmp_path / "half.kdcache").exists()
    assert not draft.exists()
    assert verify(whole.path) == []
    assert leftovers(tmp_path) == []


def test_what_is_being_extracted_is_not_left_over(make, tmp_path):
    interrupt(make)
    with FileLock(tmp_path / "a.kdcache" / ".rank00.lock"):
        assert leftovers(tmp_path) == []
    assert len(leftovers(tmp_path)) == 1


def test_a_cache_of_weights_that_the_run_no_longer_has(make, tmp_path):
    limit = torch.arange(10)
    for name in ("test-none", "probe-epoch-0001-test", "random-init-test-none"):
        make(f"run/features/{name}", identity={"weights": "old"}, limit=limit)
    make("elsewhere/test-none", identity={"weights": "old"}, limit=limit)
    for weights, expected in (("old", []), ("new", ["test-none.kdcache"])):
        (tmp_path / "run" / "summary.json").write_text(json.dumps({"weights_hash": weights}))
        assert [thing.path.name for thing in leftovers(tmp_path)] == expected
