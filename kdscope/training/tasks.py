"""What a run learns: to classify images, or to detect objects in them. The data decide which.

One loop trains both. What differs between them stands behind `Task`: the data, the networks and their objective, the
batches, and how held-out images are scored. Detection is imported when a run wants it.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kdscope.config import Config, DataSettings, TeacherSettings, detects

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import nn

    from kdscope.methods.method import Method
    from kdscope.registry import Registry
    from kdscope.run import Run

PLACES = {
    "classification": ("kdscope.training.classification", "Classification"),
    "detection": ("kdscope.detection.task", "Detection"),
}


class Epochs(Protocol):
    """Batches of a split. Each has an `index` [B] of its images, and is what the learner's `arguments` takes."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Any]: ...


class Task(Protocol):
    """What the engine asks of a task.

    Attributes:
        name: "classification" or "detection".
        score: what tells a good epoch from a bad one, a share, higher is better: column `test_{score}` of metrics.csv
            and of summary.json. measured: what tables call it.
        methods: by name.
        headline: columns that open summary.json, `closing` those that follow the rule which chose the epoch.
        counted: column of right answers on the training images, or "".
        shares: whether each term's share of the loss is a column too.
    """

    name: str
    score: str
    measured: str
    methods: "Registry[Method]"
    headline: tuple[str, ...]
    closing: tuple[str, ...]
    counted: str
    shares: bool

    def load_data(self, settings: DataSettings) -> Any:
        """The dataset, with `train`, `test`, `validation`, `classes` and `fingerprint`."""

    def load_teacher(self, teacher: TeacherSettings, dataset: Any) -> "nn.Module":
        """A teacher's network; the engine freezes it and checks its hash."""

    def network(self, config: Config, dataset: Any) -> "nn.Module":
        """The architecture that a run of `config` saves the weights of."""

    def check_names(self, config: Config) -> None:
        """Raise for a dataset or a network of a name that none has, as far as no data is needed to say so."""

    def complete(self, config: Config) -> Config:
        """The config with its chain of trainings written out."""

    def written_out(self, config: Config) -> Config:
        """The config with all that its method decides."""

    def prepare(
        self, config: Config, begun: bool, teachers: "Sequence[nn.Module] | None"
    ) -> "tuple[Config, Any, nn.Module]":
        """Config, data and learner, as `kdscope.training.prepare.prepare` says."""

    def batches(
        self, config: Config, dataset: Any, learner: "nn.Module", ranks: Mapping[str, Any]
    ) -> tuple[Epochs, dict[str, Epochs]]:
        """Of the training part, and of the held-out parts by name; `ranks` says which process this is."""

    def ready(self, fabric: "Fabric", dataset: Any, learner: "nn.Module", batches: Epochs, begun: bool) -> None:
        """What is computed once before the first step; `begun`: the rest comes from a checkpoint."""

    def evaluate(self, fabric: "Fabric", network: "nn.Module", batches: Epochs) -> dict[str, float]:
        """Numbers of a held-out part, over all ranks; among them `score`."""

    def probe(self, run: "Run", fabric: "Fabric", dataset: Any, learner: "nn.Module", epoch: int) -> None:
        """Look at a fixed set of images, if that is due after `epoch` epochs."""

    def keep_best(self, learner: "nn.Module", folder: "Path") -> None:
        """Write to the folder of the checkpoints what must be kept of the best epoch so far, beside the weights."""

    def told(self, summary: Mapping[str, Any]) -> str:
        """The headline of a summary, such as "test accuracy 71.20 %"."""


def task_of(data: str) -> Task:
    """The task of the dataset of that name.

    >>> task_of("digits").name, task_of("scenes:100").name
    ('classification', 'detection')
    """
    return task_named("detection" if detects(data) else "classification")


def task_named(name: str) -> Task:
    """The task of that name, a key of PLACES."""
    module, kind = PLACES[name]
    return getattr(importlib.import_module(module), kind)()
