"""Average precision and recall of detections, as COCO defines them (Lin et al., ECCV 2014).

Computed by faster-coco-eval, whose numbers are those of COCO's own tools; any IoU thresholds, any caps on the number of
detections, and areas in pixels (COCO's) or as parts of the image, which mean the same at 128 px as at 640.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kdscope.detection.data.record import Objects
from kdscope.detection.matching import ALL
from kdscope.detection.measures.found import Found
from kdscope.detection.results import as_results
from kdscope.errors import KDScopeError, unknown

COCO_IOU = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
COCO_CAPS = (1, 10, 100)


class Areas(NamedTuple):
    """Ranges of object sizes, both ends included: in pixels, or (`relative`) as parts of the image's area."""

    ranges: Mapping[str, tuple[float, float]]
    relative: bool = False


COCO_AREAS = Areas({"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)})
# Sides below 3/16 of the image, up to 5/16, and beyond: about a third each of the objects of `scenes`.
RELATIVE_AREAS = Areas(
    {"small": (0, (3 / 16) ** 2), "medium": ((3 / 16) ** 2, (5 / 16) ** 2), "large": ((5 / 16) ** 2, 1)}, True
)


def areas_for(dataset: str) -> Areas:
    """What is small and large in the images of the dataset of that name: COCO's pixels, of `scenes` parts of the image.

    Scenes are drawn at any size, all of it in proportion; what is small in other images was published in pixels.

    >>> areas_for("scenes:100:256").relative, areas_for("coco:/data").relative
    (True, False)
    """
    return RELATIVE_AREAS if dataset.partition(":")[0] == "scenes" else COCO_AREAS


class AveragePrecision(NamedTuple):
    """What was measured; NaN where no object is to be found (COCO's tools write -1).

    Attributes:
        precision: float64 [T, K, A], of each IoU threshold, class and area, at the largest cap, averaged over recall.
        recall: float64 [T, K, A, M], the largest recall, at each cap.
        iou_thresholds, areas, caps: what the axes T, A ("all" first) and M stand for; K is label 1 and so on.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: tuple[float, ...]
    areas: tuple[str, ...]
    caps: tuple[int, ...]

    def ap(self, iou: float | None = None, area: str = "all", label: int | None = None) -> float:
        """AP in [0, 1]: the mean over the thresholds, or at one; over the classes that have objects, or of one."""
        return _mean(self._part(self.precision, iou, area, label))

    def ar(
        self, cap: int | None = None, iou: float | None = None, area: str = "all", label: int | None = None
    ) -> float:
        """Recall in [0, 1] with at most `cap` detections of a class in an image [the largest], averaged as AP is."""
        if cap is not None and cap not in self.caps:
            raise unknown("cap", str(cap), map(str, self.caps))
        return _mean(self._part(self.recall[..., -1 if cap is None else self.caps.index(cap)], iou, area, label))

    def summary(self) -> dict[str, float]:
        """ap, ap50 and ap75 (where asked for), ap_small ..., ar1 ..., ar_small ..., as COCO's tools print them."""
        numbers = {"ap": self.ap()}
        numbers |= {f"ap{round(100 * iou)}": self.ap(iou) for iou in (0.5, 0.75) if self._at(iou) is not None}
        numbers |= {f"ap_{area}": self.ap(area=area) for area in self.areas[1:]}
        numbers |= {f"ar{cap}": self.ar(cap) for cap in self.caps}
        return numbers | {f"ar_{area}": self.ar(area=area) for area in self.areas[1:]}

    def by_class(self, iou: float | None = None) -> list[float]:
        """AP of each class."""
        return [self.ap(iou, label=label) for label in range(1, self.precision.shape[1] + 1)]

    def _at(self, iou: float) -> int | None:
        near = np.flatnonzero(np.isclose(self.iou_thresholds, iou))
        return int(near[0]) if len(near) else None

    def _part(self, values: np.ndarray, iou: float | None, area: str, label: int | None) -> np.ndarray:
        if area not in self.areas:
            raise unknown("area", area, self.areas)
        values = values[..., self.areas.index(area)]
        if iou is not None:
            if self._at(iou) is None:
                raise unknown("IoU threshold", f"{iou:g}", (f"{known:g}" for known in self.iou_thresholds))
            values = values[[self._at(iou)]]
        return values if label is None else values[:, label - 1]


def check_evaluator() -> None:
    """A KDScopeError if faster-coco-eval is missing: asked before a training, which is scored when it is over."""
    if find_spec("faster_coco_eval") is None:
        raise KDScopeError("average precision needs faster-coco-eval: pip install 'kdscope[detection]'")


def average_precision(
    found: Sequence[Found],
    objects: Objects,
    classes: int,
    *,
    iou_thresholds: Sequence[float] = COCO_IOU,
    caps: Sequence[int] = COCO_CAPS,
    areas: Areas = COCO_AREAS,
    sizes: Tensor | None = None,
) -> AveragePrecision:
    """AP and recall of what was found in each image.

    Args:
        found: of each image; boxes in the pixels of the objects' boxes.
        objects: of the same images; crowds are neither to be found nor to be missed.
        classes: how many labels there are, from 1.
        iou_thresholds: each in (0, 1].
        caps: detections of one class in one image that count at most, the best by score. COCO's largest is 100, and
            VisDrone's 500.
        areas: ranges that are also measured alone.
        sizes: int [N, 2], (height, width) of the images; needed where `areas` are relative.

    Raises:
        KDScopeError: faster-coco-eval is missing, other numbers of images, a label or a threshold out of range, boxes
            or scores that are no numbers.

    >>> import torch
    >>> objects = Objects.of([torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])], [[1, 1]])
    >>> result = average_precision([Found.of([[0, 0, 10, 10]], [0.9], [1])], objects, classes=1)
    >>> round(result.ap(), 5), result.ar(100), round(result.ap(0.5, area="small"), 5)
    (0.50495, 0.5, 0.50495)
    """
    check_evaluator()
    from faster_coco_eval import COCO, COCOeval_faster

    thresholds, caps = tuple(map(float, iou_thresholds)), tuple(sorted(map(int, caps)))
    _check(found, objects, classes, thresholds, caps)
    if areas.relative and sizes is None:
        raise KDScopeError("relative areas need the sizes of the images")
    images = list(range(1, len(objects) + 1))
    numbers = list(range(1, classes + 1))
    scale = 1 / sizes.double().prod(1).numpy() if areas.relative else np.ones(len(objects))

    truth = COCO(
        {
            "images": [{"id": i} for i in images],
            "categories": [{"id": k, "name": str(k)} for k in numbers],
            "annotations": _annotations(objects, scale),
        }
    )
    results = as_results(found, images, numbers)
    said = truth.loadRes([record | {"segmentation": []} for record in results])
    if areas.relative:
        for record in said.dataset["annotations"]:
            record["area"] *= scale[record["image_id"] - 1]
    evaluation = COCOeval_faster(truth, said, iouType="bbox")
    evaluation.params.iouThrs = np.array(thresholds)
    evaluation.params.maxDets = list(caps)
    evaluation.params.areaRng = [list(ALL), *(list(ends) for ends in areas.ranges.values())]
    evaluation.params.areaRngLbl = ["all", *areas.ranges]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (np.array(evaluation.eval[name]) for name in ("precision", "recall"))
    shape = (len(thresholds), classes, 1 + len(areas.ranges), len(caps))
    precision = precision.reshape(shape[0], -1, *shape[1:])[..., -1].mean(1)
    precision, recall = (np.where(values < 0, np.nan, values) for values in (precision, recall.reshape(shape)))
    return AveragePrecision(precision, recall, thresholds, ("all", *areas.ranges), caps)


def _annotations(objects: Objects, scale: np.ndarray) -> list[dict]:
    boxes = objects.boxes.double()
    sides = (boxes[:, 2:] - boxes[:, :2]).tolist()
    image = objects.image.numpy()
    area = (objects.area.double().numpy() * scale[image]).tolist()
    columns = (image.tolist(), objects.labels.tolist(), boxes[:, :2].tolist(), sides, area, objects.crowd.tolist())
    return [
        {
            "id": row,
            "image_id": i + 1,
            "category_id": label,
            "bbox": [*corner, *side],
            "area": size,
            "iscrowd": int(crowd),
        }
        for row, (i, label, corner, side, size, crowd) in enumerate(zip(*columns, strict=True), 1)
    ]


def _check(
    found: Sequence[Found], objects: Objects, classes: int, thresholds: tuple[float, ...], caps: tuple[int, ...]
) -> None:
    if len(found) != len(objects):
        raise KDScopeError(f"detections of {len(found)} images and objects of {len(objects)}")
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise KDScopeError(f"IoU thresholds {list(thresholds)} are not all above 0 and at most 1")
    if not caps or caps[0] < 1:
        raise KDScopeError(f"caps {list(caps)}: at least one detection must count")
    if len(objects.labels) and not 1 <= int(objects.labels.min()) <= int(objects.labels.max()) <= classes:
        raise KDScopeError(
            f"objects have labels {int(objects.labels.min())} to {int(objects.labels.max())} of {classes} classes"
        )
    for row, some in enumerate(found):
        if not (np.isfinite(some.boxes).all() and np.isfinite(some.scores).all()):
            raise KDScopeError(f"image number {row} of the split has a detection whose box or score is not a number")


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
