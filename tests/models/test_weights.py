"""Weights: their hash, their way to disk and back, and files that are refused with the network untouched."""

import argparse
import collections
import copy
import errno
import pickle
import random

import pytest
import safetensors
import torch
from torch import nn

from kdscope import models
from kdscope.errors import KDScopeError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.build("resnet8", 10)


@pytest.fixture
def other():
    torch.manual_seed(1)
    return models.build("resnet8", 10)


def test_hash_sees_one_bit(network):
    before = models.weights_hash(network)
    bits = network.layer2[0].conv1.weight.data.view(torch.int32)
    bits[0, 0, 0, 0] ^= 1
    assert models.weights_hash(network) != before
    bits[0, 0, 0, 0] ^= 1
    assert models.weights_hash(network) == before


def test_hash_sees_buffers_names_shapes_and_dtypes(network):
    seen = {models.weights_hash(network)}
    network.bn1.num_batches_tracked += 1
    seen.add(models.weights_hash(network))
    zeros = torch.zeros(4)
    same_bytes = [{"a": zeros}, {"b": zeros}, {"a": zeros.view(2, 2)}, {"a": zeros.view(torch.int32)}, {}]
    seen |= {models.weights_hash(state) for state in same_bytes}
    assert len(seen) == 7
    assert models.weights_hash({"a": -zeros}) not in seen  # the sign of zero is a bit


def test_hash_is_of_the_numbers_not_of_their_place(network):
    before = models.weights_hash(network)
    assert models.weights_hash(network.state_dict()) == before
    assert models.weights_hash(dict(reversed(network.state_dict().items()))) == before
    assert models.weights_hash(nn.DataParallel(network)) == before
    assert models.weights_hash(network.to(memory_format=torch.channels_last)) == before


def test_hash_takes_scalars_half_precision_and_empty_tensors():
    state = {
        "a": torch.tensor(1),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.zeros(0, 3),
        "d": torch.tensor(True),
    }
    assert len(models.weights_hash(state)) == 64


def test_round_trip_is_exact(network, other, tmp_path):
    network(torch.randn(4, 3, 16, 16))  # so that the buffers are not what they were at first
    path = tmp_path / "new" / "weights.safetensors"
    models.save_weights(path, network, {"architecture": "resnet8"})
    models.load_weights(other, path)
    assert models.weights_hash(other) == models.weights_hash(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"architecture": "resnet8"}
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.safetensors"]


