import pytest
import torch
from click.testing import CliRunner
from torch import nn

from kdscope.cli.cache import cache
from kdscope.data import Dataset, Split
from kdscope.errors import KDScopeError
from kdscope.features import extract_features


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    split = Split("test", torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    data = Dataset("noise", split, split, None, ("one", "two"), (0.5,) * 3, (0.25,) * 3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    for name in ("a", "b/c"):
        extract_features(net, data, "test", tmp_path / name, layers=["0"], identity={"model": "linear"})
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(cache, list(map(str, arguments)), catch_exceptions=False)


def test_ls(folder):
    result = call("ls", folder)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    assert "a.kdcache" in result.output
    assert "b/c.kdcache" in result.output
    assert "2 caches" in result.output
    (folder / "empty").mkdir()
    assert "no feature cache" in call("ls", folder / "empty").output


def test_info(folder):
    output = call("info", folder / "a").output
    assert max(map(len, output.splitlines())) <= 100
    for text in ("complete", "linear", "one, two", "features/0", "float16", "name none, seed 0, epoch 0"):
        assert text in output


def test_verify_says_so_by_its_status(folder):
    result = call("verify", folder)
    assert result.exit_code == 0
    assert result.output.count(": whole, 20 images") == 2
    shard = next((folder / "a.kdcache").glob("shard-*.h5"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    result = call("verify", folder)
    assert result.exit_code == 1
    assert f"a.kdcache: {shard.name}: its checksum" in result.output
    assert result.output.count(": whole, 20 images") == 1


def test_gc_removes_only_with_yes(folder):
    assert "nothing is left over" in call("gc", folder).output
    draft = folder / "a.kdcache" / ".shard-rank00-000001.h5.1.tmp"
    draft.write_bytes(bytes(2048))
    output = call("gc", folder).output
    assert "draft of a process that was killed (2.0 KiB)" in output
    assert "2.0 KiB would be freed; add --yes" in output
    assert draft.exists()
    assert "removed 2.0 KiB" in call("gc", folder, "--yes").output
    assert not draft.exists()
    assert call("verify", folder).exit_code == 0


@pytest.mark.parametrize(
    "manifest", ["{", "[]", '{"schema": "kdscope.cache/1"}', '{"schema": "kdscope.cache/1", "identity": 1}']
)
def test_a_manifest_that_is_no_manifest_does_not_hide_the_other_caches(folder, manifest):
    (folder / "a.kdcache" / "manifest.json").write_text(manifest)
    assert "complete" in call("ls", folder).output
    assert "nothing is left over" in call("gc", folder).output
    result = call("verify", folder)
    assert result.exit_code == 1
    assert result.output.count("manifest.json") == 1
    assert result.output.count(": whole, 20 images") == 1


def test_nothing_to_verify_is_no_success(folder):
    (folder / "empty").mkdir()
    with pytest.raises(KDScopeError, match=r"no feature cache in .*empty"):
        call("verify", folder, folder / "empty")
