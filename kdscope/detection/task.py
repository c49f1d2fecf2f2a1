"""Detection, as the engine sees it: average precision, and batches of images with boxes."""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from kdscope.config import Config, DataSettings, NetworkSettings, TeacherSettings
from kdscope.detection import models
from kdscope.detection.average_precision import areas_for, check_evaluator
from kdscope.detection.data import DetectionDataset, DetectionSplit, load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.data.catalogue import DETECTION_DATASETS
from kdscope.detection.evaluate import detect, most_of, scored
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import DETECTION_METHODS, resolve
from kdscope.detection.preflight import preflight, stop_at_failed
from kdscope.detection.probe import check_probe, write_probe
from kdscope.detection.start import load_detector, load_start
from kdscope.detection.trained_adapters import keep_adapters
from kdscope.errors import KDScopeError, unknown
from kdscope.models import weights_hash
from kdscope.run import Run, load_data, load_teacher
from kdscope.training.classification import first_difference
from kdscope.training.gradients import check_rule
from kdscope.training.ranks import processes

FLIPS = {"standard": 0.5, "none": 0.0}  # augmentation: the share of images that are mirrored
OBSERVED = 64  # training images at least that terms look at before the first step


class Detection:
    """See `kdscope.training.tasks.Task`."""

    name = "detection"
    score = "ap"
    measured = "AP"
    methods = DETECTION_METHODS
    headline = ("test_ap", "test_ap50", "test_ap75", "test_ar")
    closing = ("loss",)
    counted = ""
    shares = True

    def load_data(self, settings: DataSettings) -> DetectionDataset:
        return load(settings.name, validation=settings.validation, image_size=settings.image_size, progress=True)

    def load_teacher(self, teacher: TeacherSettings, dataset: DetectionDataset) -> nn.Module:
        if teacher.run is not None:
            run = Run(teacher.run)
            if run.task.name != self.name:
                raise KDScopeError(
                    f"teacher {run.path} classifies images of {run.config.data.name!r}; a detector learns from another"
                )
            known = run.dataset().classes
            if known != dataset.classes:
                raise KDScopeError(
                    f"teacher {run.path} knows {len(known)} classes of {run.config.data.name!r}, "
                    f"but {dataset.name!r} has {dataset.num_classes}: {first_difference(known, dataset.classes)}"
                )
            return run.model()
        if teacher.checkpoint is None:
            return models.published(teacher.model, dataset.num_classes, shown_size(dataset), **teacher.options)
        network = models.build(teacher.model, dataset.num_classes, image_size=shown_size(dataset), **teacher.options)
        load_detector(network, teacher.checkpoint, dataset.name)
        return network

    def network(self, config: Config, dataset: DetectionDataset, fetch: bool = False) -> nn.Module:
        network, size = config.model, shown_size(dataset)
        return models.build(
            network.name,
            dataset.num_classes,
            image_size=size,
            pretrained=network.pretrained,
            fetch=fetch,
            **network.options,
        )

    def check_names(self, config: Config) -> None:
        _ = DETECTION_DATASETS[config.data.name.partition(":")[0]]
        models.check_name(config.model.name)

    def complete(self, config: Config) -> Config:
        for setting in ("assistants", "peers"):
            if getattr(config, setting):
                raise KDScopeError(f"{setting} are for classifiers; leave them out of a run on {config.data.name!r}")
        if config.generations > 1 or config.chain not in (None, "none"):
            raise KDScopeError(f"chains of trainings are for classifiers; {config.data.name!r} trains a detector")
        return config.model_copy(update={"chain": "none"})

    def written_out(self, config: Config) -> Config:
        if config.data.augment not in FLIPS:
            raise unknown("augmentation", config.data.augment, FLIPS, "detection")
        if config.data.root is not None or config.data.download:
            raise KDScopeError(f"dataset {config.data.name!r} has its folder in its name; leave out root and download")
        if config.data.sampler != "uniform":
            raise KDScopeError(f"sampler {config.data.sampler!r} draws by class; the images of a detector have many")
        check_probe(config)
        if config.compile:
            raise KDScopeError("--compile is for classifiers: what a detector does depends on what is in an image")
        if len(config.teachers) > 1:
            raise KDScopeError(f"a detector learns from one teacher, not from {len(config.teachers)}")
        if config.ensemble != Config().ensemble or any(teacher.weight != 1 for teacher in config.teachers):
            raise KDScopeError("a detector has one teacher at most; leave out ensemble, and the weight of a teacher")
        if config.model.checkpoint_share != 1:
            raise KDScopeError("model.checkpoint_share is for classifiers; a detector starts from all of a checkpoint")
        check_rule(config.gradients or "sum", config.precision)
        terms = resolve(config.method, config.terms)
        return config.model_copy(update={"terms": terms, "gradients": config.gradients or "sum"})

    def prepare(
        self, config: Config, begun: bool, teachers: Sequence[nn.Module] | None
    ) -> tuple[Config, DetectionDataset, DetectionLearner]:
        check_evaluator()
        config = self.written_out(self.complete(config))
        dataset = load_data(config.data)
        given = teachers is not None
        if teachers is None:
            teachers = [load_teacher(teacher, dataset) for teacher in config.teachers]
            known = [
                settings.model_copy(update={"weights_hash": weights_hash(network)})
                for settings, network in zip(config.teachers, teachers, strict=True)
            ]
            config = config.model_copy(update={"teachers": tuple(known)})
        torch.manual_seed(config.seed)
        student = self.network(config, dataset, fetch=not begun)
        if config.model.checkpoint is not None and not begun:
            start = load_start(student, config.model.checkpoint)
            if start.drawn:
                logging.getLogger("kdscope").info(f"{config.model.checkpoint} gives the student {start}")
        objective = DetectionObjective(config.terms, bool(teachers))
        learner = DetectionLearner(student, objective, *teachers)
        learner.build()
        share = min(config.data.batch_size, len(dataset.train)) // processes(config.devices)
        if share < learner.least_images:
            raise KDScopeError(
                f"detector {config.model.name!r} needs at least {learner.least_images} images in a batch, for its last "
                f"maps have one cell, and a device gets {share}; raise --batch-size"
            )
        if config.gradients != "sum" and len(set(objective.task)) < 2:
            raise KDScopeError(
                f"gradients {config.gradients!r} weighs the gradient of the boxes against that of the teacher, "
                f"and {', '.join(objective.names)} is one of the two alone"
            )
        if objective.needs_teacher and not (begun or given or config.preflight == "off"):
            files = {"student": config.model.checkpoint, "teacher": config.teachers[0].checkpoint}
            checks = preflight(
                student, *teachers, dataset, heads=objective.asks, scratch=means_scratch(config.model),
                files={role: file for role, file in files.items() if file is not None},
                device="cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu",
                workers=config.data.workers, progress=True,
            )  # fmt: skip
            stop_at_failed(checks, stop=config.preflight == "stop")
            learner.records["preflight.json"] = [asdict(check) for check in checks]
        if objective.needs_teacher and not begun:
            # After the checks: a neck of a teacher that was trained is no sign of a backbone that is.
            objective.begin(student, *teachers)
        return config, dataset, learner

    def batches(
        self, config: Config, dataset: DetectionDataset, learner: DetectionLearner, ranks: Mapping[str, Any]
    ) -> tuple[DetectionBatches, dict[str, DetectionBatches]]:
        size = config.data.batch_size
        training = DetectionBatches(
            dataset.train,
            batch_size=size,
            shuffle=True,
            flip=FLIPS[config.data.augment],
            least=learner.least_images,
            seed=config.seed,
            **ranks,
        )
        parts = [dataset.test] if dataset.validation is None else [dataset.test, dataset.validation]
        return training, {part.name: HeldOut(dataset, part, batch_size=size, **ranks) for part in parts}

    def ready(
        self,
        fabric: Fabric,
        dataset: DetectionDataset,
        learner: DetectionLearner,
        batches: DetectionBatches,
        begun: bool,
    ) -> None:
        if begun or not learner.objective.observing:
            return
        observe_some(learner, batches, fabric.device)

    def evaluate(self, fabric: Fabric, network: nn.Module, batches: DetectionBatches) -> dict[str, float]:
        dataset = batches.dataset
        most = most_of(dataset.name)
        mine = detect(network, batches, most=most)
        every = [mine]
        if fabric.world_size > 1:
            every = [None] * fabric.world_size
            torch.distributed.all_gather_object(every, mine)
        index = torch.cat([part for part, _ in every])
        found = [one for _, part in every for one in part]  # the ranks take runs of images, in their order
        return scored(found, batches.split, dataset.num_classes, index, most, areas_for(dataset.name))

    def probe(self, run: Run, fabric: Fabric, dataset: DetectionDataset, learner: DetectionLearner, epoch: int) -> None:
        write_probe(run, fabric, dataset, learner, epoch)

    def keep_best(self, learner: DetectionLearner, folder: Path) -> None:
        keep_adapters(learner.objective, folder)

    def told(self, summary: Mapping[str, Any]) -> str:
        return f"test AP {100 * summary['test_ap']:.1f}, AP50 {100 * summary['test_ap50']:.1f}"


