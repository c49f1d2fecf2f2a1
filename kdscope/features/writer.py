"""From the device to the disk while the network goes on: copies that do not wait, and a thread that writes shards."""

import io
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import torch
from torch import Tensor

from kdscope.errors import KDScopeError
from kdscope.features.shard import BLOCK, SCHEMA, Array, describe, seal
from kdscope.files import replacing

DEPTH = 2
FLOAT16_MAX = 65504.0


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


class Transfer:
    """One batch on its way to the host: from an accelerator through pinned memory, without stopping it.

    Args:
        tensors: what is stored, by name, [B, ...].
        checks: of some arrays, the largest absolute value [B] of each image, NaN where one is.
    """

    def __init__(self, tensors: Mapping[str, Tensor], checks: Mapping[Array, Tensor]):
        self._event = None
        self._tensors = {name: self._copy(value) for name, value in tensors.items()}
        self._checks = {array: self._copy(value) for array, value in checks.items()}
        if any(value.is_cuda for value in tensors.values()):
            self._event = torch.cuda.Event()
            self._event.record()

    @staticmethod
    def _copy(value: Tensor) -> Tensor:
        if not value.is_cuda:
            return value.cpu()
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return host.copy_(value, non_blocking=True)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored, once it has arrived; what is not finite, or beyond float16, is a KDScopeError."""
        if self._event is not None:
            self._event.synchronize()
        for array, largest in self._checks.items():
            _check(array, largest, self._tensors["index"])
        return {name: value.numpy() for name, value in self._tensors.items()}


def _check(array: Array, largest: Tensor, index: Tensor) -> None:
    """A KDScopeError if one of the images [B] has no number, or one that float16 cannot hold."""
    what = "the logits are" if array.name == "logits" else f"layer {array.layer!r} is"
    halves = array.dtype == "float16"
    bad = largest.isnan() if halves else ~largest.isfinite()
    if bad.any():
        found = "NaN" if bad.equal(largest.isnan()) else "NaN or infinite"
        raise KDScopeError(
            f"{what} {found} for {int(bad.sum())} of {len(bad)} images of a batch, the first is image "
            f"{int(index[bad][0])}; nothing can be compared with that"
        )
    if halves and bool((largest > FLOAT16_MAX).any()):
        raise KDScopeError(
            f"layer {array.layer!r} has a value beyond the range of float16 (65504); store it as bfloat16 or float32"
        )


class Background:
    """Writes in a thread of its own, at most `DEPTH` batches behind; what fails there is raised here.

    A context manager: leaving it commits what was put, or, after an exception, drops what was not committed.
    """

    def __init__(self, writer: ShardWriter):
        self._writer = writer
        self._queue: queue.Queue[Transfer | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="kdscope-writer", daemon=True)

    def __enter__(self) -> "Background":
        self._thread.start()
        return self

    def put(self, batch: Transfer) -> None:
        """Hand over one batch; waits while the disk is too far behind."""
        if self._error is not None:
            raise self._error
        self._queue.put(batch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropped = kind is not None
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is not None or self._dropped:
                continue  # the queue is emptied, so that nobody waits for room in it
            try:
                self._writer.add(batch.arrays())
            except BaseException as error:
                self._error = error
        if self._error is None and not self._dropped:
            try:
                self._writer.commit()
            except BaseException as error:
                self._error = error
