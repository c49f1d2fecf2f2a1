"""What a teacher finds in images as the student shows them, for so it will see them.

The transform of the student runs for both. A teacher that was made for images of 800 pixels is another one on 128, and
its score at its own size says nothing of what it can teach.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdscope.detection.adapter import Adapter
from kdscope.detection.check import Check
from kdscope.detection.data import DetectionDataset, DetectionSplit
from kdscope.detection.data.batches import DetectionBatches, Scenes
from kdscope.detection.evaluate import detect, scored
from kdscope.models.watch import evaluating
from kdscope.progress import bar

USUAL = torch.tensor([[480, 640]])  # (height, width) of most images of COCO: where sizes are compared without data
LOST = 0.5  # share of its AP50 at its own size that a teacher must keep as the student shows it images


def ability(
    student: Adapter,
    teacher: Adapter,
    data: DetectionDataset | None,
    images: int,
    least: float,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> list[Check]:
    """The checks "image size" and "ability of the teacher".

    Args:
        data: whose training images with objects are taken, evenly spread; None: the teacher is not tried.
        images: how many; 0 does not try it. least: the AP50 that it must reach.
        device: where it is tried. workers: processes that decode files. progress: whether to show a bar.
    """
    split, why = _some(data, images)
    sizes, unlike = _sizes(student, teacher, USUAL if split is None else split.sizes.unique(dim=0))
    own_way = not teacher.goes_on  # its forward pass, from the images as they are stored, is all that it offers
    if split is not None and own_way and type(teacher.detector).forward is nn.Module.forward:
        split, why = None, "it gives features alone"
    if split is None:
        size = Check("image size", None if unlike else True, sizes)
        return [size, Check("ability of the teacher", None, f"not tried: {why}")]

    def ap50(through: Adapter) -> float:
        with bar("trying the teacher", len(split), progress) as advance:
            batches = Counted(split, advance, batch_size=8, device=device, workers=workers)
            found = detect(detector, batches, through=through)[1]
        return scored(found, split, data.num_classes)["ap50"]

    detector = teacher.detector
    place = next(detector.parameters()).device
    detector.to(device)
    try:
        with evaluating(student.detector.transform):
            ap = ap50(student)
        own = ap50(teacher) if unlike and not own_way else None
    finally:
        detector.to(place)
    said = f"AP50 {ap:.3f} on {len(split)} training images{' as it transforms them itself' if own_way else ''}"
    able = Check("ability of the teacher", ap >= least, said if ap >= least else f"{said}, less than {least:g}")
    if own is None:
        return [Check("image size", None if unlike else True, sizes), able]
    return [Check("image size", ap >= LOST * own, f"{sizes}: AP50 {ap:.3f} at the student's, {own:.3f} there"), able]


class Counted(DetectionBatches):
    """Batches that tell how many images they have given."""

    def __init__(self, split: DetectionSplit, advance: Callable[[int], None], **options: Any):
        super().__init__(split, **options)
        self._advance = advance

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Scenes]:
        for scenes in super().epoch(epoch, start):
            yield scenes
            self._advance(len(scenes.index))


def _some(data: DetectionDataset | None, images: int) -> tuple[DetectionSplit | None, str]:
    """Training images with something to find, evenly spread; or why there are none."""
    if data is None or images < 1:
        return None, "no image was asked for"
    objects = data.train.objects
    known = objects.only(~objects.crowd).counts.nonzero().flatten()
    count = min(images, len(known))
    if not count:
        return None, "no training image has an object to find"
    return data.train.subset(known[torch.arange(count) * len(known) // count]), ""


def _sizes(student: Adapter, teacher: Adapter, sizes: Tensor) -> tuple[str, bool]:
    """What both make of images of `sizes` (int64 [N, 2]), and whether it may differ."""
    ours, theirs = (getattr(adapter.detector, "transform", None) for adapter in (student, teacher))
    if not isinstance(theirs, GeneralizedRCNNTransform) or not isinstance(ours, GeneralizedRCNNTransform):
        return "that for which the teacher was made is not known", True
    shown = [_resized(transform, sizes) for transform in (ours, theirs)]
    if shown[0] == shown[1]:
        return f"{_told(shown[0][0])}, the same", False
    row = next(k for k, pair in enumerate(zip(*shown, strict=True)) if pair[0] != pair[1])
    height, width = sizes[row].tolist()
    first, second = (_told(each[row]) for each in shown)
    return f"the student shows images of {width} x {height} as {first}, the teacher's own is {second}", True


def _resized(transform: GeneralizedRCNNTransform, sizes: Tensor) -> list[tuple[int, int]]:
    with evaluating(transform):
        nothing = [torch.empty(3, *size, device="meta") for size in sizes.tolist()]
        return [tuple(transform.resize(image)[0].shape[1:]) for image in nothing]


def _told(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
