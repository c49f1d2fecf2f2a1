"""Caches of a fixed probe set, written while a run trains, so that every analysis can be drawn over its epochs."""

import shutil
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdscope import models
from kdscope.data import Dataset, Split
from kdscope.features.extract import extract_features
from kdscope.features.manifest import manifest_of
from kdscope.run import Run


def probe_indices(split: Split, size: int) -> Tensor:
    """`size` images of a split, evenly strided: the same for every run on the data.

    Returns int64 [min(size, len(split))], increasing.
    """
    size = min(size, len(split))
    return torch.arange(size) * len(split) // size


def probe_path(run: Run, epoch: int, split: str) -> Path:
    """Where the probe of `split` after `epoch` epochs lies."""
    return run.path / "features" / f"probe-epoch-{epoch:04d}-{split}.kdcache"


def write_probe(run: Run, fabric: Fabric, dataset: Dataset, student: nn.Module, epoch: int) -> None:
    """Extract the probe set from the student as it is after `epoch` epochs, if one is due then.

    A probe that an interrupted run left half-written is begun again when the weights are no longer the same.
    """
    every = run.config.probe_every
    if not every or (epoch % every and epoch != run.config.epochs):
        return
    if fabric.is_global_zero:
        for name in ("train", "test"):
            split, path = dataset.split(name), probe_path(run, epoch, name)
            identity = {"model": run.config.model.name, "run": run.name, "epoch": epoch}
            identity["weights"] = models.weights_hash(student)
            manifest = manifest_of(path)
            if manifest is not None and manifest["identity"]["weights"] != identity["weights"]:
                shutil.rmtree(path)
            limit = probe_indices(split, run.config.probe_size)
            extract_features(student, dataset, name, path, limit=limit, device=fabric.device, identity=identity)
    fabric.barrier()
