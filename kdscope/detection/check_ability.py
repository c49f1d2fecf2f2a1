"""What a teacher finds in images as the student shows them, for so it will see them.

The transform of the student runs for both. A teacher that was made for images of 800 pixels is another one on 128, and
its score at its own size says nothing of what it can teach.
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdscope.detection.adapter import Adapter, Custom
from kdscope.detection.check import Check, resting
from kdscope.detection.data import DetectionDataset, DetectionSplit
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.evaluate import detect, limited, scored
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
    own_way = isinstance(teacher, Custom) and not hasattr(teacher.detector, "detections")
    if split is not None and own_way and type(teacher.detector).forward is nn.Module.forward:
        split, why = None, "it gives features alone"
    if split is None:
        size = Check("image size", None if unlike else True, sizes)
        return [size, Check("ability of the teacher", None, f"not tried: {why}")]

    def ap50(network: nn.Module) -> float:
        with bar("trying the teacher", len(split), progress) as advance:
            watch = network.register_forward_hook(lambda _, images, found: advance(len(found)))
            try:
                found = detect(network, DetectionBatches(split, batch_size=8, device=device, workers=workers))[1]
            finally:
                watch.remove()
        return scored(found, split, data.num_classes)["ap50"]

    detector = teacher.detector
    place = next(detector.parameters()).device
    detector.to(device)
    try:
        with limited(detector), resting(student.detector.transform):
            ap = ap50(detector if own_way else AsShown(student, teacher))
        own = ap50(detector) if unlike and not own_way else None
    finally:
        detector.to(place)
    said = f"AP50 {ap:.3f} on {len(split)} training images{' as it transforms them itself' if own_way else ''}"
    able = Check("ability of the teacher", ap >= least, said if ap >= least else f"{said}, less than {least:g}")
    if own is None:
        return [Check("image size", None if unlike else True, sizes), able]
    return [Check("image size", ap >= LOST * own, f"{sizes}: AP50 {ap:.3f} at the student's, {own:.3f} there"), able]


class AsShown(nn.Module):
    """The teacher as a run asks it: on images that went through the student's transform. Holds neither as its part."""

    def __init__(self, student: Adapter, teacher: Adapter):
        super().__init__()
        self._pair = student, teacher

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image [3, H, W], in its own pixels."""
        student, teacher = self._pair
        nothing = {
            "boxes": images[0].new_zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64, device=images[0].device),
        }
        frame = student.frame(images, [nothing] * len(images), torch.arange(len(images)))
        return teacher.detections(teacher.features(frame), frame, [tuple(image.shape[-2:]) for image in images])


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
    with resting(transform):
        nothing = [torch.empty(3, *size, device="meta") for size in sizes.tolist()]
        return [tuple(transform.resize(image)[0].shape[1:]) for image in nothing]


def _told(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
