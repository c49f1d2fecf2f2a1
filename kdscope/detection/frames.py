"""Images of a split in one frame: all padded to the same size, so that what is made of an image is its own affair.

A detector pads a batch to its largest image, and so what it says of an image depends a little on which others stand
beside it. A cache must not: here every image has the padding that the largest of its split needs. Where all images have
one size nothing is changed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdscope.detection.adapter import Adapter
from kdscope.detection.batch import DetectionBatch
from kdscope.detection.data import DetectionSplit, Objects
from kdscope.detection.data.batches import DetectionBatches, Scenes


class Framed(NamedTuple):
    """Some images of a split.

    Attributes:
        images: float32 in [0, 1], [3, H, W] each, as they are stored.
        frame: after the transform, padded to the frame; its boxes without crowds.
        objects: all that is in the images, in pixels of the images as they are stored.
        sizes: int64 [B, 2], (height, width) as they are stored.
        label: int64 [B], how many objects each has, crowds not counted. index: int64 [B], positions in the split.
    """

    images: Tensor | list[Tensor]
    frame: DetectionBatch
    objects: Objects
    sizes: Tensor
    label: Tensor
    index: Tensor

    @property
    def ignored(self) -> list[Tensor]:
        """Crowds and ignored regions of each image [m, 4], in pixels of the frame."""
        scale = (torch.tensor(self.frame.sizes) / self.sizes.cpu())[:, [1, 0, 1, 0]][self.objects.image]
        crowd = self.objects.crowd.cpu()
        boxes = (self.objects.boxes.cpu() * scale)[crowd]
        counts = torch.zeros(len(self.objects), dtype=torch.int64).index_add_(0, self.objects.image, crowd.long())
        return list(boxes.split(counts.tolist()))


class Frames:
    """Batches of a split in one frame, without augmentation.

    Args:
        adapter: whose transform it is; in eval mode, so that no size is drawn by chance.
        whole: the split that the frame is that of; `split` may be a part of it.
    """

    def __init__(
        self, split: DetectionSplit, adapter: Adapter, frame: tuple[int, int], device: str | torch.device = "cpu"
    ):
        self.split, self._adapter, self._frame = split, adapter, frame
        self._batches = DetectionBatches(split, device=device, workers=0)

    def batch(self, index: Tensor, epoch: int = 0) -> Framed:
        """The images at `index` (int64 [B])."""
        scenes = self._batches.batch(index)
        frame = framed(self._adapter, scenes, self._frame)
        objects = self.split.objects.subset(index.cpu())
        counts = objects.only(~objects.crowd).counts.to(scenes.index.device)
        return Framed(scenes.images, frame, objects, self.split.sizes[index.cpu()], counts, scenes.index)

    def views(self, parts: Sequence[Tensor], epoch: int = 0) -> Iterator[Framed]:
        """A batch of each of the parts."""
        return map(self.batch, parts)


def framed(adapter: Adapter, scenes: Scenes, frame: tuple[int, int]) -> DetectionBatch:
    """A batch after the detector's transform, in eval mode, padded to `frame` (height, width)."""
    batch = adapter.frame(scenes.images, scenes.targets, scenes.index)
    padding = (0, frame[1] - batch.images.shape[-1], 0, frame[0] - batch.images.shape[-2])
    return replace(batch, images=F.pad(batch.images, padding))


def frame_of(transform: GeneralizedRCNNTransform, sizes: Tensor) -> tuple[int, int]:
    """(height, width) of the frame that images of `sizes` (int64 [N, 2]) all fit in after the transform in eval mode.

    >>> frame_of(GeneralizedRCNNTransform(64, 100, [0.0] * 3, [1.0] * 3).eval(), torch.tensor([[48, 64], [64, 40]]))
    (128, 96)
    """
    nothing = [torch.empty(3, *size, device="meta") for size in sizes.unique(dim=0).tolist()]
    shapes = torch.tensor([transform.resize(image)[0].shape[1:] for image in nothing])
    step = transform.size_divisible
    height, width = (math.ceil(side / step) * step for side in shapes.amax(0).tolist())
    return height, width


def original_sizes(framed: Framed) -> list[tuple[int, int]]:
    """(height, width) of each image as it is stored."""
    return [(height, width) for height, width in framed.sizes.tolist()]
