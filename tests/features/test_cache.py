import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.errors import KDScopeError
from kdscope.features import FeatureCache, extract_features
from kdscope.features.manifest import from_spans, layout, spans
from kdscope.features.shard import CHUNK, Array


@pytest.fixture
def cache(net, dataset, tmp_path):
    return extract_features(
        net, dataset, "test", tmp_path / "a", layers=["bn", "flat"], reduction="full", batch_size=16, shard_bytes=40000
    )


def test_the_virtual_index_is_the_concatenation_of_the_shards(cache):
    files = [cache.path / shard["file"] for shard in cache.manifest["shards"]]
    assert len(files) > 1
    with h5py.File(cache.path / "index.h5") as index:
        for name in ("logits", "labels", "index", "features/bn", "features/flat"):
            parts = [h5py.File(file)[name][:] for file in files]
            np.testing.assert_array_equal(index[name][:], np.concatenate(parts))
        np.testing.assert_array_equal(index["features/bn"][:], cache.feature("bn")[:])


def test_a_missing_shard_is_noticed_although_hdf5_fills_it_in(cache):
    gone = cache.manifest["shards"][0]
    (cache.path / gone["file"]).unlink()
    with h5py.File(cache.path / "index.h5") as index:
        assert np.isnan(index["features/bn"][: gone["rows"]]).all()
        assert (index["labels"][: gone["rows"]] == -1).all()
    opened = FeatureCache(cache.path)
    with pytest.raises(KDScopeError, match=f"{gone['file']} is missing"):
        opened.feature("bn")[0]


def test_a_truncated_shard_is_noticed(cache):
    file = cache.path / cache.manifest["shards"][0]["file"]
    os.truncate(file, file.stat().st_size - 100)
    with pytest.raises(KDScopeError, match=r"has .* bytes, not"):
        FeatureCache(cache.path).labels  # noqa: B018


@pytest.mark.parametrize(
    "key",
    [
        5, -1, slice(None), slice(10, 40), slice(0, 0), slice(90, 10**6), slice(3, 80, 7), slice(None, None, -1), ...,
        [3, 3, 70, 1], np.array([102, 0]), np.empty(0, int),
        (slice(2, 5), 0), (4, slice(0, 2)), (slice(2, 5), slice(None), 0, 1),
    ],
)  # fmt: skip
def test_a_feature_is_indexed_as_an_array_is(cache, key):
    whole = np.asarray(cache.feature("bn"))
    np.testing.assert_array_equal(cache.feature("bn")[key], whole[key])


def test_masks_and_positions_outside(cache):
    whole = cache.feature("flat")[:]
    mask = cache.labels == 2
    np.testing.assert_array_equal(cache.feature("flat")[mask], whole[mask])
    with pytest.raises(IndexError):
        cache.feature("flat")[103]


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 120))
def test_blocks_put_together_are_the_whole(size):
    blocks = list(CACHE[0].blocks(["bn", "logits", "index"], size))
    assert all(len(block["index"]) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate([block["bn"] for block in blocks]), CACHE[0].feature("bn")[:])
    np.testing.assert_array_equal(np.concatenate([block["index"] for block in blocks]), np.arange(103))


CACHE = []


@pytest.fixture(autouse=True)
def _shared(request):
    if "test_blocks" in request.node.name:
        CACHE[:] = [request.getfixturevalue("cache")]


def test_unknown_layer(cache):
    with pytest.raises(KDScopeError, match=r"unknown layer 'bm'.*nearest: bn"):
        cache.feature("bm")


def test_a_cache_is_read_in_another_process_after_pickling(cache):
    expected = float(cache.feature("bn")[7].astype(np.float64).sum())  # its files are open now
    code = "import pickle, sys; c = pickle.load(sys.stdin.buffer); print(float(c.feature('bn')[7].astype(float).sum()))"
    found = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(cache), capture_output=True, check=True)
    assert float(found.stdout) == expected


