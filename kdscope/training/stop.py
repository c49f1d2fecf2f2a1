"""Ctrl-C, SIGTERM and a closed terminal end a run between two steps, so that what is saved is whole.

A second Ctrl-C ends it at once.
"""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

from lightning_fabric import Fabric

from kdscope.training.ranks import any_rank

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has been saved."""

    def __init__(self, path: Path, where: str):
        self.path, self.where = path, where
        super().__init__(f"stopped in {where}; go on with: kdscope train --resume {path}")

    def inside(self, path: Path) -> "Interrupted":
        """The same of the run at `path`, of whose chain this run is a link."""
        return Interrupted(path, f"{self.path.name}, {self.where}")


class StopSignal:
    """A context in which SIGINT, SIGTERM and SIGHUP set `requested`. Outside of the main thread it does nothing."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, fabric: Fabric, step: int) -> bool:
        """Whether to stop after `step`, all ranks together."""
        return any_rank(fabric, step, self.requested)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
