"""A cache of detections as the measures take it: what was found, what there is, and how large the images are."""

import numpy as np
import torch

from kdscope.detection.data.record import Objects
from kdscope.detection.measures.found import Found
from kdscope.features.cache import FeatureCache


def found_in(cache: FeatureCache, start: str = "detections") -> list[Found]:
    """What was found in each image, best first, in pixels of the image as it is stored.

    `start`: where its arrays lie, with `boxes` [N, M, 4], `scores` [N, M] (-1 where there are no more) and `labels`.
    """
    boxes, scores, labels = (cache.array(f"{start}/{name}")[:] for name in ("boxes", "scores", "labels"))
    return [Found.of(b[s >= 0], s[s >= 0], c[s >= 0]) for b, s, c in zip(boxes, scores, labels, strict=True)]


def objects_in(cache: FeatureCache) -> Objects:
    """What is to be found in each image, crowds among it."""
    boxes, labels, crowd, area = (
        torch.from_numpy(np.ascontiguousarray(cache.array(f"truth/{name}")[:]))
        for name in ("boxes", "labels", "crowd", "area")
    )
    there = labels > 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    return Objects(offsets, boxes[there], labels[there], crowd[there].bool(), area[there])


def sizes_in(cache: FeatureCache) -> np.ndarray:
    """int64 [N, 2], (height, width) of each image as it is stored."""
    return cache.array("frame/original")[:]
