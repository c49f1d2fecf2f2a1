"""From the device to the disk while the network goes on: copies that do not wait, and a thread that writes."""

import queue
import threading
from collections.abc import Mapping
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from kdscope.errors import KDScopeError
from kdscope.features.shard import ShardWriter

DEPTH = 4


class Transfer:
    """One batch on its way to the host: from an accelerator through pinned memory, without stopping it.

    Args:
        tensors: what is stored, by name, [B, ...].
        checks: by layer, whether (bool scalar) a value of it is too large for float16.
    """

    def __init__(self, tensors: Mapping[str, Tensor], checks: Mapping[str, Tensor]):
        self._event = None
        self._tensors = {name: self._copy(value) for name, value in tensors.items()}
        self._checks = {name: self._copy(value) for name, value in checks.items()}
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
        """What is stored, once it has arrived; a value beyond float16 is a KDScopeError that names its layer."""
        if self._event is not None:
            self._event.synchronize()
        for layer, beyond in self._checks.items():
            if bool(beyond):
                raise KDScopeError(
                    f"layer {layer!r} has a value beyond the range of float16 (65504); store it as bfloat16 or float32"
                )
        return {name: value.numpy() for name, value in self._tensors.items()}


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
