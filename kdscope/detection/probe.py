"""A fixed probe set, looked at while a detector trains: what it finds, and itself beside its teacher, over epochs.

Caches of kind "detection" and, where there is a teacher, of kind "pair", with the adapters as they are at that moment.
They are made from weights alone and move no generator: a run with probes ends as one without, and a run that was
killed and resumed leaves what an uninterrupted one does.
"""

import logging
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from kdscope.config import Config
from kdscope.detection.data import DetectionDataset
from kdscope.detection.evaluate import most_of
from kdscope.detection.extract import extract_detections
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.pair import NothingShared, extract_pair
from kdscope.detection.trained_adapters import adapters_in, hash_of
from kdscope.errors import KDScopeError
from kdscope.models import weights_hash
from kdscope.run import Run
from kdscope.training.probe import SPLITS, due, probe_indices, probe_path, remove_other


def check_probe(config: Config) -> None:
    """Refuse what is kept of classifiers alone."""
    if config.probe != "cache":
        raise KDScopeError(f"probe {config.probe!r} is for classifiers; of a detector caches are kept: --probe cache")
    if config.probe_maps:
        kinds = ", ".join(config.probe_maps)
        raise KDScopeError(
            f"probe_maps ({kinds}) are for classifiers; the probes of a detector hold its attention maps"
        )


def write_probe(run: Run, fabric: Fabric, dataset: DetectionDataset, learner: DetectionLearner, epoch: int) -> None:
    """Look at the probe set with student and adapters as they are after `epoch` epochs, if a probe is due then."""
    if not due(run.config, epoch):
        return
    if fabric.is_global_zero:
        known = {"model": run.config.model.name, "run": run.name, "epoch": epoch}
        known["weights"] = weights_hash(learner.student)
        for split in SPLITS:
            limit = probe_indices(dataset.split(split), run.config.probe_size)
            options: dict[str, Any] = {"limit": limit, "device": fabric.device, "identity": known}
            place = probe_path(run, epoch, split)
            remove_other(place, {"weights": known["weights"]})
            extract_detections(learner.student, dataset, split, place, most=most_of(dataset.name), **options)
            for teacher in learner.teachers:
                _write_pair(run, dataset, learner, teacher, epoch, split, options)
    fabric.barrier()


def _write_pair(
    run: Run,
    dataset: DetectionDataset,
    learner: DetectionLearner,
    teacher: nn.Module,
    epoch: int,
    split: str,
    options: dict[str, Any],
) -> None:
    adapters = adapters_in(learner.objective.state_dict())
    place = probe_path(run, epoch, split, "pair")
    remove_other(place, {"weights": options["identity"]["weights"], "adapters": hash_of(adapters)})
    try:
        extract_pair(learner.student, teacher, dataset, split, place, adapters=adapters, **options)
    except NothingShared as error:  # no reason to stop a training that asks nothing of the kind
        if epoch == 0 and split == SPLITS[0]:
            logging.getLogger("kdscope").info(f"probes of {run.name} are of the student alone: {error}")
