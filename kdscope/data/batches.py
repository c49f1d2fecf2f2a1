"""Batches, made on the device: gather uint8, augment, normalise, each in batched tensor operations.

What fits in the memory budget lives on the device as uint8, with the augmentation's zero margin around each image, and
a crop is one gather from it. What does not fit streams: workers of a torch DataLoader read whole batches of raw images
(and decode them, where they are files), and everything after that is the same code, so the batches are the same to the
last bit.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdscope.data.augment import Augmentation, Parameters, View, augmentation
from kdscope.data.chance import Chance
from kdscope.data.geometry import windows
from kdscope.data.samplers import check_sampler, images_per_class, order
from kdscope.data.shares import Shares
from kdscope.data.split import Dataset, Split
from kdscope.errors import KDScopeError

BLOCK = 2**15  # images whose parameters are drawn together: far cheaper than batch by batch


class Batch(NamedTuple):
    """Some images of a split, on the device.

    `image`: float32 [B, 3, H, W], normalised; `label`: int64 [B]; `index`: int64 [B], positions in the unshuffled
    split;
    `view`: what augmentation did.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    view: View


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x / 255 - mean) / std of uint8 [B, 3, H, W], as float32, in one conversion, multiplication and addition.

    >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> normalise(white, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)).flatten().tolist()
    [2.0, 1.0, 0.5]
    """
    scale, shift = _line(mean, std, images.device)
    return images.float().mul_(scale).add_(shift)


@functools.lru_cache(maxsize=16)
def _line(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Slope and intercept of `normalise`, kept on the device: sent anew, they would cost a copy for every batch."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)
    return scale, shift


class Batches(Shares):
    """The batches of a split, resident or streamed: one iterator.

    Args:
        split: what to take images from.
        statistics: the dataset, or its (mean, std), to normalise by.
        augment: name of an augmentation.
        batch_size: of all ranks together.
        shuffle: whether an epoch is put together by `sampler`, depending on (seed, epoch) only.
        seed: for the permutation and the views.
        device: where batches are made.
        rank, world_size: this process's part. With `shuffle`, each batch of the epoch is cut in equal parts, so that
            all ranks together see the very batches that one alone would see (the ragged last one is trimmed to a
            multiple of `world_size`). Without, the ranks take disjoint runs of images that together cover each exactly
            once.
        memory_budget: bytes; a split that needs more (with its margin), or whose images are files, is streamed.
        workers: processes that read, when streaming; 0 reads in this one.
        channels_last: memory format of the images.
        least: with `shuffle`, a ragged last batch with fewer images than this on a rank is left out.
        sampler: with `shuffle`, "uniform" (a permutation) or "class:K" (see `kdscope.data.samplers`).

    Raises:
        KDScopeError: unknown augmentation or sampler, a batch size that the ranks cannot share, an empty split.

    >>> from kdscope.data import load
    >>> digits = load("digits")
    >>> batches = Batches(digits.train, digits, augment="standard", batch_size=100, shuffle=True)
    >>> batch = next(batches.epoch(0))
    >>> batch.image.shape, torch.equal(batches.batch(batch.index, epoch=0).image, batch.image)
    (torch.Size([100, 3, 16, 16]), True)
    """

    def __init__(
        self,
        split: Split,
        statistics: Dataset | tuple[tuple[float, ...], tuple[float, ...]],
        *,
        augment: str = "none",
        batch_size: int = 128,
        shuffle: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        memory_budget: int = 4 * 2**30,
        workers: int = 2,
        channels_last: bool = False,
        least: int = 1,
        sampler: str = "uniform",
    ):
        if len(split) == 0:
            raise KDScopeError(f"split {split.name!r} has no images")
        if batch_size < 1 or (shuffle and batch_size % world_size):
            raise KDScopeError(
                f"batch_size={batch_size} is not a positive multiple of the {world_size} processes sharing it"
            )
        if not 0 <= rank < world_size:
            raise KDScopeError(f"rank {rank} is not one of the {world_size} processes 0 to {world_size - 1}")
        if shuffle:
            check_sampler(sampler, split.labels, batch_size, world_size)
        self.split, self.seed, self.shuffle, self.sampler = split, seed, shuffle, sampler
        self.mean, self.std = (statistics.mean, statistics.std) if isinstance(statistics, Dataset) else statistics
        self.augment: Augmentation = augmentation(augment)
        self.augment_name = augment
        self.batch_size, self.rank, self.world_size, self.least = batch_size, rank, world_size, max(1, least)
        self.device = torch.device(device)
        self.workers = workers
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.labels = split.labels.to(self.device)
        margin = self.augment.margin
        count, channels, height, width = split.shape
        self.height, self.width = height, width
        needed = count * channels * (height + 2 * margin) * (width + 2 * margin)
        self.streams = split.decodes or needed > memory_budget
        self.store = None if self.streams else _padded(split.images.to(self.device), margin)

    def __len__(self) -> int:
        """Batches in an epoch on this rank."""
        if not self.shuffle:
            return -(-len(self._run()) // self._step())
        whole, rest = divmod(len(self.split), self.batch_size)
        if images_per_class(self.sampler):
            return max(1, whole)
        return whole + (rest >= self.world_size * self.least)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch on this rank, from batch `start` on: the same ones whatever `start` is."""
        return self.views(self._parts(epoch)[start:], epoch)

    def views(self, parts: list[Tensor], epoch: int = 0) -> Iterator[Batch]:
        """The views that `epoch` has of the images at each of `parts` (int64 [B], on the host), all in the split.

        As `batch` of each, but what is streamed is read ahead.
        """
        raw = self._reader(parts) if self.streams else [None] * len(parts)
        drawn = self._drawn(parts, epoch)
        for (index, parameters), images in zip(drawn, raw, strict=True):
            yield self._make(index, epoch, parameters, images)

    def batch(self, index: Tensor, epoch: int = 0) -> Batch:
        """The views of the images at `index` (int64 [B], any device) that `epoch` has: any view can be made again."""
        index = self._inside(index)
        images = self.split.read(index) if self.streams else None
        return self._make(index, epoch, self._draw(index, epoch), images)

    def shown(self, index: Tensor, parameters: Parameters) -> Batch:
        """Given views of the images at `index` (int64 [B]), drawn by nobody: their `view` has epoch -1.

        Args:
            parameters: as `Augmentation.draw` gives them for as many images, such as those of `kdscope.data.orbit`.
        """
        index = self._inside(index)
        largest = 2 * self.augment.margin
        for name in ("dy", "dx") if self.augment.margin else ():
            if ((parameters[name] < 0) | (parameters[name] > largest)).any():
                raise KDScopeError(f"a view of augmentation {self.augment_name!r} has {name} from 0 to {largest}")
        return self._make(index, -1, parameters, self.split.read(index) if self.streams else None)

    def _parts(self, epoch: int) -> list[Tensor]:
        """The indices of each batch of this rank."""
        if not self.shuffle:
            run = self._run()
            return list(torch.arange(run.start, run.stop).split(self._step())) if run else []
        parts = order(self.sampler, self.split.labels, self.batch_size, self.seed, epoch)
        shares = [len(part) // self.world_size for part in parts]
        whole = zip(parts, shares, strict=True)
        return [part[self.rank * n : (self.rank + 1) * n] for part, n in whole if n >= self.least]

    def _draw(self, index: Tensor, epoch: int) -> Parameters:
        chance = Chance(self.seed, epoch, index)
        drawn = self.augment.draw(chance, self.height, self.width)
        return drawn | {"partner": chance.integers("partner", len(self.split))} if self.augment.partners else drawn

    def _drawn(self, parts: list[Tensor], epoch: int) -> Iterator[tuple[Tensor, Parameters]]:
        """Each batch's indices and parameters; parameters are drawn for many batches at a time."""
        group = max(1, BLOCK // self.batch_size)
        for first in range(0, len(parts), group):
            some = parts[first : first + group]
            lengths = [len(part) for part in some]
            drawn = self._draw(torch.cat(some), epoch)
            columns = {name: value.split(lengths) for name, value in drawn.items()}
            for position, part in enumerate(some):
                yield part, {name: column[position] for name, column in columns.items()}

    def _make(self, index: Tensor, epoch: int, parameters: Parameters, images: Tensor | None) -> Batch:
        where = index.to(self.device, non_blocking=True)
        images = self.augment.apply(self._gather(where, parameters, images), parameters)
        if self.augment.partners:
            images = self.augment.mix(images, self._partners(parameters["partner"], epoch), parameters)
        images = normalise(images, self.mean, self.std)
        images = images.contiguous(memory_format=self.memory_format)
        view = View(self.augment_name, self.seed, epoch, index, parameters)
        return Batch(images, self.labels.index_select(0, where), where, view)

    def _gather(self, where: Tensor, parameters: Parameters, images: Tensor | None) -> Tensor:
        """The raw images or windows, from the store or from those that were read."""
        store = self.store
        if images is not None:
            store = _padded(images.to(self.device, non_blocking=True), self.augment.margin)
            where = torch.arange(len(where), device=self.device)
        if not self.augment.margin:
            return store.index_select(0, where)
        dy, dx = (parameters[name].to(self.device, non_blocking=True) for name in ("dy", "dx"))
        return windows(store, where, dy, dx, self.height, self.width)

    def _partners(self, index: Tensor, epoch: int) -> Tensor:
        """The views, uint8, that the images at `index` would have in this epoch if they were not mixed."""
        drawn = self.augment.draw(Chance(self.seed, epoch, index), self.height, self.width)
        raw = self.split.read(index) if self.streams else None
        where = index.to(self.device, non_blocking=True)
        return self.augment.apply(self._gather(where, drawn, raw), drawn)

    def _reader(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """Raw images of each batch, read ahead by workers."""
        return read_ahead(self.split, parts, self.workers, pin=self.device.type == "cuda")


def read_ahead(split: Any, parts: list[Tensor], workers: int, pin: bool) -> Iterator[Any]:
    """The raw images at each of `parts` (int64 [B], on the host), as `split.read` gives them, read ahead.

    Args:
        split: whose images; anything with `read`.
        parts: the indices of each batch.
        workers: processes that read; 0 reads in this one.
        pin: whether they land in pinned memory, from which a GPU copies faster.

    Raises:
        KDScopeError: as `split.read`.
    """
    from torch.utils.data import DataLoader

    # Forked, so that a memory-mapped split is shared and not sent to each worker. With a generator of its own, for it
    # draws a seed whenever it is begun: from the global one, a resumed epoch would have drawn once more than a whole.
    loader = DataLoader(
        _Reads(split),
        generator=torch.Generator(),
        sampler=parts,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        multiprocessing_context="fork" if workers else None,
    )
    return map(_or_raise, iter(loader))


class _Reads(torch.utils.data.Dataset):
    """What a worker does: the raw images at some indices, or what is wrong with them."""

    def __init__(self, split: Any):
        self.split = split

    def __getitem__(self, index: Tensor) -> Any:
        try:
            return self.split.read(index)
        except KDScopeError as error:  # raised in a worker, it would come back as a page of text
            return error


def _or_raise(images: Any) -> Any:
    if isinstance(images, KDScopeError):
        raise images
    return images


def _padded(images: Tensor, margin: int) -> Tensor:
    return F.pad(images, (margin,) * 4) if margin else images.contiguous()
