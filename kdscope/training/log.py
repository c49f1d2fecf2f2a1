"""What a person sees of a run that is under way: a progress bar on a terminal, TensorBoard if asked for."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kdscope.errors import KDScopeError
from kdscope.training.tally import Tally


class TrainingLog:
    """A bar over all steps with ETA, the loss by term and the accuracy; silent when standard error is no terminal.

    Args:
        total: steps of the whole run.
        show: False silences the bar on a terminal too (ranks other than the first).
        score: what of the test images is told, such as "accuracy".
        tensorboard: folder for TensorBoard's event files, or None.
    """

    def __init__(self, title: str, total: int, show: bool, score: str, tensorboard: Path | None = None):
        self.visible = show and sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            disable=not self.visible,
        )
        self._task = self._bar.add_task(title, total=total, state="")
        self._next = time.monotonic() + 1.0
        self._test, self._score = "", score
        self._writer = _tensorboard_writer(tensorboard) if tensorboard is not None and show else None

    def __enter__(self) -> "TrainingLog":
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def step(self, done: int, tally: Tally) -> None:
        """Move the bar. The numbers are read from the device once a second, and only when somebody can see them."""
        if not self.visible or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0
        means = tally.means(tally.sums)
        terms = " ".join(f"{name} {value:.3g}" for name, value in means.items() if name in ("loss", *tally.names))
        if tally.counted:
            terms += f" | train {100 * means[tally.counted]:.1f} %"
        state = f"{terms}{self._test}"
        self._bar.update(self._task, completed=done, state=state)

    def scoring(self) -> None:
        """Held-out images are scored now, during which the bar stands still: of a detector that can take minutes."""
        self._bar.update(self._task, state=f"scoring{self._test}")

    def epoch(self, done: int, row: dict[str, Any]) -> None:
        """An epoch has ended, with this row of metrics.csv."""
        if f"test_{self._score}" in row:
            self._test = f" | test {self._score} {100 * row[f'test_{self._score}']:.1f} %"
        self._bar.update(self._task, completed=done)
        if self._writer is not None:
            for key, value in row.items():
                if key not in ("epoch", "step"):
                    self._writer.add_scalar(key.replace(" ", "_"), value, row["step"])
            self._writer.flush()


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise KDScopeError("--tensorboard needs the package tensorboard: pip install 'kdscope[tensorboard]'") from None
    return SummaryWriter(str(folder))
