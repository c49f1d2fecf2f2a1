"""What a detection dataset is: splits of images with boxes, as many as each image happens to have.

The objects of all images of a split lie in flat arrays, those of image i in rows offsets[i] to offsets[i + 1]: a batch
or a whole split is taken by indexing, and an image without objects costs nothing and is no special case.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdscope.data.chance import permutation
from kdscope.data.split import Parts
from kdscope.errors import KDScopeError

if TYPE_CHECKING:
    from kdscope.detection.data.image_files import DetectionImages

SPLITS = ("train", "validation", "test")
LOOKED_AT = 64  # images whose pixels go into a fingerprint


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of some images.

    Attributes:
        offsets: int64 [N + 1], from 0 to M, not decreasing: image i has the rows offsets[i] to offsets[i + 1].
        boxes: float32 [M, 4], (x1, y1, x2, y2) in pixels of the image as it is stored, x1 < x2 and y1 < y2.
        labels: int64 [M], from 1; class names in that order.
        crowd: bool [M], what is neither to be learned nor to be scored: a crowd of COCO, a difficult object of VOC, an
            ignored region of VisDrone. Detections inside it are no false positives.
        area: float32 [M], in pixels: the mask's where a file says it, else the box's.

    >>> objects = Objects.of([torch.tensor([[0.0, 0.0, 2.0, 3.0]]), torch.zeros(0, 4)], [torch.tensor([1]), []])
    >>> len(objects), objects.counts.tolist(), objects.area.tolist()
    (2, [1, 0], [6.0])
    """

    offsets: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor

    @classmethod
    def of(cls, boxes: list, labels: list, crowd: list | None = None, area: list | None = None) -> "Objects":
        """From one entry for each image; `crowd` is none and `area` the box's where they are not given."""
        counts = torch.tensor([len(some) for some in boxes], dtype=torch.int64)
        flat = _flat(boxes, torch.float32).view(-1, 4)
        return cls(
            torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
            flat,
            _flat(labels, torch.int64),
            torch.zeros(len(flat), dtype=torch.bool) if crowd is None else _flat(crowd, torch.bool),
            box_area(flat) if area is None else _flat(area, torch.float32),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """int64 [N], objects of each image, crowds among them."""
        return self.offsets.diff()

    @property
    def image(self) -> Tensor:
        """int64 [M], which image each object is in."""
        return torch.arange(len(self)).repeat_interleave(self.counts)

    def rows(self, index: Tensor) -> Tensor:
        """The rows of the images at `index` (int64 [B]), image by image: int64 [m]."""
        counts = self.counts[index]
        before = counts.cumsum(0) - counts
        return torch.arange(int(counts.sum())) + (self.offsets[index] - before).repeat_interleave(counts)

    def subset(self, index: Tensor) -> "Objects":
        """Those of the images at `index` (int64 [B]), in that order."""
        rows = self.rows(index)
        offsets = torch.cat([self.offsets[:1], self.counts[index].cumsum(0)])
        return Objects(offsets, self.boxes[rows], self.labels[rows], self.crowd[rows], self.area[rows])

    def only(self, keep: Tensor) -> "Objects":
        """Those where `keep` (bool [M]) is true; images stay, even without any left."""
        offsets = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])[self.offsets]
        return Objects(offsets, self.boxes[keep], self.labels[keep], self.crowd[keep], self.area[keep])


