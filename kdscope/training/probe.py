"""A fixed probe set, looked at while a run trains: feature caches for any analysis over epochs, or CKA alone.

Caches are what every analysis can be drawn from later; CKA with the teachers (`kdscope.training.probe_cka`) keeps a
table of a few kilobytes and no features. Either is made from the weights alone, so that a run that was killed and
resumed leaves what an uninterrupted one does.
"""

import shutil
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdscope import models
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


def write_probe(run: Run, fabric: Fabric, dataset: Dataset, learner: Learner, epoch: int) -> None:
    """Look at the probe set with the student as it is after `epoch` epochs, if a probe is due then."""
    config = run.config
    every = config.probe_every
    if not every or (epoch % every and epoch != config.epochs):
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
    manifest = manifest_of(path)
    if manifest is not None and manifest["identity"]["weights"] != identity["weights"]:
        shutil.rmtree(path)
    extract_kind(kind)(student, dataset, name, path, limit=limit, device=device, identity=identity)