def test_the_same_weights_give_the_same_bytes(network, tmp_path):
    """Whatever the order of the metadata."""
    metadata = {"b": "2", "a": "é", "c": "3"}
    models.save_weights(tmp_path / "one", network, metadata)
    models.save_weights(tmp_path / "two", network, dict(reversed(metadata.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safetensors.safe_open(tmp_path / "one", "pt") as file:
        assert file.metadata() == metadata
    size = int.from_bytes((tmp_path / "one").read_bytes()[:8], "little")
    assert size % 8 == 0


def test_round_trip_through_wrappers_formats_and_tied_weights(network, other, tmp_path):
    path = tmp_path / "w.safetensors"
    models.save_weights(path, nn.DataParallel(network.to(memory_format=torch.channels_last)))
    models.load_weights(nn.DataParallel(other), path)
    assert models.weights_hash(other) == models.weights_hash(network)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    models.save_weights(path, tied)
    loose = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    models.load_weights(loose, path)
    assert torch.equal(loose[1].weight, tied[0].weight)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_of_other_training_scripts(network, other, tmp_path, key, prefix):
    state = collections.OrderedDict((prefix + name, tensor) for name, tensor in network.state_dict().items())
    path = tmp_path / "checkpoint.pth"
    torch.save(state if key is None else {"epoch": 3, "best": 0.5, key: state}, path)
    models.load_weights(other, path)
    assert models.weights_hash(other) == models.weights_hash(network)


def test_old_checkpoints(network, other, tmp_path):
    """Without counts of batches, and in the format from before PyTorch 1.6."""
    path = tmp_path / "old.pt"
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    models.load_weights(other, path)
    assert models.weights_hash(other) == models.weights_hash(network)


def test_other_precision_is_converted(network, other, tmp_path):
    path = tmp_path / "w.safetensors"
    models.save_weights(path, network.double())
    models.load_weights(other, path)
    assert other.fc.weight.dtype == torch.float32
    assert torch.equal(other.fc.weight, network.fc.weight.float())


def refused(network: nn.Module, path, *parts: str) -> str:
    """The one line that `load_weights` says, after which the network is what it was."""
    before = models.weights_hash(network)
    with pytest.raises(KDScopeError) as caught:
        models.load_weights(network, path)
    message = str(caught.value)
    assert models.weights_hash(network) == before
    assert "\n" not in message
    assert str(path) in message
    assert all(part in message for part in parts), message
    return message


def test_missing_file_and_folder(network, tmp_path):
    refused(network, tmp_path / "none.safetensors", "no checkpoint")
    refused(network, tmp_path, "cannot be read")


@pytest.mark.parametrize("kept", [0, 5, 9, 100, 5000, -1])
def test_truncated_safetensors(network, tmp_path, kept):
    path = tmp_path / "w.safetensors"
    models.save_weights(path, network)
    path.write_bytes(path.read_bytes()[:kept])
    refused(network, path, "truncated")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 5, 100, 5000, -100])
def test_truncated_torch_checkpoint(network, tmp_path, kept, zipped):
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    refused(network, path, "truncated")


def test_something_else(network, tmp_path):
    path = tmp_path / "w.pth"
    path.write_text("not weights at all")
    refused(network, path, "neither a safetensors file nor a PyTorch checkpoint")
    torch.save({"epoch": 3}, path)
    refused(network, path, "holds no weights", "state_dict")
    torch.save([1, 2], path)
    refused(network, path, "holds no weights")


class Harm:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was run')",))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickles_are_refused_and_never_run(network, tmp_path, write):
    path = tmp_path / "w.pth"
    write({"model": network.state_dict(), "harm": Harm()}, path)
    refused(network, path, "pickle", "weights_only=False")


def test_checkpoint_with_settings_in_it_is_a_pickle(network, tmp_path):
    path = tmp_path / "teacher_last.pth"
    torch.save({"model": network.state_dict(), "opt": argparse.Namespace(lr=0.1)}, path)
    refused(
        network, path, "pickle of more than tensors (argparse.Namespace)", "torch.save(torch.load('teacher_last.pth'"
    )


def test_another_architecture(network, tmp_path):
    path = tmp_path / "w.safetensors"
    models.save_weights(path, models.build("resnet14", 10))
    refused(network, path, "another architecture", "unexpected layer1.1.bn1.bias", " more")
    models.save_weights(path, models.build("resnet8", 100))
    message = refused(network, path, "fc.weight [100, 64] for [10, 64]", "fc.bias [100] for [10]")
    assert "missing" not in message
    models.save_weights(path, nn.Linear(2, 2))
    refused(network, path, "missing conv1.weight", "unexpected bias, weight")


def test_a_full_disk_leaves_what_was_there(network, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    models.save_weights(path, network)
    before = path.read_bytes()

    def fail(draft, data):
        draft.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(KDScopeError, match="the disk is full"):
        models.save_weights(path, models.build("resnet8", 10))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_where_no_file_can_be(network, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KDScopeError, match="file"):
        models.save_weights(tmp_path / "file" / "w.safetensors", network)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "bare"])
def test_damaged_files_are_refused_or_read_whole(network, other, tmp_path, kind):
    """Wrong bytes at either end: what does not load is refused in one line, with the network untouched."""
    path = tmp_path / "w"
    if kind == "safetensors":
        models.save_weights(path, network)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole, before, draw = path.read_bytes(), models.weights_hash(other), random.Random(0)
    said = []
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(3):
            data[draw.randrange(3000) * draw.choice((1, -1))] = draw.randrange(256)
        path.write_bytes(data)
        target = copy.deepcopy(other)
        try:
            models.load_weights(target, path)
        except KDScopeError as error:
            said.append((str(error), models.weights_hash(target)))
    assert len(said) > 10
    assert all("\n" not in message and after == before for message, after in said)
