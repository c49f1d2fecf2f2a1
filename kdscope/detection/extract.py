"""What a detector says of the images of a split, kept on disk; analyses read this and never a network.

A cache of kind "detection" is of one detector. N images; M places for detections and G for objects, as many as the
fullest image needs; maps of each stride of its pyramid, [h, w], in the frame that all images of the split share:

    detections/boxes   float32 [N, M, 4]  (x1, y1, x2, y2) in pixels of the image as it is stored; best score first
    detections/scores  float32 [N, M]     -1 where there are no more
    detections/labels  int64 [N, M]       from 1; 0 where there are no more
    truth/boxes        float32 [N, G, 4]  in pixels of the image as it is stored; crowds among them
    truth/labels       int64 [N, G]       from 1; 0 where there are no more
    truth/crowd        uint8 [N, G]       1 for what is neither to be found nor to be missed
    truth/area         float32 [N, G]     in pixels of the image as it is stored
    frame/original     int64 [N, 2]       (height, width) of the image as it is stored
    frame/size         int64 [N, 2]       (height, width) that it has in the frame; the rest of the frame is padding
    maps/attention/S   float32 [N, h, w]  mean over channels of |F| at stride S: G^S of FGD, before its softmax
    meta/image         uint8 [N, 3, h, w] the frame as a picture of at most 160 pixels a side
    logits             float32 [N, C]     largest score of a detection of each class, 0 without one
    labels             int64 [N]          how many objects there are, crowds not counted
    index              int64 [N]          position in the split

Boxes go to the frame by frame/size over frame/original. The identity says `frame` (height, width of the frame),
`strides`, and `score` and `most` (what was told of detections). A student beside its teacher is another cache:
`kdscope.detection.pair`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kdscope.detection.adapter import adapt
from kdscope.detection.data import DetectionDataset, DetectionSplit
from kdscope.detection.evaluate import MOST, SCORE, found_by, limited
from kdscope.detection.frames import Framed, Frames, frame_of
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.manifest import spans
from kdscope.features.plan import Plan
from kdscope.features.produce import Job, Producer, extract_arrays
from kdscope.features.thumbnails import THUMBNAIL, thumbnails
from kdscope.models.watch import evaluating

SIDE = 160  # of the pictures


class DetectionProducer(Producer):
    """Detections, objects, attention maps and a picture of each image of a batch.

    Args:
        detector: in eval mode when it is called.
        places: objects in the fullest image of the split.
        frame: (height, width) of the frame.
        score, most: of detections, as in `kdscope.detection.evaluate.detect`.
    """

    kind = "detection"

    def __init__(self, detector: nn.Module, classes: int, places: int, frame: tuple[int, int], score: float, most: int):
        self.adapter, self._classes, self._places, self._frame = adapt(detector), classes, max(1, places), frame
        self._score, self._most = score, most

    def __enter__(self) -> "DetectionProducer":
        self._limit = limited(self.adapter.detector, self._score, self._most)
        self._limit.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._limit.__exit__(*error)

    def __call__(self, batch: Framed) -> dict[str, Tensor]:
        features = self.adapter.features(batch.frame)
        found = found_by(self.adapter, batch.images, batch.frame, batch.sizes, features)
        made = detections_as_arrays(found, self._classes, self._most) | about(batch, self._places)
        for stride, value in self.adapter.maps(features).items():
            made[f"maps/attention/{stride}"] = value.abs().mean(1)
        transform = self.adapter.detector.transform
        made[THUMBNAIL] = thumbnails(batch.frame.images, transform.image_mean, transform.image_std, SIDE)
        return made

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        strides = strides_in(first, "maps/attention/")
        return {
            "layers": [f"attention/{stride}" for stride in strides], "reduction": "map", "strides": strides,
            "frame": list(self._frame), "score": self._score, "most": self._most, "thumbnails": True,
        }  # fmt: skip


def detections_as_arrays(found: list[dict[str, Tensor]], classes: int, most: int) -> dict[str, Tensor]:
    """Detections of B images as arrays with `most` places, and `logits` [B, C]: the largest score of each class.

    >>> one = {"boxes": torch.ones(1, 4), "scores": torch.tensor([0.5]), "labels": torch.tensor([2])}
    >>> made = detections_as_arrays([one], classes=3, most=2)
    >>> made["detections/scores"].tolist(), made["logits"].tolist()
    ([[0.5, -1.0]], [[0.0, 0.5, 0.0]])
    """
    kept = [each["labels"] > 0 for each in found]  # one-stage heads have a column for a class 0, which nothing has
    boxes, scores, labels = (
        [each[name][keep][:most] for each, keep in zip(found, kept, strict=True)]
        for name in ("boxes", "scores", "labels")
    )
    made = {
        "detections/boxes": _padded(boxes, most, 0.0).float(),
        "detections/scores": _padded(scores, most, -1.0).float(),
        "detections/labels": _padded(labels, most, 0),
    }
    best = torch.zeros(len(found), classes + 1, device=boxes[0].device)
    best.scatter_reduce_(1, made["detections/labels"], made["detections/scores"].clamp(min=0), "amax")
    return {"logits": best[:, 1:], **made}


def about(batch: Framed, places: int) -> dict[str, Tensor]:
    """What is in the images of a batch, and how they lie in the frame."""
    objects = batch.objects
    counts = objects.counts.tolist()
    columns = {"boxes": objects.boxes, "labels": objects.labels, "crowd": objects.crowd.to(torch.uint8)}
    columns["area"] = objects.area
    made = {f"truth/{name}": _padded(value.split(counts), places, 0) for name, value in columns.items()}
    return made | {"frame/original": batch.sizes.clone(), "frame/size": torch.tensor(batch.frame.sizes)}


def strides_in(made: Mapping[str, Tensor], start: str) -> list[int]:
    """The strides of the arrays whose names begin so."""
    return [int(name.removeprefix(start)) for name in made if name.startswith(start)]


def _padded(parts: Any, places: int, fill: float) -> Tensor:
    """Parts [n_i, ...] as one tensor [B, places, ...]."""
    first = parts[0]
    longest = first.new_full((places, *first.shape[1:]), fill)
    return pad_sequence([longest, *parts], batch_first=True, padding_value=fill)[1:, :places]


def extract_detections(
    detector: nn.Module,
    dataset: DetectionDataset,
    split: str | DetectionSplit,
    out: str | Path,
    *,
    score: float = SCORE,
    most: int = MOST,
    **options: Any,
) -> FeatureCache | Plan:
    """Write what a detector finds in a split, and where it looks, to a cache, or go on with one that was stopped.

    Args:
        detector: one that `kdscope.detection.adapter.adapt` knows, with a `transform`.
        dataset, split: whose images; `split` by its name.
        out: the cache's directory, `NAME.kdcache`.
        score, most: detections below `score`, and more than `most` in an image, are not told.
        options: of `kdscope.features.produce.Job`; there is no view but "none".

    Raises:
        KDScopeError: as `kdscope.features.extract.extract_features`.

    >>> from kdscope.detection.data import load
    >>> from kdscope.detection.models import build
    >>> detector = build("fcos_resnet10_w8", 3, min_size=64)
    >>> cache = extract_detections(detector, load("scenes:4:128:4"), "test", "found")
    >>> cache.array("maps/attention/8").shape, cache.array("detections/boxes").shape, cache.kind
    ((4, 8, 8), (4, 100, 4), 'detection')
    """
    job, part = checked(options), dataset.split(split) if isinstance(split, str) else split
    with evaluating(detector):
        frame = frame_of(detector.transform, part.sizes)
    places = int(part.objects.counts.max())
    producer = DetectionProducer(detector, dataset.num_classes, places, frame, score, most)

    def make(some: DetectionSplit) -> Frames:
        return Frames(some, producer.adapter, frame, job.device)

    return extract_arrays(detector, dataset, part, out, producer, job, make, told)


def checked(options: Mapping[str, Any]) -> Job:
    """The options that all kinds of caches share; views are of classifiers."""
    job = Job(**{"batch_size": 16, **options})
    if job.view != "none":
        raise KDScopeError(f"detectors are shown images as they are, not under view {job.view!r}")
    return job


def told(dataset: DetectionDataset, part: DetectionSplit, positions: Tensor) -> dict[str, Any]:
    """The data's part of the identity of a cache."""
    return {"dataset": dataset.name, "split": part.name, "data": part.fingerprint, "samples": spans(positions)}
