"""What a detector finds in the images of a split, on one scale for all detectors."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo

from kdscope.detection.adapter import Adapter, adapt
from kdscope.detection.adapter.base import Targets
from kdscope.detection.average_precision import COCO_AREAS, Areas, average_precision
from kdscope.detection.batch import DetectionBatch
from kdscope.detection.data import DetectionSplit
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.frames import frame_of, framed
from kdscope.detection.measures.found import Found
from kdscope.detection.results import found_of
from kdscope.models.watch import evaluating

# torchvision's detectors have other thresholds and caps by family (0.05 and 100, 0.2 and 100, 0.001 and 300), so that
# their own would compare settings and not networks.
SCORE = 0.05
MOST = 100


@contextlib.contextmanager
def limited(network: nn.Module, score: float = SCORE, most: int = MOST) -> Iterator[None]:
    """In eval mode, and telling no detection below `score` and no more than `most` an image; as it was afterwards."""
    owner = network.roi_heads if isinstance(network, zoo.FasterRCNN) else network
    limits = {"score_thresh": score, "detections_per_img": most}
    known = {name: getattr(owner, name) for name in limits if hasattr(owner, name)}
    try:
        for name in known:
            setattr(owner, name, limits[name])
        with evaluating(network):
            yield
    finally:
        for name, value in known.items():
            setattr(owner, name, value)


@torch.no_grad()
def detect(
    network: nn.Module,
    batches: DetectionBatches,
    score: float = SCORE,
    most: int = MOST,
    through: Adapter | None = None,
) -> tuple[Tensor, list[Found]]:
    """What the network finds in the images of this rank, best first, in pixels of the images as they are stored.

    All are padded to the frame of the split (`kdscope.detection.frames`), as for a cache: what is found in an image
    depends neither on the size of the batches nor on the number of ranks. With `through` the images go through the
    transform of that detector, which is in eval mode, as those of a student go to its teacher.

    Returns their indices in the split, int64 [n], and what was found in each.
    """
    adapter, sizes = adapt(network), batches.split.sizes
    through = through or adapter
    index, outputs = [torch.zeros(0, dtype=torch.int64)], []
    with limited(network, score, most):
        frame = frame_of(through.detector.transform, sizes) if adapter.goes_on else None
        for scenes in batches.epoch():
            index.append(scenes.index.cpu())
            shown = framed(through, scenes, frame) if frame else None
            outputs += found_by(adapter, scenes.images, shown, sizes[index[-1]])
    for output in outputs:
        known = output["labels"] > 0  # one-stage heads of torchvision have a column for a class 0, which nothing has
        output.update({name: output[name][known] for name in ("boxes", "scores", "labels")})
    return torch.cat(index), found_of(outputs)


def found_by(
    adapter: Adapter,
    images: Tensor | Sequence[Tensor],
    shown: DetectionBatch | None,
    sizes: Tensor,
    features: dict[str, Tensor] | None = None,
) -> Targets:
    """Boxes, scores and labels of each image, in pixels of the images as they are stored; the network is in eval mode.

    Args:
        images: as they are stored, in [0, 1]: for a user's own detector that has nothing but its forward pass.
        shown: the same in their frame; None for such a detector.
        sizes: int64 [B, 2], (height, width) of `images`.
        features: of the backbone, where they are known already.
    """
    if not adapter.goes_on:
        return adapter.detector(list(images))
    features = adapter.features(shown) if features is None else features
    return adapter.detections(features, shown, [(height, width) for height, width in sizes.tolist()])


def scored(
    found: Sequence[Found],
    split: DetectionSplit,
    classes: int,
    index: Tensor | None = None,
    most: int = MOST,
    areas: Areas = COCO_AREAS,
) -> dict[str, float]:
    """COCO's numbers of what was found in the images of a split (those at `index`; all); `ar` is at the largest cap."""
    index = torch.arange(len(split)) if index is None else index
    sizes = split.sizes[index]
    objects = split.objects.subset(index)
    measured = average_precision(found, objects, classes, caps=(1, 10, most), areas=areas, sizes=sizes)
    numbers = measured.summary()
    return numbers | {"ar": numbers.pop(f"ar{most}")}


def most_of(dataset: str) -> int:
    """How many detections an image may have on the dataset of that name: those of VisDrone are crowded."""
    return 500 if dataset.startswith("visdrone") else MOST
