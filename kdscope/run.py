"""The run directory: what one training leaves behind, readable by other tools (YAML, JSON, CSV, safetensors).

    NAME/  config.yaml  environment.json  metrics.csv  summary.json  checkpoints/  features/

`config.yaml` alone repeats the run. A lock keeps two processes off one run.
"""

import contextlib
import csv
import functools
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from kdscope import data, models
from kdscope.config import Config, DataSettings, TeacherSettings, load_config, write_yaml
from kdscope.errors import KDScopeError
from kdscope.files import disk_error, read_json, write_json, write_text
from kdscope.links import links
from kdscope.training.tasks import task_of

if TYPE_CHECKING:
    from torch import nn

    from kdscope.training.tasks import Task


class Run:
    """A run directory that exists.

    Args:
        path: the directory; it must hold a `config.yaml`.

    Attributes:
        recipe: its settings. config: the same, with the teachers that the student itself had: those of the recipe, or
            where it is the last of a chain of trainings, the one before it.

    Raises:
        KDScopeError: no run there, or settings that are not valid.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()
        if not (self.path / "config.yaml").is_file():
            raise KDScopeError(f"{path} is not a run directory: it has no config.yaml")
        config = load_config(self.path / "config.yaml")
        self.recipe = config.model_copy(update={"teachers": tuple(self._found(t) for t in config.teachers)})
        self.config = self.recipe.model_copy(update={"teachers": self._taught_by()})

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _taught_by(self) -> "tuple[TeacherSettings, ...]":
        """The networks that this run itself learns from: after a chain of trainings, the last link of that."""
        before = links(self.recipe, self.path)
        if not before:
            return self.recipe.teachers
        summary = before[-1][0] / "summary.json"
        known = read_json(summary).get("weights_hash") if summary.is_file() else None
        return (TeacherSettings(run=before[-1][0], weights_hash=known),)

    def _found(self, teacher: TeacherSettings) -> TeacherSettings:
        """A teacher's run that was moved together with this one, found where it now lies beside it.

        The hash of the teacher's weights, which is checked when it is loaded, tells it from another of that name.
        """
        if teacher.run is None or teacher.run.exists():
            return teacher
        tails = [Path(*teacher.run.parts[k:]) for k in range(1, len(teacher.run.parts))]
        places = (parent / tail for parent in self.path.parents for tail in tails)
        moved = next((place for place in places if (place / "config.yaml").is_file()), teacher.run)
        return teacher.model_copy(update={"run": moved})

    @classmethod
    def create(cls, path: str | Path, config: Config) -> "Run":
        """Make the directory for a new run; one that already holds a run is refused."""
        cls.check_free(path)
        path = Path(path).resolve()
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_json(path / "environment.json", environment())
        write_text(path / "config.yaml", write_yaml(config))
        return cls(path)

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raise if a new run cannot be made at `path`; what a run that was killed at its birth left is no hindrance."""
        path = Path(path).resolve()
        if (path / "config.yaml").exists():
            raise KDScopeError(
                f"{path} already holds a run; continue it with `kdscope train --resume {path}`, or choose another --out"
            )
        debris = {".lock", "environment.json", "checkpoints"}
        drafts = re.compile(r"\.(environment\.json|config\.yaml)\.\d+\.tmp")
        if path.exists() and (
            not path.is_dir() or any(p.name not in debris and not drafts.fullmatch(p.name) for p in path.iterdir())
        ):
            raise KDScopeError(f"{path} exists and is not an empty directory; choose another --out")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: a second process that wants it gets a one-line error."""
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0.5)  # who only looks whether it is held lets go of it at once
        except filelock.Timeout:
            raise KDScopeError(
                f"run directory {self.path} is held by another process; wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    # What the run left behind

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """Headline numbers of a finished run: accuracy and the rule that chose its epoch, parameters, seconds."""
        self._must_be_finished()
        return read_json(self.path / "summary.json")

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one for each epoch."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as lines:
            return [{key: float(value) for key, value in row.items() if value != ""} for row in csv.DictReader(lines)]

    @property
    def weights(self) -> Path:
        """The file with the weights that the headline accuracy belongs to."""
        return self.path / "checkpoints" / "model.safetensors"

    @property
    def effort(self) -> dict[str, float]:
        """What the run took beside the epochs of its main training, all in all.

        Epochs of `phases` before it; epochs in `chain`, the trainings that went before it, with their own phases; and
        the `seconds` of all of them together.
        """
        self._must_be_finished()
        before = [Run(place) for place, _ in links(self.recipe, self.path)]
        phases = self.path / "phases.csv"
        known = [run.effort for run in before]
        return {
            "phases": len(phases.read_text().splitlines()) - 1 if phases.is_file() else 0,
            "chain": sum(run.config.epochs + effort["phases"] for run, effort in zip(before, known, strict=True)),
            "seconds": self.summary["seconds"] + sum(effort["seconds"] for effort in known),
        }

    @property
    def task(self) -> "Task":
        """What the run learned to do."""
        return task_of(self.config.data.name)

    def dataset(self) -> "data.Dataset":
        """The data of the run; of a detector, a `kdscope.detection.data.DetectionDataset`."""
        return load_data(self.config.data)

    def model(self, trained: bool = True) -> "nn.Module":
        """The trained network in eval mode, on the CPU; with `trained=False` the architecture without its weights."""
        network = self.task.network(self.config, self.dataset())
        if trained:
            self._must_be_finished()
            models.load_weights(network, self.weights)
        return network.eval()

    def teachers(self) -> "list[nn.Module]":
        """The networks that the run learned from, frozen and in eval mode."""
        return [load_teacher(teacher, self.dataset()) for teacher in self.config.teachers]

    def cache_path(self, split: str, view: str = "none") -> Path:
        """Where the feature cache of one split and view of this run lies."""
        return self.path / "features" / f"{split}-{view.replace(':', '-')}.kdcache"

    def _must_be_finished(self) -> None:
        if not self.finished:
            raise KDScopeError(
                f"run {self.path} is not finished; continue it with `kdscope train --resume {self.path}`"
            )


@functools.lru_cache(maxsize=4)
def load_data(settings: DataSettings) -> data.Dataset:
    """The dataset that `settings` name, kept for the next caller in this process."""
    return task_of(settings.name).load_data(settings)


def load_teacher(teacher: TeacherSettings, dataset: data.Dataset) -> "nn.Module":
    """A teacher's network, frozen and in eval mode.

    Raises:
        KDScopeError: weights that do not fit, other classes than the data's, or weights that have changed.
    """
    network = task_of(dataset.name).load_teacher(teacher, dataset)
    if teacher.weights_hash is not None and models.weights_hash(network) != teacher.weights_hash:
        named = f"{teacher.model}@{teacher.checkpoint}" if teacher.checkpoint else teacher.model
        origin = named if teacher.run is None else Run(teacher.run).path
        raise KDScopeError(f"teacher {origin} has other weights than when this run began; start a new run")
    return network.eval().requires_grad_(False)


def environment() -> dict[str, Any]:
    """What the run ran on: versions, platform, devices, command."""
    import torch

    packages = ("kdscope", "torch", "torchvision", "lightning-fabric", "numpy", "h5py", "safetensors")
    return {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """metrics.csv, whole: one row for each epoch, columns in the order of the longest row; not all have all columns."""
    columns = max(rows, key=len, default={})
    lines = [",".join(columns)] if rows else []
    lines += [",".join(json.dumps(row[key]) if key in row else "" for key in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
