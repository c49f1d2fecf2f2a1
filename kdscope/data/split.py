"""What a dataset is: splits of uint8 images with labels, and what is known of them (class names, mean, foreground)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdscope.data.chance import bits
from kdscope.errors import KDScopeError, unknown

if TYPE_CHECKING:
    from kdscope.data.image_files import ImageFiles

SPLITS = ("train", "validation", "test")
CHUNK = 2**26  # bytes of images looked at together: a memory-mapped split is never read whole


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset.

    Attributes:
        name: "train", "validation" or "test".
        stored: uint8 [M, 3, H, W], in memory, a memory-mapped file, or `ImageFiles` that are decoded when read: the
            images, or those that it is a part of.
        labels: int64 [N].
        masks: bool [N, H, W], the foreground of the labelled object, where it is known.
        boxes: float32 [N, K, 5], rows (label, x0, y0, x1, y1) in pixels with x1 and y1 exclusive, rows of -1 where an
            image has fewer than K objects; where they are known.
        positions: int64 [N], which of the stored images they are, in order; None: all. So a part of a split that is
            larger than memory copies no pixel.

    >>> split = Split("train", torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    >>> len(split), split.subset(torch.tensor([1, 3])).labels.tolist()
    (4, [1, 1])
    """

    name: str
    stored: "Tensor | ImageFiles"
    labels: Tensor
    masks: Tensor | None = None
    boxes: Tensor | None = None
    positions: Tensor | None = None

    def __post_init__(self) -> None:
        if self.stored.dtype != torch.uint8 or len(self.stored.shape) != 4 or self.stored.shape[1] != 3:
            found = f"{self.stored.dtype} {tuple(self.stored.shape)}"
            raise KDScopeError(f"split {self.name!r} needs uint8 images [N, 3, H, W], not {found}")
        if self.labels.shape != (len(self),):
            raise KDScopeError(f"split {self.name!r} has {len(self)} images and labels {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.stored if self.positions is None else self.positions)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W)."""
        return (len(self), *self.stored.shape[1:])

    @property
    def decodes(self) -> bool:
        """Whether the images are files, decoded whenever they are read."""
        return not isinstance(self.stored, Tensor)

    @property
    def images(self) -> Tensor:
        """All of them, uint8 [N, 3, H, W]; of a part (`positions`) or of files in memory: `read` takes only some."""
        whole = self.positions is None and not self.decodes
        return self.stored if whole else self.read(torch.arange(len(self)))

    def read(self, index: Tensor) -> Tensor:
        """The images at `index` (int64 [B]), uint8 [B, 3, H, W], in memory."""
        return self.stored[index if self.positions is None else self.positions[index]]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over count, shape, labels, and the pixels of about 64 images spread from the first to the last."""
        digest = hashlib.sha256(repr((len(self), self.shape)).encode())
        digest.update(self.labels.contiguous().numpy().tobytes())
        if len(self):
            for image in self.read(torch.linspace(0, len(self) - 1, min(64, len(self))).long()):
                digest.update(image.numpy().tobytes())
        return digest.hexdigest()

    def subset(self, index: Tensor, name: str | None = None) -> "Split":
        """The images at `index` (int64 [B], or bool [N]), in that order; the pixels stay where they are."""
        positions = torch.arange(len(self))[index] if self.positions is None else self.positions[index]
        masks = None if self.masks is None else self.masks[index]
        boxes = None if self.boxes is None else self.boxes[index]
        return Split(name or self.name, self.stored, self.labels[index], masks, boxes, positions)


class Parts:
    """What every dataset offers that has a name, splits (None where it has not), classes, mean and std."""

    @property
    def num_classes(self) -> int:
        """How many classes there are; of objects, without the background."""
        return len(self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that `split` takes."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    def split(self, name: str) -> Any:
        """The split of that name; a KDScopeError with the nearest names for any other."""
        if name not in self.splits:
            hint = "; hold one out with validation=0.1" if name == "validation" else ""
            raise KDScopeError(f"{unknown('split', name, self.splits, where=f'dataset {self.name}')}{hint}")
        return getattr(self, name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the splits, the class names and the normalisation; not the name."""
        parts = [self.classes, self.mean, self.std, [(name, self.split(name).fingerprint) for name in self.splits]]
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset(Parts):
    """Train, test and perhaps validation; `mean` and `std` are of the training pixels, in units of [0, 1]."""

    name: str
    train: Split
    test: Split
    validation: Split | None
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def image_size(self) -> int:
        """Height of the images in pixels."""
        return self.train.shape[-2]


def moments(images: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel of uint8 [N, 3, H, W], in units of [0, 1], exact up to the last
    rounding.

    A channel that is constant is given std 1, so that normalising by it is defined.

    >>> moments(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    step = max(1, CHUNK // max(1, images[0].numel()))
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for chunk in images.split(step):
        for channel in range(3):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    level = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ level
    std = (share * (level - mean[:, None]).square()).sum(1).sqrt()
    std = torch.where(std > 0, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Which images to hold out: bool [N], `round(fraction * N)` of them, the classes in proportion, drawn by `seed`.

    Each class gives the whole part of its share; what is left to the total goes to the largest remainders.

    >>> stratified(torch.tensor([0] * 10 + [1] * 30), 0.1, seed=0).nonzero().flatten().shape
    torch.Size([4])
    """
    sizes = torch.bincount(labels)
    share = sizes.double() * fraction
    take = share.floor().long()
    missing = round(len(labels) * fraction) - int(take.sum())
    take[(share - take).argsort(descending=True, stable=True)[: max(missing, 0)]] += 1
    order = bits(seed, 0, torch.arange(len(labels)), "hold-out").argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, and by chance within each
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order] = rank < take.repeat_interleave(sizes)
    return held


def hold_out(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """`dataset` with a stratified part of train as its validation split; mean and std stay those of the whole of train.

    Args:
        dataset: what to split.
        fraction: of the training images, 0 <= fraction < 1; 0 returns `dataset` itself.
        seed: which images.

    Raises:
        KDScopeError: for a fraction outside the range, or one that leaves no image on a side.
    """
    if not 0 <= fraction < 1:
        raise KDScopeError(f"validation={fraction:g} is not a fraction of train; give 0 <= validation < 1, such as 0.1")
    if fraction == 0:
        return dataset
    held = stratified(dataset.train.labels, fraction, seed)
    count = int(held.sum())
    if count in (0, len(held)):
        raise KDScopeError(
            f"validation={fraction:g} takes {count} of the {len(held)} training images of {dataset.name}"
        )
    train = dataset.train.subset((~held).nonzero().flatten())
    validation = dataset.train.subset(held.nonzero().flatten(), "validation")
    return Dataset(dataset.name, train, dataset.test, validation, dataset.classes, dataset.mean, dataset.std)
