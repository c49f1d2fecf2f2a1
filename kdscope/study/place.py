"""Where a study lies, and how far each of its runs is. What is on disk says it, so that any process can ask.

ROOT/runs/NAME-KEY/     one folder for each training, found by its key: studies of one root share them
ROOT/STUDY-SCALE/       plan.yaml, logs/, runs.csv, table.csv (.md, .tex), and a folder for each analysis
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from kdscope.config import IDLE, Config, TeacherSettings, flat
from kdscope.errors import KDScopeError
from kdscope.files import read_json
from kdscope.run import Run
from kdscope.study.cells import Cell, key_of
from kdscope.training.tasks import task_of

STATES = ("done", "running", "failed", "waiting", "stopped", "to do")
FAILED = "failed: "  # begins the last line of the log of a run that failed


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        state: one of STATES; "stopped" is a run that was begun and can be resumed.
        epochs: how many it has finished. seconds: what they took.
        score: on test, of a run that is done: the accuracy of a classifier, the average precision of a detector.
        error: why it failed, or whom it waits for.
    """

    state: str
    epochs: int = 0
    seconds: float = 0.0
    score: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Place:
    """The folders of one study at one scale."""

    root: Path
    name: str
    _found: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def log(self, cell: Cell) -> Path:
        return self.folder / "logs" / f"{cell.name}.log"

    def run(self, cell: Cell) -> Path:
        """The run directory of a cell: the one that has its key, whatever its name, or else where it will be."""
        if cell.key not in self._found:
            there = sorted((self.root / "runs").glob(f"*-{cell.key}"))
            if not there:
                return (self.root / "runs" / f"{cell.name}-{cell.key}").resolve()
            self._found[cell.key] = there[0].resolve()
        return self._found[cell.key]

    def teachers(self, cell: Cell, cells: Mapping[str, Cell]) -> list[TeacherSettings]:
        """What a cell learns from, as a run takes it."""
        return [
            TeacherSettings(run=self.run(cells[t.cell]), weight=t.weight)
            if t.cell
            else TeacherSettings.parse(t.elsewhere).model_copy(update={"weight": t.weight})
            for t in cell.teachers
        ]

    def check(self, cell: Cell, cells: Mapping[str, Cell]) -> None:
        """Raise if the run directory of a cell holds other settings than those that its name stands for, or weights."""
        path = self.run(cell)
        recipe = Run(path).recipe
        origins = [_origin(teacher) for teacher in recipe.teachers]
        wanted = [[cells[t.cell].key if t.cell else t.elsewhere, t.weight] for t in cell.teachers]
        begins = recipe.model.checkpoint
        start = None if cell.start is None or begins is None else begins.parent.parent.name.rpartition("-")[2]
        if key_of(recipe, origins, start) == cell.key:
            _check_weights(path)
            return
        ours, theirs = (flat(c.model_dump(mode="json", exclude={"teachers"})) for c in (cell.config, recipe))
        ours["teachers"], theirs["teachers"] = wanted, origins
        changed = [k for k in dict.fromkeys((*ours, *theirs)) if ours.get(k) != theirs.get(k)]
        what = next((key for key in changed if key not in IDLE), "settings")
        raise KDScopeError(
            f"{path / 'config.yaml'} was changed after the run was made (or the defaults of kdscope were): {what} is "
            f"{theirs.get(what)!r}, and by the run's key {ours.get(what)!r}; put it back, or move the folder away to "
            "train anew"
        )

    def state(self, cell: Cell, cells: Mapping[str, Cell]) -> State:
        """How far the run of a cell is."""
        path = self.run(cell)
        begun = (path / "config.yaml").is_file()
        rows = _rows(path / "metrics.csv")
        epochs = len(rows)
        seconds = float(rows[-1]["seconds"]) if rows else 0.0
        if begun:
            try:
                self.check(cell, cells)
            except KDScopeError as error:
                return State("failed", epochs, seconds, error=str(error))
        if (path / "summary.json").is_file():
            summary = read_json(path / "summary.json")
            return State("done", epochs, summary["seconds"], summary[score_of(cell.config)])
        if begun and _held(path):
            return State("running", epochs, seconds)
        if error := last_error(self.log(cell)):
            return State("failed", epochs, seconds, error=error)
        missing = [name for name in cell.needs if self.state(cells[name], cells).state != "done"]
        if missing:
            return State("waiting", epochs, seconds, error=f"waits for {', '.join(missing)}")
        return State("stopped" if begun else "to do", epochs, seconds)


def score_of(config: Config) -> str:
    """Where summary.json has what tables show of a run."""
    return f"test_{task_of(config.data.name).score}"


def last_error(log: Path) -> str:
    """The line that says why the last try failed, or nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-1].removeprefix(FAILED) if lines and lines[-1].startswith(FAILED) else ""


def remaining(cells: Sequence[Cell], states: Mapping[str, State]) -> float | None:
    """Seconds of training that are left, judged by runs of this study that are further; None where none is.

    A run takes as long for an epoch as those of its kind (else as any) take in the median.
    """
    known: dict[str, list[float]] = {}
    for cell in cells:
        state = states[cell.name]
        if state.epochs:
            for kind in (cell.arm, ""):
                known.setdefault(kind, []).append(state.seconds / state.epochs)
    if not known:
        return None
    total = 0.0
    for cell in cells:
        if states[cell.name].state not in ("done", "failed"):
            rate = statistics.median(known.get(cell.arm) or known[""])
            total += rate * max(0, cell.config.epochs - states[cell.name].epochs)
    return total


def _origin(teacher: TeacherSettings) -> list[Any]:
    """A teacher in a recipe: the key that its folder's name ends with, or where it is from."""
    if teacher.run is not None:
        return [teacher.run.name.rpartition("-")[2], teacher.weight]
    return [f"{teacher.model}@{teacher.checkpoint}" if teacher.checkpoint else teacher.model, teacher.weight]


def _check_weights(path: Path) -> None:
    """Raise if the weights were written after the run had ended, and are not those that it ended with."""
    weights, summary = path / "checkpoints" / "model.safetensors", path / "summary.json"
    if not summary.is_file():
        return
    if not weights.is_file():
        raise KDScopeError(f"{weights} is gone; put it back, or move {path.name} away to train anew")
    if weights.stat().st_mtime_ns <= summary.stat().st_mtime_ns:
        return
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from kdscope.models.weights import weights_hash

    try:
        found = weights_hash(load_file(weights))
    except SafetensorError as error:
        found = str(error)
    if found != read_json(summary)["weights_hash"]:
        raise KDScopeError(
            f"{weights} was changed after the run had ended: its hash is {found[:12]}, and by summary.json "
            f"{read_json(summary)['weights_hash'][:12]}; put it back, or move the folder away to train anew"
        )


def _held(path: Path) -> bool:
    """Whether a process is at work on the run."""
    if not (path / ".lock").exists():
        return False
    lock = filelock.FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))
