"""What a detector says of a batch, part by part: its maps by stride, its heads by row, and its own losses.

torchvision's detectors give losses while training and boxes otherwise, and nothing in between. An adapter takes their
public parts in the order in which `model(images, targets)` does, so that the losses are the same to the last bit, and
keeps what lies between. Teacher and student are shown one and the same transformed batch, and asked about the same
rows: an anchor or a location of a one-stage head, and of a two-stage detector the proposals that the student sampled.
The teacher's own proposals are made only where a term asks about them.

A user's detector is any module with `features(batch) -> {stride: map [N, C, H, W]}`. That is all a teacher needs. To be
trained it also has a `transform` as torchvision's have, `losses(batch, maps) -> {name: scalar}`, and a `forward` that
in eval mode gives boxes, scores and labels of a list of images, as torchvision's do. Where detections are to follow
from features that an analysis has changed, it has `detections(maps, batch, originals)`, which gives the same of maps by
stride, in pixels of the images as they are stored: `originals` are their heights and widths.
"""

from torch import nn
from torchvision.models import detection as zoo

from kdscope.detection.adapter.base import POOLED, Adapter, Step
from kdscope.detection.adapter.custom import Custom
from kdscope.detection.adapter.one_stage import OneStage
from kdscope.detection.adapter.two_stage import TwoStage
from kdscope.errors import KDScopeError

__all__ = ["POOLED", "Adapter", "Custom", "OneStage", "Step", "TwoStage", "adapt"]


def adapt(detector: nn.Module) -> Adapter:
    """The adapter for `detector`.

    Raises:
        KDScopeError: a module that is none of torchvision's detectors and has no `features`.
    """
    if isinstance(detector, zoo.FasterRCNN) and not (
        detector.roi_heads.has_mask() or detector.roi_heads.has_keypoint()
    ):
        return TwoStage(detector)
    if isinstance(detector, zoo.FCOS | zoo.RetinaNet | zoo.ssd.SSD):
        return OneStage(detector)
    if callable(getattr(detector, "features", None)) and not isinstance(detector.features, nn.Module):
        return Custom(detector)
    raise KDScopeError(
        f"a {type(detector).__name__} is no detector of boxes of torchvision (Faster R-CNN, RetinaNet, FCOS, SSD), "
        "and it has no method features(batch) that gives {stride: map}"
    )
