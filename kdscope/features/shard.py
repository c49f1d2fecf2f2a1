"""One shard of a feature cache: an immutable HDF5 file of whole samples that carries its own checksum.

The file begins with a user block of 512 bytes (HDF5 readers skip it) that holds the SHA-256 of all that follows, so
that a shard is whole or known to be damaged without any other file. HDF5 builds it in memory, because a disk that fills
up while HDF5 holds a file open can bring the process down; then it is written beside its place, synced and renamed.
"""

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from kdscope.errors import KDScopeError
from kdscope.files import replacing

SCHEMA = "kdscope.cache/1"
BLOCK = 512
CHUNK = 2**20
_SEAL = b"kdscope shard sha256="


@dataclass(frozen=True)
class Array:
    """What is stored of each image under one name.

    Args:
        name: path in the file: `logits`, `labels`, `index`, or `features/LAYER`.
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
    def fill(self) -> float | int:
        """What a virtual dataset shows where a shard is gone: NaN, or -1."""
        if self.dtype == "bfloat16":
            return 0x7FC0
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


class ShardWriter:
    """Writes the batches of one rank to shards, and commits one whenever it is large or old enough.

    Args:
        folder: the cache.
        rank: whose shards these are; no two processes write one file.
        key: the key of the cache, kept in each shard.
        arrays: what a batch consists of.
        batch: images in a batch, rows: images in all: they shape the chunks.
        shard_bytes, seconds: a shard is committed when it has so many bytes, or so long after its first batch.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        key: str,
        arrays: Sequence[Array],
        *,
        batch: int,
        rows: int,
        shard_bytes: int,
        seconds: float,
    ):
        self._folder, self._rank, self._key, self._arrays = folder, rank, key, arrays
        self._batch, self._seconds = batch, seconds
        each = sum(array.bytes for array in arrays)
        self._full = -(-shard_bytes // (each * batch)) * batch  # images in a full shard: whole batches
        self._rows = min(rows, self._full)
        numbers = (int(path.stem.rsplit("-", 1)[1]) for path in folder.glob(f"{self._stem}-*.h5"))
        self._number = 1 + max(numbers, default=-1)
        self._memory = io.BytesIO()
        self._file: h5py.File | None = None
        self._filled = 0
        self._since = 0.0

    @property
    def _stem(self) -> str:
        return f"shard-rank{self._rank:02d}"

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Append one batch, the stored form of each array [B, ...]; commit the shard when it is due."""
        file = self._file = self._file or self._begin()
        count = len(batch["index"])
        for array in self._arrays:
            dataset = file[array.name]
            dataset.resize(self._filled + count, axis=0)
            dataset[self._filled :] = batch[array.name]
        self._filled += count
        if self._filled >= self._full or time.monotonic() - self._since >= self._seconds:
            self.commit()

    def commit(self) -> None:
        """Put the shard that is being filled in its place, whole; a KDScopeError if the disk is full."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        with (
            self._memory.getbuffer() as content,
            replacing(self._folder / f"{self._stem}-{self._number:06d}.h5") as draft,
        ):
            seal(content)
            draft.write_bytes(content)
        self._number += 1

    def _begin(self) -> h5py.File:
        self._memory, self._filled, self._since = io.BytesIO(), 0, time.monotonic()
        file = h5py.File(self._memory, "w", userblock_size=BLOCK)
        file.attrs.update(schema=SCHEMA, key=self._key, rank=self._rank)
        for array in self._arrays:
            dataset = file.create_dataset(
                array.name,
                shape=(0, *array.shape),
                maxshape=(None, *array.shape),
                chunks=(array.chunk(self._batch, self._rows), *array.shape),
                dtype=array.stored,
            )
            describe(dataset, array)
        return file


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
            lengths = {len(dataset) for dataset in [*_features(file), file["logits"], file["labels"], file["index"]]}
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


def _features(file: h5py.File) -> list[h5py.Dataset]:
    return list(file["features"].values()) if "features" in file else []


def _digest(handle: BinaryIO) -> str:
    """SHA-256 of what follows the user block."""
    handle.seek(BLOCK)
    digest = hashlib.sha256()
    while block := handle.read(CHUNK):
        digest.update(block)
    return digest.hexdigest()