def test_a_cache_is_read_after_a_fork(cache):
    expected = cache.feature("bn")[:]
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, b"same" if np.array_equal(cache.feature("bn")[:], expected) else b"other")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"same"
    np.testing.assert_array_equal(cache.feature("bn")[:], expected)


def test_compatible_is_the_same_view_of_the_same_images(net, dataset, tmp_path):
    def make(name, **options):
        return extract_features(net, dataset, "test", tmp_path / name, layers=[], limit=torch.arange(20), **options)

    plain, other = make("a"), make("b", identity={"weights": "x"}, view_seed=5)
    plain.check_compatible(other)  # an image as it is has no seed
    weak = make("c", view="standard", view_seed=0)
    with pytest.raises(KDScopeError, match=r"not of the same images: view.name is none there and standard here"):
        plain.check_compatible(weak)
    with pytest.raises(KDScopeError, match=r"view.seed is 0 there and 1 here"):
        weak.check_compatible(make("d", view="standard", view_seed=1))
    train = extract_features(net, dataset, "train", tmp_path / "e", layers=[], limit=torch.arange(20))
    with pytest.raises(KDScopeError, match="data is"):
        plain.check_compatible(train)
    fewer = extract_features(net, dataset, "test", tmp_path / "f", layers=[], limit=torch.arange(19))
    with pytest.raises(KDScopeError, match="samples is 0:20 there and 0:19 here"):
        plain.check_compatible(fewer)


def test_a_cache_can_be_asked_for_by_what_it_was_made_from(cache):
    assert len(FeatureCache(cache.path, {"split": "test", "view": cache.identity["view"]})) == 103
    with pytest.raises(KDScopeError, match=r"made from something else: weights is .* there and w here"):
        FeatureCache(cache.path, {"weights": "w"})


def test_what_is_no_cache(tmp_path, cache):
    with pytest.raises(KDScopeError, match="not a feature cache"):
        FeatureCache(tmp_path / "nothing")
    manifest = cache.path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("kdscope.cache/1", "kdscope.cache/9"))
    with pytest.raises(KDScopeError, match=r"kdscope.cache/9"):
        FeatureCache(cache.path)
    manifest.write_text(text.replace('"split": "test"', '"split": "train"'))
    with pytest.raises(KDScopeError, match="was changed"):
        FeatureCache(cache.path)
    manifest.write_text(text[:100])
    with pytest.raises(KDScopeError, match="not a JSON file"):
        FeatureCache(cache.path)


def test_the_suffix_may_be_left_out(cache):
    assert FeatureCache(cache.path.with_suffix("")).path == cache.path


@given(st.sets(st.integers(0, 60), min_size=1))
def test_spans_are_read_back(positions):
    positions = torch.tensor(sorted(positions))
    assert from_spans(spans(positions)).tolist() == positions.tolist()


@given(st.permutations(range(24)), st.integers(1, 23))
def test_layout_finds_every_image(order, cut):
    shards = [("a", np.array(order[:cut])), ("b", np.array(order[cut:]))]
    files, table = layout(shards)
    ends = [*table[1:, 0].tolist(), 24]
    found = [
        dict(shards)[file][row + k]
        for file, (start, row), end in zip(files, table.tolist(), ends, strict=True)
        for k in range(end - start)
    ]
    assert found == list(range(24))


@pytest.mark.parametrize("shape", [(4,), (64, 8, 8), (16, 32, 32), (512, 7, 7), (2048, 28, 28)])
@pytest.mark.parametrize("batch", [16, 100, 251, 256])
def test_chunks_are_whole_images_of_about_one_mebibyte(shape, batch):
    array = Array("features/x", shape, "float16")
    rows = array.chunk(batch, 10**6)
    assert (
        rows == 1
        or CHUNK / 2 <= rows * array.bytes <= CHUNK
        or batch * array.bytes > CHUNK / 2 >= rows * array.bytes / 2
    )
    assert array.chunk(batch, 3) <= 3
