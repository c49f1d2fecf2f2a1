"""Weights on disk and their identity: safetensors in and out, PyTorch checkpoints in, and a hash of both.

Nothing is ever unpickled: a `.pt` or `.pth` file is read by `torch.load(weights_only=True)`, which admits tensors and
plain containers alone. A network is changed only after everything in the file was found to fit it.
"""

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.files import replacing

NESTED = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
)  # where training scripts put the weights in their checkpoints
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel, DDP and torch.compile put before every name


def weights_hash(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of all parameters and buffers: their names, dtypes, shapes and bytes.

    The same on every device and in every memory format (`channels_last`), and for a network and its DDP or compiled
    wrapper; any single bit changes it.

    >>> from torch import nn
    >>> layer = nn.Linear(2, 2)
    >>> before = weights_hash(layer)
    >>> _ = nn.init.ones_(layer.bias)
    >>> weights_hash(layer) == before
    False
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    total = hashlib.sha256()
    for name, tensor in sorted(_unwrapped(state).items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy())
    return total.hexdigest()


def save_weights(path: str | Path, model: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write all parameters and buffers to `path` as safetensors, whole or not at all, with `metadata` in its header.

    The same weights and metadata give the same bytes.

    Raises:
        KDScopeError: if the disk is full or `path` cannot be written.
    """
    # Clones: safetensors refuses tensors that share memory (tied weights), and wants them contiguous.
    state = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in _unwrapped(model.state_dict()).items()
    }
    data = safetensors.torch.save(state)
    with replacing(path) as draft:
        draft.write_bytes(_with_metadata(data, metadata or {}))


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Put `metadata` in the header: safetensors itself writes it in an order that is another in each process."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if metadata:
        header = {"__metadata__": {key: str(metadata[key]) for key in sorted(metadata)}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the numbers aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read the weights in `path` into `model`, in place: all of them, or none when anything does not fit.

    Reads safetensors and PyTorch checkpoints (told apart by content). In a checkpoint the weights may lie under
    "state_dict", "model", "model_state_dict" or "net", and each name may begin with "module." or "_orig_mod.". Numbers
    of another floating dtype are converted to the model's.

    Raises:
        KDScopeError: if the file is missing, truncated, of another architecture (with the first names at fault), or a
            pickle of more than tensors.
    """
    state = read_weights(path)
    faults = _differences(model, state)
    if faults:
        raise KDScopeError(f"{path} holds another architecture than this {type(model).__name__}: {'; '.join(faults)}")
    ours = model.state_dict()
    prefix = _prefix(ours)
    wrapped = {name.removeprefix(prefix): name for name in ours}
    model.load_state_dict({wrapped[name]: tensor for name, tensor in state.items()}, strict=False)


def differences(model: nn.Module, path: str | Path) -> list[str]:
    """What of the weights in `path` does not fit `model`: missing, unexpected and misshapen names; none where all fit.

    Raises:
        KDScopeError: as `load_weights` does for a file that cannot be read.
    """
    return _differences(model, read_weights(path))


def _differences(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    ours = model.state_dict()
    prefix = _prefix(ours)
    wrapped = {name.removeprefix(prefix): name for name in ours}
    # Checkpoints from before PyTorch 0.4.1 do not count batches; the count is of use to no evaluation.
    missing = [name for name in wrapped if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = sorted(name for name in state if name not in wrapped)
    misshapen = [
        f"{name} {list(state[name].shape)} for {list(ours[full].shape)}"
        for name, full in wrapped.items()
        if name in state and state[name].shape != ours[full].shape
    ]
    return [
        f"{kind} {_first(found)}"
        for kind, found in (("missing", missing), ("unexpected", unexpected), ("other shapes", misshapen))
        if found
    ]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The names and tensors in a file that `load_weights` can read, without any wrapper's prefix.

    Raises:
        KDScopeError: as `load_weights` does for a file that cannot be read.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            head = handle.read(9)
    except FileNotFoundError:
        raise KDScopeError(f"no checkpoint at {path}") from None
    except OSError as error:
        raise KDScopeError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if head[8:] == b"{":  # eight bytes of length, then a JSON header
        return _unwrapped(_read_safetensors(path))
    if head[:2] == b"PK" or head[:1] == b"\x80":  # a zip archive or a bare pickle
        return _unwrapped(_state_dict(_read_torch(path), path))
    raise KDScopeError(f"{path} is neither a safetensors file nor a PyTorch checkpoint, or it is truncated")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise KDScopeError(f"checkpoint {path} is truncated or damaged ({_line(error)})") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch says of old formats is no news to the reader
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"more than tensors ({named[1]})" if named else "more than tensors"
        raise KDScopeError(
            f"{path} is a pickle of {what}, which can run any code when read, so it is refused; "
            f"to convert one you trust: torch.save(torch.load('{path.name}', weights_only=False)['model'], 'new.pt')"
        ) from error
    except Exception as error:  # a damaged file makes the reader fail anywhere
        raise KDScopeError(f"checkpoint {path} is truncated or damaged ({_line(error)})") from error


def _state_dict(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, which may be nested."""
    if isinstance(checkpoint, Mapping):
        for key in NESTED:
            if isinstance(checkpoint.get(key), Mapping):
                return _state_dict(checkpoint[key], path)
        if checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
            return dict(checkpoint)
    raise KDScopeError(f"{path} holds no weights: expected names of tensors, at the top or under {', '.join(NESTED)}")


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = _prefix(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _prefix(state: Mapping[str, Tensor]) -> str:
    """The wrappers that stand before every name of `state`, as in "module._orig_mod."."""
    prefix, found = "", bool(state)
    while found:
        found = False
        for wrapper in WRAPPERS:
            if all(name.startswith(prefix + wrapper) for name in state):
                prefix, found = prefix + wrapper, True
    return prefix


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
