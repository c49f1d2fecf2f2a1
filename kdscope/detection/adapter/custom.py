"""A user's own detector, of which no more is known than its maps, and where it can be trained its losses."""

from collections.abc import Mapping

from torch import Tensor

from kdscope.detection.adapter.base import Adapter, Step
from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.errors import KDScopeError


class Custom(Adapter):
    """A user's own detector: maps by stride, and its losses where it has any. No rows."""

    def learn(self, batch: DetectionBatch) -> Step:
        maps = self.detector.features(batch)
        losses = self.detector.losses(batch, maps)
        return Step(DetectionFeatures(_checked(maps, batch), {}, dict(losses)), batch)

    def features(self, batch: DetectionBatch) -> dict[str, Tensor]:
        return {str(stride): value for stride, value in _checked(self.detector.features(batch), batch).items()}

    def maps(self, features: Mapping[str, Tensor]) -> dict[int, Tensor]:
        return {int(stride): value for stride, value in features.items()}

    def _strides(self) -> dict[str, int]:
        return {}  # of each batch, they are what `features` says


def _checked(maps: Mapping[int, Tensor], batch: DetectionBatch) -> dict[int, Tensor]:
    """The maps of a user's detector, finest first."""
    images = len(batch.images)
    for stride, value in maps.items():
        if not isinstance(stride, int) or value.ndim != 4 or len(value) != images:
            raise KDScopeError(
                f"features(batch) gives {{stride: map}} with whole strides and maps [N, C, H, W] of {images} images, "
                f"not {stride!r}: {tuple(value.shape)}"
            )
    return {stride: maps[stride].float() for stride in sorted(maps)}
