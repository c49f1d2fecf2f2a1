"""What a cache says of itself: its manifest, the identity that its key is the hash of, the index over its shards."""

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from kdscope.errors import KDScopeError
from kdscope.features.shard import SCHEMA, Array, describe, provenance, read_shard, shard_paths
from kdscope.files import digest, read_json, replacing, write_json

MANIFEST = "manifest.json"
INDEX = "index.h5"
FIELDS = ("key", "complete", "images", "classes", "batch_size", "identity", "arrays", "shards")
NAMED = ("layers", "split", "view", "samples")  # what the identity must hold
LABELS = ("run",)  # names that people give and change; they are kept, but a cache is not another one for them


def manifest_of(path: Path) -> dict[str, Any] | None:
    """The manifest of the cache at `path`, None if there is none; another schema is a KDScopeError."""
    if not (path / MANIFEST).exists():
        return None
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise KDScopeError(f"{path / MANIFEST} has the schema {found!r}; this version of kdscope reads {SCHEMA!r}")
    identity = manifest.get("identity")
    named = identity if isinstance(identity, dict) else {}
    if absent := [name for name in FIELDS if name not in manifest] + [name for name in NAMED if name not in named]:
        raise KDScopeError(f"{path / MANIFEST} is not whole: it has no {absent[0]!r}")
    if key_of(identity) != manifest["key"]:
        raise KDScopeError(f"{path / MANIFEST} was changed: its key is not that of its identity")
    return manifest


def key_of(identity: Mapping[str, Any]) -> str:
    """The hash of what a cache was made from; the name of its run is no part of that, so that a run may be renamed.

    >>> key_of({"weights": "w", "run": "a"}) == key_of({"weights": "w", "run": "b"}) != key_of({"weights": "v"})
    True
    """
    return digest({name: value for name, value in identity.items() if name not in LABELS})


def differ_in_versions(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two identities that differ are the same but for the versions of what made them.

    >>> one, other = {"weights": "w", "versions": {"torch": "2.1"}}, {"weights": "w", "versions": {"torch": "2.9"}}
    >>> differ_in_versions(one, other), differ_in_versions(one, {**other, "weights": "v"})
    (True, False)
    """
    return key_of({**there, "versions": {}}) == key_of({**here, "versions": {}})


def missing_shards(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """One line for each shard of a complete cache that is gone or has another size, without reading any."""
    problems = []
    for shard in manifest["shards"]:
        file = path / shard["file"]
        if not file.exists():
            problems.append(f"the shard {shard['file']} is missing")
        elif file.stat().st_size != shard["bytes"]:
            found = file.stat().st_size
            problems.append(f"the shard {shard['file']} has {found} bytes, not {shard['bytes']}")
    return problems


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Put the manifest in its place, whole."""
    write_json(path / MANIFEST, manifest)


def finalise(path: Path, positions: Tensor) -> None:
    """Complete a cache whose shards are all there: `index.h5`, then the manifest that says so.

    Raises:
        KDScopeError: an image that no shard holds, or that two hold.
    """
    manifest = manifest_of(path)
    assert manifest is not None
    found = [read_shard(shard, manifest["key"]) for shard in shard_paths(path)]
    held = np.sort(np.concatenate([index for _, index in found]))
    wanted = positions.numpy()
    if not np.array_equal(held, wanted):
        missing = np.setdiff1d(wanted, held)
        problem = f"{len(missing)} images are missing" if len(missing) else "some images are there twice"
        raise KDScopeError(f"{path} cannot be completed: {problem}; extract again with the same settings to go on")
    shards = [shard for shard, _ in found]
    write_index(path, manifest, [(shard.file, index) for shard, index in found])
    write_manifest(path, {**manifest, "complete": True, "shards": [asdict(shard) for shard in shards]})
    for draft in path.glob(".*.tmp"):
        draft.unlink(missing_ok=True)


def write_index(path: Path, manifest: Mapping[str, Any], shards: list[tuple[str, np.ndarray]]) -> None:
    """`index.h5`: every array as one virtual dataset over the shards, in the order of the images."""
    files, table = layout(shards)
    lengths = {file: len(index) for file, index in shards}
    count = sum(lengths.values())
    ends = [*table[1:, 0].tolist(), count]
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver="latest") as file:
        file.attrs.update(schema=SCHEMA, key=manifest["key"])
        provenance(file, manifest["identity"], tuple(manifest["classes"]))
        for array in map(Array.from_json, manifest["arrays"]):
            virtual = h5py.VirtualLayout((count, *array.shape), array.stored)
            for name, (start, row), end in zip(files, table.tolist(), ends, strict=True):
                source = h5py.VirtualSource(name, array.name, (lengths[name], *array.shape), array.stored)
                virtual[start:end] = source[row : row + end - start]
            describe(file.create_virtual_dataset(array.name, virtual, fillvalue=array.fill), array)
    with replacing(path / INDEX) as draft:
        draft.write_bytes(memory.getbuffer())


def layout(shards: list[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """Runs of rows that follow each other in the order of the images: file of each, and int64 [runs, 2] (start, row).

    >>> layout([("b.h5", np.array([4, 5])), ("a.h5", np.array([0, 1, 2]))])
    (['a.h5', 'b.h5'], array([[0, 0],
           [3, 0]]))
    """
    which = np.repeat(np.arange(len(shards)), [len(index) for _, index in shards])
    rows = np.concatenate([np.arange(len(index)) for _, index in shards])
    order = np.argsort(np.concatenate([index for _, index in shards]), kind="stable")
    which, rows = which[order], rows[order]
    begins = np.flatnonzero(np.r_[True, (which[1:] != which[:-1]) | (rows[1:] != rows[:-1] + 1)])
    return [shards[i][0] for i in which[begins]], np.stack([begins, rows[begins]], axis=1)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The fields in which two identities differ, with both values, in one line.

    What goes without saying is left out: other data have other samples and another normalisation, and versions are of
    interest only where all else is the same.

    >>> differences({"view": {"name": "none", "seed": 0}}, {"view": {"name": "none", "seed": 1}})
    'view.seed is 0 there and 1 here'
    """
    left, right = _flat(there), _flat(here)
    names = [name for name in {**left, **right} if left.get(name) != right.get(name) and name not in LABELS]
    implied = ["samples", "transform."] if "data" in names else []
    implied += ["versions."] if any(not name.startswith("versions.") for name in names) else []
    names = [name for name in names if not name.startswith(tuple(implied))]
    return "; ".join(f"{name} is {_short(left.get(name))} there and {_short(right.get(name))} here" for name in names)


def spans(positions: Tensor) -> str:
    """Ascending positions as text: runs `start:stop`, and lone ones.

    >>> import torch
    >>> spans(torch.tensor([0, 1, 2, 3, 7, 9, 10]))
    '0:4,7,9:11'
    """
    values = positions.numpy()
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ",".join(f"{run[0]}:{run[-1] + 1}" if len(run) > 1 else f"{run[0]}" for run in runs)


def from_spans(text: str) -> np.ndarray:
    """The positions that `spans` wrote, int64.

    >>> from_spans("0:4,7,9:11")
    array([ 0,  1,  2,  3,  7,  9, 10])
    """
    ends = [[int(end) for end in run.split(":")] for run in text.split(",")]
    return np.concatenate([np.arange(run[0], run[1] if len(run) > 1 else run[0] + 1) for run in ends])


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat.update(_flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item})
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
