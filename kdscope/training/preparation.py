"""What terms compute once from a teacher and the training images (a codebook, masks): made once, and kept for all runs.

It is kept under ~/.cache/kdscope/prepared (or KDSCOPE_CACHE/prepared), in a safetensors file whose name is the hash of
the term's settings, the teacher's weights and the images, so that seeds and ablations share it to the last bit.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdscope import models
from kdscope.data import Batch, Batches, Dataset
from kdscope.data.catalogue import home
from kdscope.features.features import Features
from kdscope.features.hooks import Capture
from kdscope.files import digest, replacing
from kdscope.methods.term import Term
from kdscope.progress import bar
from kdscope.training.learner import Learner

VERSION = 1  # of what the files hold; raise it when a term computes something else under the same settings


class TrainingImages:
    """The images of the training part, as a preparation sees them.

    Attributes:
        labels: int64 [N], on the device. num_classes: how many there are. device: where batches are made.
    """

    def __init__(self, dataset: Dataset, device: torch.device, batch_size: int = 512):
        self.dataset, self.device, self.batch_size = dataset, device, batch_size
        self.labels = dataset.train.labels.to(device)
        self.num_classes = dataset.num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def plain(self, title: str = "") -> Iterator[Batch]:
        """Every image once, in order and as it is; with a title there is a progress bar."""
        with bar(title, len(self), shown=bool(title)) as advance:
            for batch in self.views("none").epoch():
                yield batch
                advance(len(batch.label))

    def views(self, augment: str) -> Batches:
        """Batches of the images under an augmentation, for preparations that need particular views of them."""
        whole = self.dataset
        return Batches(whole.train, whole, augment=augment, batch_size=self.batch_size, device=self.device)


def prepare_terms(fabric: Fabric, dataset: Dataset, learner: Learner) -> None:
    """Let each term that has something to compute from a teacher do so, or take what an earlier run computed.

    On several ranks the first computes and the others wait.
    """
    images = TrainingImages(dataset, fabric.device)
    for name, terms in learner.objective.terms.items():
        for k, term in enumerate(terms):
            settings = term.preparation()
            if settings is None:
                continue
            path = place(name, settings, learner, k, dataset)
            teacher = teaching(learner, name, k)
            if fabric.is_global_zero:
                _make(path, term, images, teacher, f"{name}: once for this teacher")
            fabric.barrier()
            term.use(load_file(path, device=str(fabric.device) if term.on_device else "cpu"))


def place(name: str, settings: dict, learner: Learner, k: int, dataset: Dataset) -> Path:
    """The file that holds what term `name` computes from teacher `k`."""
    key = {"version": VERSION, "term": name, "settings": settings, "data": dataset.train.fingerprint}
    key["normalisation"] = [list(dataset.mean), list(dataset.std)]
    key["teacher"] = models.weights_hash(learner.teachers[k])
    key["layers"] = list(learner.objective.pairs[name][k][1]) if name in learner.objective.pairs else []
    return home("KDSCOPE_CACHE") / "prepared" / f"{name}-{digest(key)[:24]}.safetensors"


def teaching(learner: Learner, name: str, k: int) -> Callable[[Tensor], Features]:
    """What teacher `k` says of a batch, with the layers that term `name` reads, without gradients."""
    layers = learner.objective.pairs[name][k][1] if name in learner.objective.pairs else ()
    capture = Capture(learner.teachers[k], layers)

    @torch.no_grad()
    def teach(image: Tensor) -> Features:
        with capture:
            return capture(image)

    return teach


def _make(path: Path, term: Term, images: TrainingImages, teacher: Callable[[Tensor], Features], title: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if path.is_file():
            return
        logging.getLogger("kdscope").info(title)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)  # the same whichever run comes first
            tensors = term.prepare(images, teacher)
        with replacing(path) as draft:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, draft)
