"""Detections to COCO's results format and back: a list of {image_id, category_id, bbox, score}, for other tools."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from kdscope.detection.data.fields import called, column, edges, is_number, position
from kdscope.detection.measures.found import Found
from kdscope.errors import KDScopeError
from kdscope.files import read_json, replacing


def found_of(outputs: Sequence[dict[str, Tensor]]) -> list[Found]:
    """What torchvision's detectors return (`boxes`, `scores` and `labels` of each image), on the host.

    >>> import torch
    >>> found_of([{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}])[0].boxes.shape
    (0, 4)
    """
    return [
        Found.of(*(output[name].detach().cpu().numpy() for name in ("boxes", "scores", "labels"))) for output in outputs
    ]


def as_results(found: Sequence[Found], image_ids: Sequence[int], category_ids: Sequence[int]) -> list[dict]:
    """The records of COCO's results format.

    Args:
        found: of each image.
        image_ids: what each image is called there.
        category_ids: what each label from 1 is called there.

    Raises:
        KDScopeError: other numbers of images, a label without a category.

    >>> as_results([Found.of([[1, 2, 4, 6]], [0.5], [2])], [9], [3, 7])
    [{'image_id': 9, 'category_id': 7, 'bbox': [1.0, 2.0, 3.0, 4.0], 'score': 0.5}]
    """
    if len(found) != len(image_ids):
        raise KDScopeError(f"detections of {len(found)} images and {len(image_ids)} image ids")
    records = []
    for image_id, some in zip(image_ids, found, strict=True):
        outside = (some.labels < 1) | (some.labels > len(category_ids))
        if outside.any():
            raise KDScopeError(
                f"image {int(image_id)} has a detection of label {some.labels[outside][0]}; labels are 1 to "
                f"{len(category_ids)}"
            )
        sides = np.concatenate([some.boxes[:, :2], some.boxes[:, 2:] - some.boxes[:, :2]], axis=1)
        for label, box, score in zip(some.labels.tolist(), sides.tolist(), some.scores.tolist(), strict=True):
            records.append(
                {"image_id": int(image_id), "category_id": int(category_ids[label - 1]), "bbox": box, "score": score}
            )
    return records


def write_results(
    path: str | Path, found: Sequence[Found], image_ids: Sequence[int], category_ids: Sequence[int]
) -> None:
    """Write `as_results` to `path`, whole or not at all, one record a line."""
    lines = (json.dumps(record) for record in as_results(found, image_ids, category_ids))
    with replacing(path) as draft:
        draft.write_text("[" + ",\n".join(lines) + "]\n", encoding="utf-8")


def read_results(path: str | Path, image_ids: Sequence[int], category_ids: Sequence[int]) -> list[Found]:
    """What a results file says of each of the images: of any detector that writes COCO's format.

    Raises:
        KDScopeError: a file that is no list of detections, a detection of an unknown image or category, a box or score
            that is no number.
    """
    path = Path(path)
    records = read_json(path)
    if not isinstance(records, list):
        raise KDScopeError(f"{path} is not a list of detections, as COCO's results are, but a {type(records).__name__}")
    if not records:
        return [Found.of([], [], [])] * len(image_ids)
    image = position(path, "detection", records, "image_id", np.asarray(image_ids))
    label = 1 + position(path, "detection", records, "category_id", np.asarray(category_ids))
    boxes, scores = edges(path, "detection", records), column(path, "detection", records, "score")
    for row, score in enumerate(scores):
        if not is_number(score):
            raise KDScopeError(f"{path}: {called('detection', records, row)} has score {score!r}, not a number")
    order = image.argsort(kind="stable")
    ends = np.bincount(image, minlength=len(image_ids)).cumsum()
    columns = (np.split(column[order], ends[:-1]) for column in (boxes, np.array(scores, dtype=np.float64), label))
    return [Found.of(*parts) for parts in zip(*columns, strict=True)]
