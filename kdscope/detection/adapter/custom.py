"""A user's own detector, of which no more is known than its maps, and where it can be trained its losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.detection.adapter.base import Adapter, Step, Targets
from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.errors import KDScopeError

NEEDED = {
    "transform": "frames and normalises images and boxes, as torchvision's GeneralizedRCNNTransform",
    "losses": "gives {name: scalar} of (batch, maps)",
    "forward": "gives boxes, scores and labels of a list of images in eval mode",
}


class Custom(Adapter):
    """A user's own detector: maps by stride, and its losses where it has any. No rows."""

    @property
    def goes_on(self) -> bool:
        return callable(getattr(self.detector, "detections", None))

    def check_student(self, size: int) -> None:
        for name, what in NEEDED.items():
            inherited = name == "forward" and type(self.detector).forward is nn.Module.forward
            if inherited or not callable(getattr(self.detector, name, None)):
                raise KDScopeError(f"{self._name} cannot be trained: it has no `{name}`, which {what}")
        _check_found(self._name, self.detector([torch.zeros(3, size, size)]))

    def learn(self, batch: DetectionBatch) -> Step:
        maps = self.detector.features(batch)
        said = _checked(maps, batch)
        losses = self.detector.losses(batch, maps)
        if not isinstance(losses, Mapping) or not losses:
            raise KDScopeError(f"losses(batch, maps) of {self._name} gives {_told(losses)}, not {{name: scalar}}")
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.ndim:
                raise KDScopeError(f"losses(batch, maps) of {self._name} gives {name!r}: {_told(value)}, not a scalar")
        return Step(DetectionFeatures(said, {}, dict(losses)), batch)

    def features(self, batch: DetectionBatch) -> dict[str, Tensor]:
        return {str(stride): value for stride, value in _checked(self.detector.features(batch), batch).items()}

    def strides_of(self, features: Mapping[str, Tensor]) -> dict[str, int]:
        return {stride: int(stride) for stride in features}

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        if not self.goes_on:
            raise KDScopeError(
                f"nothing can be detected from the features of {self._name}: it has no method "
                "detections(maps, batch, originals) that gives boxes, scores and labels"
            )
        return self.detector.detections(self.maps(features), batch, originals)

    @property
    def _name(self) -> str:
        return f"a {type(self.detector).__name__}"

    def _strides(self) -> dict[str, int]:
        return {}  # of each batch, they are what `features` says


def _checked(maps: Mapping[int, Tensor], batch: DetectionBatch) -> dict[int, Tensor]:
    """The maps of a user's detector, finest first."""
    images = len(batch.images)
    wanted = f"features(batch) gives {{stride: map}} with whole strides and maps [N, C, H, W] of {images} images"
    if not isinstance(maps, Mapping) or not maps:
        raise KDScopeError(f"{wanted}, not {_told(maps)}")
    for stride, value in maps.items():
        if not (isinstance(stride, int) and isinstance(value, Tensor) and value.ndim == 4 and len(value) == images):
            raise KDScopeError(f"{wanted}, not {stride!r}: {_told(value)}")
    return {stride: maps[stride].float() for stride in sorted(maps)}


def _check_found(name: str, found: Any) -> None:
    """What `forward` gives of one image."""
    shapes = {"boxes": (4,), "scores": (), "labels": ()}
    one = found[0] if isinstance(found, list | tuple) and len(found) == 1 else None
    if not isinstance(one, Mapping) or not shapes.keys() <= one.keys():
        raise KDScopeError(f"forward of {name} gives {_told(found)} of one image, not [{{boxes, scores, labels}}]")
    for key, rest in shapes.items():
        if not isinstance(one[key], Tensor) or tuple(one[key].shape) != (len(one["boxes"]), *rest):
            raise KDScopeError(f"forward of {name} gives {key} {_told(one[key])} with {len(one['boxes'])} boxes")


def _told(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    count = f" of {len(value)}" if isinstance(value, list | tuple | Mapping) else ""
    return f"a {type(value).__name__}{count}"
