"""One shard of a feature cache: an immutable HDF5 file of whole samples that carries its own checksum.

The file begins with a user block of 512 bytes (HDF5 readers skip it) that holds the SHA-256 of all that follows, so
that a shard is whole or known to be damaged without any other file. HDF5 builds it in memory, because a disk that fills
up while HDF5 holds a file open can bring the process down; then it is written beside its place, synced and renamed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from kdscope.errors import KDScopeError

SCHEMA = "kdscope.cache/1"
BLOCK = 512
CHUNK = 2**20
_SEAL = b"kdscope shard sha256="


@dataclass(frozen=True)
class Array:
    """What is stored of each image under one name.

    Args:
        name: path in the file: `logits`, `labels`, `index`, `features/LAYER`, or what another producer calls it.
        shape: shape of one image's part.
        dtype: the stored type; `bfloat16`, which HDF5 does not know, lies there as its bits in `uint16`.
        reduction: `pool`, `attention`, `full`, or empty for what is no feature.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    reduction: str = ""

    @property
    def stored(self) -> np.dtype[Any]:
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)

    @property
    def bytes(self) -> int:
        """Of one image."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.stored.itemsize

    @property
    def layer(self) -> str:
        """The last part of its name."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def fill(self) -> float | int:
        """What a virtual dataset shows where a shard is gone: NaN, or -1 (the largest number of an unsigned type)."""
        if self.dtype == "bfloat16":
            return 0x7FC0
        if self.stored.kind == "u":
            return int(np.iinfo(self.stored).max)
        return float("nan") if self.stored.kind == "f" else -1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Array":
        return cls(value["name"], tuple(value["shape"]), value["dtype"], value["reduction"])

    def chunk(self, batch: int, rows: int) -> int:
        """Images in one chunk: about 1 MiB, whole batches or an even part of one, and no more than there are."""
        ideal = max(1, CHUNK // max(1, self.bytes))
        if ideal >= batch:
            return max(1, min(ideal // batch * batch, rows))
        even = next(size for size in range(ideal, 0, -1) if batch % size == 0)
        return max(1, min(even if 2 * even > ideal else ideal, rows))


@dataclass(frozen=True)
class Shard:
    """What the manifest says of one shard."""

    file: str
    rows: int
    first: int
    last: int
    bytes: int
    sha256: str


def describe(dataset: h5py.Dataset, array: Array) -> None:
    """The attributes by which another tool reads a dataset."""
    dataset.attrs.update(torch_dtype=array.dtype, reduction=array.reduction)


def seal(content: memoryview) -> None:
    """Write the checksum of a shard into its user block."""
    digest = hashlib.sha256(content[BLOCK:]).hexdigest()
    content[:BLOCK] = (_SEAL + digest.encode() + b"\n").ljust(BLOCK, b"\0")


def read_seal(path: Path) -> str:
    """The checksum that a shard carries; empty if it carries none."""
    with open(path, "rb") as handle:
        block = handle.read(BLOCK)
    text = block[len(_SEAL) : len(_SEAL) + 64].decode("ascii", "replace")
    return text if block == (_SEAL + text.encode() + b"\n").ljust(BLOCK, b"\0") else ""


def damage(path: Path) -> str:
    """What is wrong with a shard, by reading all of it; empty if nothing is."""
    try:
        sealed = read_seal(path)
        if not sealed:
            return "its first 512 bytes are not those of a shard"
        with open(path, "rb") as handle:
            return "" if _digest(handle) == sealed else "its checksum is not that of its content"
    except OSError as error:
        return error.strerror or str(error)


def read_shard(path: Path, key: str | None = None) -> tuple[Shard, np.ndarray]:
    """What a shard holds: its line for the manifest, and the sample indices [rows] int64.

    Raises:
        KDScopeError: if it cannot be opened, its datasets differ in length, or `key` is given and is not the shard's.
    """
    try:
        with open_file(path) as file:
            if key is not None and file.attrs.get("key") != key:
                raise KDScopeError(f"{path} was made under another key than its cache; remove it")
            index = file["index"][:]
            lengths = {len(dataset) for dataset in [file["logits"], file["labels"], *_datasets(file)]}
    except (OSError, KeyError, RuntimeError) as error:
        raise KDScopeError(f"the shard {path} cannot be read: {one_line(error)}") from error
    if lengths != {len(index)}:
        raise KDScopeError(f"the shard {path} has datasets of different lengths: {sorted(lengths)}")
    ends = (int(index.min()), int(index.max())) if len(index) else (-1, -1)
    return Shard(path.name, len(index), *ends, path.stat().st_size, read_seal(path)), index


def open_file(path: Path) -> h5py.File:
    """Open for reading; without a lock where the file system knows none (some network mounts)."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error) or not path.exists():
            raise
        return h5py.File(path, "r", locking=False)


def shard_paths(folder: Path) -> list[Path]:
    """The committed shards of a cache, in the order of their names."""
    return sorted(folder.glob("shard-rank*-*.h5"))


def provenance(file: h5py.File, identity: Mapping[str, Any], classes: tuple[str, ...]) -> None:
    """Datasets (attributes end at 64 KiB) that say where an HDF5 file comes from: `meta/provenance`, `meta/classes`."""
    text = h5py.string_dtype()
    file.create_dataset("meta/provenance", data=json.dumps(identity), dtype=text)
    file.create_dataset("meta/classes", data=np.array(classes, dtype=object), dtype=text)


def one_line(error: Exception) -> str:
    """HDF5's messages run over several lines."""
    return " ".join(str(error).split())


def _datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def _digest(handle: BinaryIO) -> str:
    """SHA-256 of what follows the user block."""
    handle.seek(BLOCK)
    digest = hashlib.sha256()
    while block := handle.read(CHUNK):
        digest.update(block)
    return digest.hexdigest()
