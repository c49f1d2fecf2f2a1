"""What a detector finds in the images of a split, on one scale for all detectors."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo

from kdscope.detection.average_precision import areas_for, average_precision
from kdscope.detection.data import DetectionSplit
from kdscope.detection.data.batches import DetectionBatches
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
    network: nn.Module, batches: DetectionBatches, score: float = SCORE, most: int = MOST
) -> tuple[Tensor, list[Found]]:
    """What the network finds in the images of this rank, best first, in pixels of the images as they are stored.

    Returns their indices in the split, int64 [n], and what was found in each.
    """
    index, outputs = [torch.zeros(0, dtype=torch.int64)], []
    with limited(network, score, most):
        for batch in batches.epoch():
            index.append(batch.index.cpu())
            outputs += network(list(batch.images))
    for output in outputs:
        known = output["labels"] > 0  # one-stage heads of torchvision have a column for a class 0, which nothing has
        output.update({name: output[name][known] for name in ("boxes", "scores", "labels")})
    return torch.cat(index), found_of(outputs)


def scored(
    found: Sequence[Found], split: DetectionSplit, classes: int, index: Tensor | None = None, most: int = MOST
) -> dict[str, float]:
    """COCO's numbers of what was found in the images of a split (those at `index`; all), and `ar` at the largest cap.

    Of images of one size, areas are parts of the image: pixels mean nothing there. Of others they are COCO's.
    """
    index = torch.arange(len(split)) if index is None else index
    sizes = split.sizes[index]
    objects = split.objects.subset(index)
    measured = average_precision(found, objects, classes, caps=(1, 10, most), areas=areas_for(sizes), sizes=sizes)
    numbers = measured.summary()
    return numbers | {"ar": numbers.pop(f"ar{most}")}


def most_of(dataset: str) -> int:
    """How many detections an image may have on the dataset of that name: those of VisDrone are crowded."""
    return 500 if dataset.startswith("visdrone") else MOST