@dataclass(frozen=True)
class Record:
    """One image and what is in it; the fields as in `Objects`.

    `image`: uint8 [3, H, W]; `image_id`: the number that its file, or its place in the split, gives it.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor
    image_id: int


@dataclass(frozen=True, eq=False)
class DetectionSplit:
    """One part of a detection dataset.

    Attributes:
        name: "train", "validation" or "test".
        stored: uint8 [N, 3, H, W] in memory, or `DetectionImages`, files of any sizes that are decoded when read.
        objects: what is in each image.
        image_ids: int64 [N], what results are written under.
    """

    name: str
    stored: "Tensor | DetectionImages"
    objects: Objects
    image_ids: Tensor

    def __post_init__(self) -> None:
        if not len(self.stored) == len(self.objects) == len(self.image_ids):
            found = f"{len(self.stored)} images, objects of {len(self.objects)} and {len(self.image_ids)} ids"
            raise KDScopeError(f"split {self.name!r} has {found}")

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, position: int) -> Record:
        """The image at `position` with all its objects."""
        if not 0 <= position < len(self):
            raise IndexError(position)  # ends a for loop over the split
        some = self.objects.subset(torch.tensor([position]))
        image = self.read(torch.tensor([position]))[0]
        return Record(image, some.boxes, some.labels, some.crowd, some.area, int(self.image_ids[position]))

    @property
    def decodes(self) -> bool:
        """Whether the images are files, decoded whenever they are read."""
        return not isinstance(self.stored, Tensor)

    @property
    def sizes(self) -> Tensor:
        """int64 [N, 2], (height, width) of each image."""
        if self.decodes:
            return self.stored.sizes
        return torch.tensor(self.stored.shape[-2:]).expand(len(self), 2)

    def read(self, index: Tensor) -> "Tensor | list[Tensor]":
        """The images at `index` (int64 [B]): uint8 [B, 3, H, W], or of files a list of uint8 [3, H, W]."""
        return self.stored[index]

    def subset(self, index: Tensor, name: str | None = None) -> "DetectionSplit":
        """The images at `index` (int64 [B]), in that order."""
        stored = self.stored.subset(index) if self.decodes else self.stored[index]
        return DetectionSplit(name or self.name, stored, self.objects.subset(index), self.image_ids[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over sizes, ids, objects, and the pixels of about 64 images spread from the first to the last."""
        digest = hashlib.sha256(repr(len(self)).encode())
        objects = self.objects
        for part in (self.sizes, self.image_ids, objects.offsets, objects.boxes, objects.labels, objects.crowd):
            digest.update(part.contiguous().numpy().tobytes())
        if len(self):
            for image in self.read(torch.linspace(0, len(self) - 1, min(LOOKED_AT, len(self))).long()):
                digest.update(image.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DetectionDataset(Parts):
    """Train, test and perhaps validation.

    Attributes:
        name: as asked for.
        train, test, validation: the splits.
        classes: name of each label from 1: `classes[0]` is that of label 1.
        category_ids: what the dataset's own files call each label.
        mean, std: of the training pixels of each channel, in units of [0, 1]; of files ImageNet's, as detectors use.
        notes: what was left out of the files, one line each.
        image_size: shorter side in pixels that detectors are to scale the images to; None: as the detectors choose.
    """

    name: str
    train: DetectionSplit
    test: DetectionSplit
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    validation: DetectionSplit | None = None
    notes: tuple[str, ...] = ()
    image_size: int | None = None


def box_area(boxes: Tensor) -> Tensor:
    """Width times height of boxes [..., 4] (x1, y1, x2, y2)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def hold_out(dataset: DetectionDataset, fraction: float, seed: int = 0) -> DetectionDataset:
    """`dataset` with a random part of train as its validation split.

    Raises:
        KDScopeError: a fraction outside 0 <= fraction < 1, or one that leaves no image or no object on a side.
    """
    if not 0 <= fraction < 1:
        raise KDScopeError(f"validation={fraction:g} is not a fraction of train; give 0 <= validation < 1, such as 0.1")
    if fraction == 0:
        return dataset
    count = round(len(dataset.train) * fraction)
    if count in (0, len(dataset.train)):
        raise KDScopeError(
            f"validation={fraction:g} takes {count} of the {len(dataset.train)} training images of {dataset.name}"
        )
    order = permutation(seed, 0, len(dataset.train))
    train = dataset.train.subset(order[count:].sort().values)
    validation = dataset.train.subset(order[:count].sort().values, "validation")
    for what, part in (("it takes", validation), ("are left", train)):
        if bool(part.objects.crowd.all()):
            raise KDScopeError(
                f"validation={fraction:g}: in the {len(part)} training images of {dataset.name} that {what} there is "
                "no object to be found; take another fraction"
            )
    parts = vars(dataset) | {"train": train, "validation": validation}
    parts.pop("fingerprint", None)  # of the whole, if it was asked for
    return DetectionDataset(**parts)


def _flat(parts: list, dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.as_tensor(part, dtype=dtype) for part in parts]) if parts else torch.zeros(0, dtype=dtype)
