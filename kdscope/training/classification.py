"""Classification, as the engine sees it: accuracy, cross-entropy, and batches of labelled images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from kdscope import data, models
from kdscope.config import Config, DataSettings, TeacherSettings
from kdscope.data import Batches, Dataset
from kdscope.data.catalogue import DATASETS
from kdscope.errors import KDScopeError, unknown
from kdscope.methods import METHODS
from kdscope.run import Run
from kdscope.training import chain, prepare
from kdscope.training.evaluate import count_right
from kdscope.training.learner import Learner
from kdscope.training.preparation import prepare_terms
from kdscope.training.probe import write_probe


class Classification:
    """See `kdscope.training.tasks.Task`."""

    name = "classification"
    score = measured = "accuracy"
    methods = METHODS
    headline = ("test_accuracy", "test_loss")
    closing = ("train_accuracy",)
    counted = "train_accuracy"
    shares = False

    def load_data(self, settings: DataSettings) -> Dataset:
        return data.load(
            settings.name,
            root=settings.root,
            validation=settings.validation,
            image_size=settings.image_size,
            download=settings.download,
            progress=True,
        )

    def load_teacher(self, teacher: TeacherSettings, dataset: Dataset) -> nn.Module:
        if teacher.run is not None:
            run = Run(teacher.run)
            known = run.dataset().classes
            if known != dataset.classes:
                raise KDScopeError(
                    f"teacher {run.path} knows {len(known)} classes of {run.config.data.name!r}, "
                    f"but {dataset.name!r} has {dataset.num_classes}: {first_difference(known, dataset.classes)}"
                )
            return run.model()
        network = models.build(
            teacher.model,
            dataset.num_classes,
            image_size=dataset.image_size,
            pretrained=teacher.checkpoint is None,
            **teacher.options,
        )
        if teacher.checkpoint is not None:
            models.load_weights(network, teacher.checkpoint)
        return network

    def network(self, config: Config, dataset: Dataset) -> nn.Module:
        network = models.build(
            config.model.name, dataset.num_classes, image_size=dataset.image_size, **config.model.options
        )
        if config.terms:
            from kdscope.methods.objective import changed

            network = changed(network, config.terms)
        return network

    def check_names(self, config: Config) -> None:
        kind = config.data.name.partition(":")[0]
        if kind not in DATASETS:
            raise unknown("dataset", kind, DATASETS)
        for network in (config.model, *config.peers, *config.assistants):
            if ":" not in network.name and network.name not in models.names():
                raise unknown("model", network.name, models.names())

    def complete(self, config: Config) -> Config:
        return chain.complete_chain(config)

    def written_out(self, config: Config) -> Config:
        return prepare.written_out_classifier(config)

    def prepare(
        self, config: Config, begun: bool, teachers: Sequence[nn.Module] | None
    ) -> tuple[Config, Dataset, Learner]:
        return prepare.prepare_classifier(config, begun, teachers)

    def batches(
        self, config: Config, dataset: Dataset, learner: Learner, ranks: Mapping[str, Any]
    ) -> tuple[Batches, dict[str, Batches]]:
        settings = config.data
        ranks = {**ranks, "channels_last": ranks["device"].type == "cuda"}
        training = Batches(
            dataset.train, dataset, augment=settings.augment, batch_size=settings.batch_size, shuffle=True,
            seed=config.seed, least=learner.objective.least_images, sampler=settings.sampler, **ranks,
        )  # fmt: skip
        splits = [dataset.test] if dataset.validation is None else [dataset.test, dataset.validation]
        return training, {split.name: Batches(split, dataset, batch_size=512, **ranks) for split in splits}

    def ready(self, fabric: Fabric, dataset: Dataset, learner: Learner, batches: Batches, begun: bool) -> None:
        prepare_terms(fabric, dataset, learner)

    def evaluate(self, fabric: Fabric, network: nn.Module, batches: Batches) -> dict[str, float]:
        right, loss, images = fabric.all_reduce(count_right(network, batches), reduce_op="sum").tolist()
        return {"accuracy": right / images, "loss": loss / images}

    def probe(self, run: Run, fabric: Fabric, dataset: Dataset, learner: Learner, epoch: int) -> None:
        write_probe(run, fabric, dataset, learner, epoch)

    def keep_best(self, learner: Learner, folder: Path) -> None:
        """Nothing: no analysis of a classifier asks for what its terms trained."""

    def told(self, summary: Mapping[str, Any]) -> str:
        return f"test accuracy {100 * summary['test_accuracy']:.2f} %"


def first_difference(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    """Where two lists of classes part, in words.

    >>> first_difference(("cat", "dog"), ("cat", "cow"))
    "class 1 is 'dog' for the teacher and 'cow' in the data"
    """
    if len(a) != len(b):
        return f"{len(a)} against {len(b)}"
    k = next(k for k, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return f"class {k} is {a[k]!r} for the teacher and {b[k]!r} in the data"
