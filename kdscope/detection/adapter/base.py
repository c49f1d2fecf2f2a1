"""What all adapters share: the frame of a batch, maps by stride, and what a step of training gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.image_list import ImageList

from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows
from kdscope.methods.shapes import exact
from kdscope.models.watch import evaluating

Targets = list[dict[str, Tensor]]
LARGE = 1024  # side of the image that strides are read from: a multiple of any of them
POOLED = "pool"  # the level that `LastLevelMaxPool` adds: a copy of another at half its resolution


@dataclass(frozen=True)
class Step:
    """What the student says of a batch while it is being trained.

    Attributes:
        features: maps, rows and losses.
        batch: the batch, with what the ground truth says of the rows.
        proposals: of each image [n, 4] in pixels of the padded frame: the rows of "roi".
        proposed: the same of the rows PROPOSED, where they were asked for.
        outputs: of the backbone, by its own keys: what a two-stage detector is asked about further rows from.
    """

    features: DetectionFeatures
    batch: DetectionBatch
    proposals: list[Tensor] = field(default_factory=list)
    proposed: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)


class Adapter:
    """Base: the shared frame and the maps. `heads` names the rows that the detector can be asked for.

    Attributes:
        detector: the network; it stays what it was, and holds nothing of the adapter.
        strides: of each output of the backbone, by its key; without the max-pooled level.
        least_images: the smallest batch that it can be trained with.
        goes_on: whether `detections` can go on from features; else only the detector itself finds anything, in images.
    """

    heads: tuple[str, ...] = ()
    least_images = 1
    goes_on = True

    def __init__(self, detector: nn.Module):
        self.detector = detector
        self.strides = self._strides()

    def frame(self, images: Tensor | Sequence[Tensor], targets: Targets, index: Tensor) -> DetectionBatch:
        """Images in [0, 1] and their boxes after the detector's own transform, which may draw a size by chance."""
        shown, moved = self.detector.transform(
            list(images), [{key: target[key] for key in ("boxes", "labels")} for target in targets]
        )
        boxes, labels = (tuple(target[key] for target in moved) for key in ("boxes", "labels"))
        return DetectionBatch(shown.tensors, tuple(shown.image_sizes), boxes, labels, index)

    def check_student(self, size: int) -> None:
        """Look at what a student must have, in eval mode and with images of `size` pixels a side.

        Raises:
            KDScopeError: a part that is missing, or gives something else than it is to give.
        """

    def learn(self, batch: DetectionBatch) -> Step:
        """One pass with gradients: losses, maps, rows, and what the ground truth says of the rows."""
        raise NotImplementedError

    def look(
        self, batch: DetectionBatch, heads: Sequence[str] = (), proposals: Sequence[Tensor] = ()
    ) -> DetectionFeatures:
        """Maps, and the rows of `heads` alone: those of "roi" are `proposals`. Nothing is decoded or suppressed."""
        features = self.features(batch)
        return DetectionFeatures(self.maps(features), self.rows(features, batch, heads, {"roi": proposals}))

    def rows(
        self,
        features: dict[str, Tensor],
        batch: DetectionBatch,
        heads: Sequence[str],
        proposals: Mapping[str, Sequence[Tensor]],
    ) -> dict[str, Rows]:
        """What the heads say, going on from `features`; `proposals` are the rows of "roi" and of PROPOSED."""
        return {}

    def anchors(self, batch: DetectionBatch) -> Tensor:
        """The anchors of the first image of a batch, [A, 4] in pixels of the padded frame; a user's has none."""
        return batch.images.new_zeros(0, 4)

    def features(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """All outputs of the backbone and the neck, by its own keys: what `rows` and `detections` go on from."""
        features = self.detector.backbone(batch.images)
        return {"0": features} if isinstance(features, Tensor) else features

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        """What the heads find in `features`, in eval mode: as the detector's own forward pass, from its middle on.

        `originals` are (height, width) of the images before the transform, in whose pixels boxes are told.
        """
        raise NotImplementedError

    def strides_of(self, features: Mapping[str, Tensor]) -> dict[str, int]:
        """The stride of each level among the outputs of the backbone, by its key, finest first."""
        return self.strides

    def maps(self, features: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """The levels among the outputs of the backbone, by stride, finest first, float32."""
        return {stride: features[key].float() for key, stride in self.strides_of(features).items()}

    def _levels(self, batch: DetectionBatch, features: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Empty float32 tensors with the shapes of the outputs of the backbone, which anchors follow.

        Their values are of no use to an anchor generator, but their type is: it keeps its anchors in it from then on,
        and in bfloat16 a whole training and the evaluation after it would have them rounded.
        """
        images = batch.images
        if features is None:
            shapes = self._shapes(tuple(images.shape)).values()
        else:
            shapes = [value.shape for value in features.values()]
        return [images.new_empty(shape, dtype=torch.float32) for shape in shapes]

    def _strides(self) -> dict[str, int]:
        """From the shapes alone. Of two outputs of one stride the later one, which has seen more layers, is kept."""
        shapes = self._shapes((1, 3, LARGE, LARGE))
        found = {LARGE // shape[-1]: key for key, shape in shapes.items() if key != POOLED}
        return {key: stride for stride, key in sorted(found.items())}

    def _shapes(self, images: tuple[int, ...]) -> dict[str, torch.Size]:
        """Of each output of the backbone for images [N, 3, H, W]; nothing is computed, and no batch statistic moves."""
        backbone = self.detector.backbone
        state = {name: value.to("meta") for name, value in backbone.state_dict(keep_vars=True).items()}
        with evaluating(backbone):
            features = functional_call(backbone, state, (torch.empty(images, device="meta"),))
        features = {"0": features} if isinstance(features, Tensor) else features
        return {key: value.shape for key, value in features.items()}


def exact_heads(said: Any) -> Any:
    """What a head says, in float32: a tensor, or a list or mapping of them.

    Boxes take the precision of the numbers that they are decoded from, and bfloat16 knows no pixel between 512 and 516.
    """
    if isinstance(said, Mapping):
        return {key: exact_heads(value) for key, value in said.items()}
    return exact(said) if isinstance(said, Tensor) else [exact_heads(value) for value in said]


def targets_of(batch: DetectionBatch) -> Targets:
    return [{"boxes": boxes, "labels": labels} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]


def image_list(batch: DetectionBatch) -> ImageList:
    return ImageList(batch.images, list(batch.sizes))
