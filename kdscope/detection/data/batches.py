"""Batches of images with their boxes, on the device.

Images of one size live on the device as uint8 and a batch is one gather; files of any sizes stream, decoded by the
workers of a torch DataLoader. What an epoch shows, and which images are mirrored, is a function of (seed, epoch, index)
alone, so a run that goes on from the middle of an epoch, or on more processes, sees the same images.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kdscope.data.batches import read_ahead
from kdscope.data.chance import Chance, permutation
from kdscope.data.shares import Shares
from kdscope.detection.data.record import DetectionSplit, Objects
from kdscope.errors import KDScopeError


class Scenes(NamedTuple):
    """Some images of a split and what is in them, as torchvision's detectors take them.

    Attributes:
        images: float32 in [0, 1]: [B, 3, H, W] where all have one size, else a list of [3, H, W].
        targets: of each image `boxes` (float32 [n, 4], pixels of the image as it is shown) and `labels` (int64 [n],
            from 1); with `everything` also `crowd` (bool [n]) and `area` (float32 [n]).
        index: int64 [B], on the device: positions in the unshuffled split.
    """

    images: Tensor | list[Tensor]
    targets: list[dict[str, Tensor]]
    index: Tensor


class DetectionBatches(Shares):
    """The batches of a split, resident or streamed: one iterator.

    Args:
        split: what to take images from.
        batch_size: of all ranks together.
        shuffle: whether an epoch is a permutation that depends on (seed, epoch) only.
        flip: probability that an image and its boxes are mirrored, left to right.
        least: with `shuffle`, a ragged last batch with fewer images than this on a rank is left out.
        everything: whether crowds and ignored regions stay among the objects: for evaluation, never for training.
        seed: for the permutation and the flips.
        device: where batches are made.
        rank, world_size: this process's part. With `shuffle`, each batch of the epoch is cut in equal parts (the ragged
            last one is trimmed to a multiple of `world_size`). Without, the ranks take disjoint runs of images that
            together cover each exactly once.
        memory_budget: bytes; images of one size that need more are kept on the host.
        workers: processes that decode files; 0 decodes in this one.

    Raises:
        KDScopeError: a batch size that the ranks cannot share, an empty split, a flip that is no probability.

    >>> from kdscope.detection.data import load
    >>> batches = DetectionBatches(load("scenes:20").train, batch_size=8, shuffle=True, flip=0.5)
    >>> scenes = next(batches.epoch(0))
    >>> len(batches), scenes.images.shape, sorted(scenes.targets[0])
    (3, torch.Size([8, 3, 128, 128]), ['boxes', 'labels'])
    """

    def __init__(
        self,
        split: DetectionSplit,
        *,
        batch_size: int = 8,
        shuffle: bool = False,
        flip: float = 0.0,
        least: int = 1,
        everything: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        memory_budget: int = 4 * 2**30,
        workers: int = 2,
    ):
        if len(split) == 0:
            raise KDScopeError(f"split {split.name!r} has no images")
        if batch_size < 1 or (shuffle and batch_size % world_size):
            raise KDScopeError(
                f"batch_size={batch_size} is not a positive multiple of the {world_size} processes sharing it"
            )
        if not 0 <= rank < world_size:
            raise KDScopeError(f"rank {rank} is not one of the {world_size} processes 0 to {world_size - 1}")
        if not 0 <= flip <= 1:
            raise KDScopeError(f"flip={flip:g} is not a probability; give 0 (never) to 1 (always)")
        self.split, self.seed, self.shuffle, self.flip, self.everything = split, seed, shuffle, flip, everything
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.least = least
        self.device, self.workers = torch.device(device), workers
        self.objects: Objects = split.objects if everything else split.objects.only(~split.objects.crowd)
        self.store = None
        if not split.decodes:
            fits = split.stored.numel() <= memory_budget
            self.store = split.stored.to(self.device) if fits else split.stored

    def __len__(self) -> int:
        """Batches in an epoch on this rank."""
        if not self.shuffle:
            return -(-len(self._run()) // self._step())
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest >= self.world_size * self.least)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Scenes]:
        """The batches of one epoch on this rank, from batch `start` on: the same ones whatever `start` is."""
        parts = self._parts(epoch)[start:]
        if self.split.decodes:
            read = read_ahead(self.split, parts, self.workers, pin=self.device.type == "cuda")
        else:
            read = map(self._gather, parts)
        for index, images in zip(parts, read, strict=True):
            yield self._make(index, epoch, images)

    def batch(self, index: Tensor, epoch: int = 0) -> Scenes:
        """The images at `index` (int64 [B], any device) as `epoch` shows them: any can be made again."""
        index = self._inside(index)
        return self._make(index, epoch, self.split.read(index) if self.split.decodes else self._gather(index))

    def _parts(self, epoch: int) -> list[Tensor]:
        """The indices of each batch of this rank, on the host."""
        if not self.shuffle:
            run = self._run()
            return list(torch.arange(run.start, run.stop).split(self._step())) if run else []
        parts = permutation(self.seed, epoch, len(self.split)).split(self.batch_size)
        shares = [len(part) // self.world_size for part in parts]
        whole = zip(parts, shares, strict=True)
        return [part[self.rank * share : (self.rank + 1) * share] for part, share in whole if share >= self.least]

    def _gather(self, index: Tensor) -> Tensor:
        return self.store.index_select(0, index.to(self.store.device))

    def _make(self, index: Tensor, epoch: int, raw: Tensor | list[Tensor]) -> Scenes:
        some = self.objects.subset(index)
        counts = some.counts.tolist()
        mirrored = Chance(self.seed, epoch, index).coin("detection-flip", self.flip)
        boxes = mirror(some.boxes, self.split.sizes[index, 1].float()[some.image], mirrored[some.image])
        columns = {"boxes": boxes, "labels": some.labels}
        if self.everything:
            columns |= {"crowd": some.crowd, "area": some.area}
        columns = {name: value.to(self.device, non_blocking=True).split(counts) for name, value in columns.items()}
        targets = [{name: column[i] for name, column in columns.items()} for i in range(len(index))]
        return Scenes(self._shown(raw, mirrored), targets, index.to(self.device, non_blocking=True))

    def _shown(self, raw: Tensor | list[Tensor], mirrored: Tensor) -> Tensor | list[Tensor]:
        if not isinstance(raw, Tensor):
            sent = (image.to(self.device, non_blocking=True).float().div_(255) for image in raw)
            return [image.flip(-1) if turn else image for image, turn in zip(sent, mirrored.tolist(), strict=True)]
        images = raw.to(self.device, non_blocking=True)
        if self.flip:
            turn = mirrored.to(self.device, non_blocking=True)[:, None, None, None]
            images = torch.where(turn, images.flip(-1), images)
        return images.float().div_(255)


def mirror(boxes: Tensor, widths: Tensor, mirrored: Tensor) -> Tensor:
    """Boxes (x1, y1, x2, y2) of images `widths` pixels wide, left and right exchanged where `mirrored`.

    >>> mirror(torch.tensor([[1.0, 2.0, 4.0, 5.0]]), torch.tensor([10.0]), torch.tensor([True])).tolist()
    [[6.0, 2.0, 9.0, 5.0]]
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([widths - x2, y1, widths - x1, y2], dim=1).where(mirrored[:, None], boxes)
