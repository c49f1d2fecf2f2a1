"""COCO's JSON (Lin et al., ECCV 2014) as a detection dataset; what is wrong in it is said with file and record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kdscope.data.catalogue import Request
from kdscope.data.imagenet import MEAN, STD
from kdscope.data.listing import all_there, data_folder
from kdscope.detection.data.catalogue import DETECTION_DATASETS
from kdscope.detection.data.fields import called, column, edges, is_number, position, whole
from kdscope.detection.data.image_files import DetectionImages
from kdscope.detection.data.record import DetectionDataset, DetectionSplit, Objects
from kdscope.errors import KDScopeError
from kdscope.files import read_json

LAYOUT = "annotations/instances_train*.json and annotations/instances_val*.json, or train.json and val.json"
MOST_LABELS = 10_000  # where labels are the file's own ids, each number up to the largest is a label


class Source(NamedTuple):
    """One split on the disk: its COCO JSON, and the folder that its file names are below."""

    annotations: Path
    images: Path


@DETECTION_DATASETS.register("coco")
def coco(request: Request) -> DetectionDataset:
    """`coco:DIR`: COCO's own folders, or train.json and val.json with their images in train/ and val/, or images/.

    Labels count from 1 in the order of the file's category ids, without its gaps (80 labels of COCO's 91 ids). The
    split `test` is the file named test, or else val, as COCO publishes no labels of its test set.
    """
    return from_coco(request, *_sources(request))


@DETECTION_DATASETS.register("coco-ids")
def coco_ids(request: Request) -> DetectionDataset:
    """`coco-ids:DIR`: as `coco:DIR`, but labels are the file's category ids, as torchvision's COCO weights have them.

    Numbers that the file does not use are classes "N/A".
    """
    return from_coco(request, *_sources(request), own_ids=True)


def from_coco(request: Request, train: Source, test: Source, own_ids: bool = False) -> DetectionDataset:
    """The dataset of two COCO files of the same categories.

    Raises:
        KDScopeError: a file that is not COCO JSON of detections, categories that differ, and as `read_split`.
    """
    contents = [_content(source.annotations) for source in (train, test)]
    tables = [_categories(*pair) for pair in zip((train.annotations, test.annotations), contents, strict=True)]
    if tables[0] != tables[1]:
        differing = sorted(set(tables[0].items()) ^ set(tables[1].items()))
        raise KDScopeError(
            f"{train.annotations} and {test.annotations} differ in categories: "
            f"{', '.join(f'{category} {name!r}' for category, name in differing[:5])}"
        )
    table = tables[0]
    if own_ids:
        if min(table) < 1 or max(table) > MOST_LABELS:
            raise KDScopeError(
                f"{train.annotations}: category ids from {min(table)} to {max(table)} cannot be labels (1 to "
                f"{MOST_LABELS}; 0 is the background); use coco:DIR, which counts them from 1"
            )
        table = {number: table.get(number, "N/A") for number in range(1, max(table) + 1)}
    splits, notes = [], []
    for name, source, content in zip(("train", "test"), (train, test), contents, strict=True):
        split, said = read_split(name, source, content, tuple(table))
        splits.append(split)
        notes += said
    return DetectionDataset(request.name, *splits, tuple(table.values()), tuple(table), MEAN, STD, notes=tuple(notes))


def read_split(
    name: str, source: Source, content: Mapping[str, Any], category_ids: tuple[int, ...]
) -> tuple[DetectionSplit, list[str]]:
    """The split that a COCO file describes, and what was left out of it or changed, one line each.

    Boxes are cut at the image's edge; those without an area, then, are left out. Images without objects stay.

    Args:
        name: of the split.
        source: where the file and its images are.
        content: of the file, already known to have images, annotations and categories.
        category_ids: the file's id of each label from 1.

    Raises:
        KDScopeError: a record without what it needs, an image or category that is not there, numbers that are none, a
            file without any object, images of other sizes (of 64; of the others when they are read).
    """
    path = source.annotations
    images, annotations = content["images"], content["annotations"]
    ids = whole(path, "image", images, "id")
    sizes = np.stack([whole(path, "image", images, side, least=1) for side in ("height", "width")], axis=1)
    files = column(path, "image", images, "file_name")
    if not images:
        raise KDScopeError(f"{path} has no images")
    for row, file in enumerate(files):
        if not isinstance(file, str) or not file:
            raise KDScopeError(f"{path}: {called('image', images, row)} has file_name {file!r}, not a path")
    order = ids.argsort(kind="stable")
    twice = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(twice):
        raise KDScopeError(f"{path}: two images have the id {ids[order][twice[0]]}")
    all_there(source.images, files, (f"{path} (image {number})" for number in ids.tolist()))

    image = position(path, "annotation", annotations, "image_id", ids)
    label = 1 + position(path, "annotation", annotations, "category_id", np.array(category_ids))
    boxes = edges(path, "annotation", annotations)
    crowd = _flags(path, annotations)
    edge = sizes[image][:, [1, 0, 1, 0]]
    cut = boxes.clip(0, edge).astype(np.float32)
    flat = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    beyond = (np.abs(boxes - cut) > 1).any(axis=1) & ~flat  # by less than a pixel is a matter of rounding
    area = np.array([_area(record, box) for record, box in zip(annotations, cut, strict=True)], dtype=np.float32)

    if (flat | crowd).all():
        raise KDScopeError(
            f"{path} has no box to learn from or to find: {len(flat)} annotations, {int(crowd.sum())} of crowds"
        )
    keep = np.flatnonzero(~flat)
    keep = keep[image[keep].argsort(kind="stable")]
    counts = np.bincount(image[keep], minlength=len(ids))
    columns = (cut[keep].reshape(-1, 4), label[keep], crowd[keep], area[keep])
    objects = Objects(
        torch.from_numpy(np.concatenate([[0], counts.cumsum()])), *(torch.from_numpy(column) for column in columns)
    )
    notes = []
    for rows, what in (
        (np.flatnonzero(flat), "without an area inside their image left out"),
        (np.flatnonzero(beyond), "cut at the edge of their image"),
    ):
        if len(rows):
            first = annotations[rows[0]]
            told = f"{called('annotation', annotations, rows[0])} of {files[image[rows[0]]]}: {first['bbox']}"
            notes.append(f"{path}: {len(rows)} box{'es' * (len(rows) > 1)} {what}, the first {told}")
    if empty := int((counts == 0).sum()):
        notes.append(f"{path}: {empty} of {len(ids)} images have no objects")
    stored = DetectionImages(source.images, files, torch.from_numpy(sizes))
    stored.check()
    return DetectionSplit(name, stored, objects, torch.from_numpy(ids)), notes


def _sources(request: Request) -> list[Source]:
    """Where train and test of `coco:DIR` are."""
    root = data_folder(request, LAYOUT)
    return [_source(root, names) for names in (("train",), ("test", "val"))]


def _source(root: Path, names: tuple[str, ...]) -> Source:
    for name in names:
        found = sorted((root / "annotations").glob(f"instances_{name}*.json"))
        found += [place for place in (root / "annotations" / f"{name}.json", root / f"{name}.json") if place.is_file()]
        if len(found) > 1:
            raise KDScopeError(f"{root} has {found[0].name} and {found[1].name}; keep the one that {name} should be")
        if found:
            part = found[0].stem.removeprefix("instances_")
            places = (root / part, root / "images" / part, root / name, root / "images" / name, root / "images")
            return Source(found[0], next((place for place in places if place.is_dir()), root))
    raise KDScopeError(f"{root} has no annotations of {' or '.join(names)}; it needs {LAYOUT}")


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    kind = "a list, as COCO writes detections" if isinstance(content, list) else f"a {type(content).__name__}"
    if not isinstance(content, dict):
        raise KDScopeError(
            f"{path} is not COCO JSON of objects: it is {kind}; it needs images, annotations, categories"
        )
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            known = ", ".join(list(content)[:5]) or "nothing"
            raise KDScopeError(f"{path} is not COCO JSON of objects: it has no list of {part} (but {known})")
    return content


def _categories(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Name of each category, by rising id."""
    records = content["categories"]
    ids = whole(path, "category", records, "id")
    names = [str(name) for name in column(path, "category", records, "name")]
    if not len(ids):
        raise KDScopeError(f"{path} has no categories")
    if len(set(ids.tolist())) < len(ids):
        raise KDScopeError(f"{path}: two categories have one id: {', '.join(map(str, ids.tolist()[:10]))}")
    return dict(sorted(zip(ids.tolist(), names, strict=True)))


def _flags(path: Path, annotations: list) -> np.ndarray:
    """Which annotations are crowds: bool [M]."""
    flags = [record.get("iscrowd", 0) for record in annotations]
    for row, flag in enumerate(flags):
        if flag not in (0, 1):
            raise KDScopeError(f"{path}: {called('annotation', annotations, row)} has iscrowd {flag!r}, not 0 or 1")
    return np.array(flags, dtype=bool)


def _area(record: Mapping[str, Any], box: np.ndarray) -> float:
    """The mask's, where the file says it."""
    said = record.get("area")
    return said if is_number(said) and said > 0 else (box[2] - box[0]) * (box[3] - box[1])
