"""A fixed probe set, looked at while a run trains: feature caches for any analysis over epochs, or CKA alone.

Caches are what every analysis can be drawn from later; CKA with the teachers (`kdscope.training.probe_cka`) keeps a
table of a few kilobytes and no features. Either is made from the weights alone, so that a run that was killed and
resumed leaves what an uninterrupted one does.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdscope import models
from kdscope.config import Config
from kdscope.data import Dataset, Split
from kdscope.features.kinds import extract_kind
from kdscope.features.manifest import manifest_of
from kdscope.run import Run
from kdscope.training.learner import Learner
from kdscope.training.probe_cka import write_cka

SPLITS = ("train", "test")
ATTRIBUTED = 256  # images at the most of a probe of causal maps, which takes hundreds of passes an image; of test alone


def probe_indices(split: Split, size: int) -> Tensor:
    """`size` images of a split, evenly strided: the same for every run on the data.

    Returns int64 [min(size, len(split))], increasing.
    """
    size = min(size, len(split))
    return torch.arange(size) * len(split) // size


def probe_path(run: Run, epoch: int, split: str, kind: str = "features") -> Path:
    """Where the probe of `split` after `epoch` epochs lies."""
    end = "" if kind == "features" else f"-{kind}"
    return run.path / "features" / f"probe-epoch-{epoch:04d}-{split}{end}.kdcache"


def due(config: Config, epoch: int) -> bool:
    """Whether a probe is due after `epoch` epochs: before the first, every so many, and at the end.

    >>> [epoch for epoch in range(6) if due(Config(epochs=5, probe_every=2), epoch)]
    [0, 2, 4, 5]
    """
    return config.probe_every > 0 and (epoch % config.probe_every == 0 or epoch == config.epochs)


def remove_other(path: Path, identity: Mapping[str, Any]) -> None:
    """Remove the probe at `path` that a stopped run left, if it was made from something else than `identity` says."""
    manifest = manifest_of(path)
    if manifest is not None and any(manifest["identity"].get(name) != value for name, value in identity.items()):
        shutil.rmtree(path)


def write_probe(run: Run, fabric: Fabric, dataset: Dataset, learner: Learner, epoch: int) -> None:
    """Look at the probe set with the student as it is after `epoch` epochs, if a probe is due then."""
    config = run.config
    if not due(config, epoch):
        return
    # A compiled network does not see hooks that come and go.
    with torch.compiler.set_stance("force_eager"):
        if fabric.is_global_zero:
            limits = {name: probe_indices(dataset.split(name), config.probe_size) for name in SPLITS}
            for kind in (*(["features"] if "cache" in config.probe else []), *config.probe_maps):
                for name, limit in limits.items():
                    _write_cache(run, fabric.device, dataset, learner.student, epoch, name, limit, kind)
            if "cka" in config.probe:
                write_cka(run, dataset, learner.student, learner.teachers, epoch, limits, fabric.device)
    fabric.barrier()


def _write_cache(
    run: Run,
    device: torch.device,
    dataset: Dataset,
    student: nn.Module,
    epoch: int,
    name: str,
    limit: Tensor,
    kind: str,
) -> None:
    """A probe that an interrupted run left half-written is begun again when the weights are no longer the same."""
    if kind == "causal":
        if name != "test":
            return
        limit = probe_indices(dataset.split(name), min(len(limit), ATTRIBUTED))
    path = probe_path(run, epoch, name, kind)
    identity = {"model": run.config.model.name, "run": run.name, "epoch": epoch}
    identity["weights"] = models.weights_hash(student)
    remove_other(path, {"weights": identity["weights"]})
    extract_kind(kind)(student, dataset, name, path, limit=limit, device=device, identity=identity)