def observe_some(learner: DetectionLearner, batches: DetectionBatches, device: torch.device) -> None:
    """Show about `OBSERVED` images of the first epoch to the terms that look at some before the first step.

    Every rank looks at all of them, so that their number changes nothing, and what a transform draws is always the
    same; torch's generators are left as they were.
    """
    whole = copy.copy(batches)
    whole.rank, whole.world_size = 0, 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in itertools.islice(whole.epoch(0), -(-OBSERVED // whole.batch_size)):
            learner.observe(batch)


def means_scratch(network: NetworkSettings) -> bool:
    """Whether a network is meant to start from random weights: the small ones, and a user's own.

    >>> means_scratch(NetworkSettings(name="fcos_resnet10_w16")), means_scratch(NetworkSettings(name="fcos_resnet18"))
    (True, False)
    """
    return "_w" in network.name or (":" in network.name and not network.name.startswith("torchvision:"))


class HeldOut(DetectionBatches):
    """Batches of a held-out part, which know the classes that they are scored by."""

    def __init__(self, dataset: DetectionDataset, split: DetectionSplit, **options: Any):
        super().__init__(split, **options)
        self.dataset = dataset


def shown_size(dataset: DetectionDataset) -> int | None:
    """The shorter side that images are scaled to: as asked for, or where all have one size, their own."""
    sizes = dataset.train.sizes
    return dataset.image_size or (int(sizes[0].min()) if bool((sizes == sizes[0]).all()) else None)
