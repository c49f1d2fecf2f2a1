"""Detectors that were never trained: caches in memory, whose numbers are known beforehand."""

import numpy as np

from kdscope.detection.extract import detections_as_arrays
from kdscope.sources import Subject

CLASSES = ("circle", "square")
SIDE, IMAGES = 128, 12
BOXES = np.array([[4, 4, 20, 20], [40, 8, 72, 40], [8, 60, 68, 120]], dtype=np.float32)  # small, medium, large
LABELS = np.array([1, 2, 1])
STRIDES = (8, 16)


class Memory:
    """What a cache is asked for, without a file."""

    path = "memory"

    def __init__(self, arrays: dict, identity: dict):
        self._arrays, self.identity, self.classes = arrays, {"dataset": "scenes", **identity}, CLASSES
        self.index = np.arange(IMAGES)

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def __len__(self) -> int:
        return IMAGES

    def array(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def check_compatible(self, other: "Memory") -> None:
        pass


def truth() -> dict:
    """Three objects in every image."""
    every = np.ones((IMAGES, 1), dtype=np.int64)
    sides = BOXES[:, 2:] - BOXES[:, :2]
    return {
        "truth/boxes": np.broadcast_to(BOXES, (IMAGES, 3, 4)).copy(),
        "truth/labels": every * LABELS,
        "truth/crowd": np.zeros((IMAGES, 3), dtype=np.uint8),
        "truth/area": (every * sides.prod(1)).astype(np.float32),
        "frame/original": np.full((IMAGES, 2), SIDE),
        "frame/size": np.full((IMAGES, 2), SIDE),
    }


def detections(found: np.ndarray, wrong: float = 0.0, score: float = 0.9, start: str = "detections") -> dict:
    """The objects where `found` [N, 3] is true, exactly, and where `wrong` is above 0 a false one of that score."""
    import torch

    images = []
    for row in found:
        boxes, labels, scores = BOXES[row], LABELS[row], np.full(int(row.sum()), score)
        if wrong:
            boxes = np.concatenate([boxes, [[90, 90, 110, 110]]])
            labels, scores = np.append(labels, 2), np.append(scores, wrong)
        part = {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32), "labels": labels}
        images.append({name: torch.from_numpy(value) for name, value in part.items()})
    made = detections_as_arrays(images, len(CLASSES), 100)
    return {name.replace("detections", start, 1): value.numpy() for name, value in made.items() if name != "logits"}


def network(found: np.ndarray, wrong: float = 0.0, attention: float = 1.0, score: float = 0.9) -> Memory:
    """A cache of kind "detection"; the map is `attention` times as large where there is an object, at each level."""
    arrays = truth() | detections(found, wrong, score)
    for stride in STRIDES:
        arrays[f"maps/attention/{stride}"] = np.where(inside(stride), attention, 1.0)
    arrays["meta/image"] = np.full((IMAGES, 3, SIDE // 4, SIDE // 4), 128, dtype=np.uint8)
    return Memory(arrays, {"strides": list(STRIDES), "frame": [SIDE, SIDE], "most": 100})


def inside(stride: int) -> np.ndarray:
    """Cells that share area with an object: bool [N, h, w]."""
    edges = np.arange(0, SIDE, stride)
    cells = np.zeros((SIDE // stride, SIDE // stride), dtype=bool)
    for x1, y1, x2, y2 in BOXES:
        rows, columns = ((edges < high) & (edges + stride > low) for low, high in ((y1, y2), (x1, x2)))
        cells |= rows[:, None] & columns[None, :]
    return np.broadcast_to(cells, (IMAGES, *cells.shape))


def subject(name: str, group: str, seed: int = 0, teachers: tuple[Subject, ...] = ()) -> Subject:
    method = "mimicry" if teachers else "none"
    return Subject(name, "fcos" if group != "teacher" else "large", group, method, seed, teachers, weights=name)


def every_object() -> np.ndarray:
    return np.ones((IMAGES, 3), dtype=bool)


def half_of_the_images(first: int = 0) -> np.ndarray:
    """All objects in every second image from the first or the second, none in the others."""
    return np.broadcast_to((np.arange(IMAGES) % 2 == first)[:, None], (IMAGES, 3))
