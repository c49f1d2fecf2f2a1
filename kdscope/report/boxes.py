"""The explorer of detectors: images of one split, what is to be found in them, and what each network found.

Everything is read from caches of kind "detection"; what is missing there is extracted first, if that is wanted. Boxes
are parts of the width and height of their own image, which leaves their overlaps as they are; rounding to 16 bits moves
an edge by less than a hundredth of a pixel of an image of 640.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kdscope.detection.data.record import Objects
from kdscope.detection.matching import match
from kdscope.detection.measures.agreement import best_score
from kdscope.detection.measures.found import Found
from kdscope.detection.stored import found_in, objects_in, sizes_in
from kdscope.detection.subjects import detection_cache, kept_detections
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.thumbnails import THUMBNAIL
from kdscope.measures.grids import pool_area
from kdscope.report.explorer import draw, first_found, same_images, side_by_side, subjects_of
from kdscope.report.map_sets import FINEST
from kdscope.report.payload import BoxExplorer, BoxModel, MapSet
from kdscope.report.pixels import as_bytes, encode, sprite
from kdscope.run import Run
from kdscope.sources import Subject

# The page has 15 MB, of which charts take 5: detections take at most 2.6, pictures 3.5 and maps 1.9.
MOST_IMAGES = 400
MOST_FOUND = 160_000  # detections of all networks together
PIXELS = 8_000_000  # of all pictures together: boxes need finer ones than classes do
MAP_BYTES = 1_400_000  # of all networks together
WHOLE = 65535  # of a width, a height, or a score
IOU, BACKGROUND = 0.5, 0.1


def explore_boxes(
    runs: Mapping[str, Run], *, split: str = "test", extract: bool = True, device: str = "auto"
) -> tuple[BoxExplorer | None, list[str]]:
    """The explorer of some runs of detectors, and what must be said of it; None where there are no runs.

    Args:
        runs: finished runs by the names that they are shown under.
        split: which images.
        extract: whether what no cache holds is extracted now.

    Raises:
        KDScopeError: no cache is there, and none may be made.
    """
    if not runs:
        return None, []
    subjects, homes = subjects_of(runs, device)
    chosen, pairs = side_by_side(subjects)
    shown: list[tuple[str, str, FeatureCache]] = []
    notes = []
    for name, role, subject in chosen:
        cache = first_found(lambda each, make: _open(each, split, make), homes, subject, extract)
        if cache is None:
            notes.append(f"{name} is not in the explorer: no cache of {split} is there; `kdscope extract` makes one")
        elif shown and not same_images(shown[0][2], cache):
            notes.append(f"{name} is not in the explorer: it was asked about other images than {shown[0][0]}")
        else:
            shown.append((name, role, cache))
    if not shown:
        raise KDScopeError(f"no detector has a cache of {split}; write the report with --extract")
    there = {name for name, _, _ in shown}
    pairs = [pair for pair in pairs if {pair.student, pair.teacher} <= there]
    pairs = [pair if pair.alone in there else replace(pair, alone=None) for pair in pairs]
    return replace(_explorer(shown, split), pairs=pairs), notes


def _open(subject: Subject, split: str, extract: bool) -> FeatureCache | None:
    return detection_cache(subject, split) if extract and subject.load is not None else kept_detections(subject, split)


def _explorer(shown: Sequence[tuple[str, str, FeatureCache]], split: str) -> BoxExplorer:
    first = shown[0][2]
    objects, sizes = objects_in(first), sizes_in(first)
    rows = draw(objects.counts.numpy(), MOST_IMAGES)
    frames = first.array(THUMBNAIL)[rows]
    picture, side, columns = sprite(frames, PIXELS)
    said = []
    if len(rows) < len(first):
        said.append(f"Drawn from {len(first)} with seed 0, images of each number of objects as often as their share.")
    cap = int(first.identity.get("most", 100))
    share = MOST_FOUND // len(shown)
    models = [_model(name, role, cache, objects, sizes, rows, cap, share) for name, role, cache in shown]
    if any(model.least > _told(cache) + 1 / WHOLE for model, (_, _, cache) in zip(models, shown, strict=True)):
        said.append("What was found with less certainty is left out: the page has no room for it.")
    kinds = _maps([cache for _, _, cache in shown], models, rows)
    truth = [objects.boxes[a:b].numpy() for a, b in _spans(objects, rows)]
    inside = np.concatenate([np.arange(a, b) for a, b in _spans(objects, rows)]).astype(np.int64)
    return BoxExplorer(
        split=split, view="none", classes=list(first.classes), count=len(rows), image_size=side, columns=columns,
        sprite=picture, index=encode(first.index[rows], "int32"),
        places=encode(_places(first, rows, frames.shape[-2:]), "uint16"),
        truth_counts=encode([len(some) for some in truth], "uint32"),
        truth_boxes=encode(_parts(truth, sizes[rows]), "uint16"),
        truth_labels=encode(objects.labels.numpy()[inside] - 1, "uint16"),
        truth_crowd=encode(objects.crowd.numpy()[inside], "uint8"),
        models=models, map_kinds=kinds, iou=IOU, background=BACKGROUND, cap=cap, note=" ".join(said),
    )  # fmt: skip


def _told(cache: FeatureCache) -> float:
    return float(cache.identity.get("score") or 0)


def _spans(objects: Objects, rows: np.ndarray) -> list[tuple[int, int]]:
    starts = objects.offsets.numpy()
    return [(int(starts[row]), int(starts[row + 1])) for row in rows]


def _model(
    name: str,
    role: str,
    cache: FeatureCache,
    objects: Objects,
    sizes: np.ndarray,
    rows: np.ndarray,
    cap: int,
    most: int,
) -> BoxModel:
    """One network. Its best score is that of the whole split, as the analyses cut it."""
    every = found_in(cache)
    matches = match(every, objects, (IOU,), cap)
    counts = matches.right[0] | matches.wrong[0]
    best = best_score(matches.scores[counts], matches.right[0, counts], int(matches.counted.sum()))
    found = [every[row] for row in rows]
    scores = rounded(np.concatenate([some.scores for some in found]), best)
    least = int(np.sort(scores)[-most - 1]) + 1 if len(scores) > most else int(np.ceil(WHOLE * _told(cache)))
    keep = scores >= least
    ends = np.cumsum([len(some.scores) for some in found])[:-1]
    found = [Found(*(c[k] for c in some)) for some, k in zip(found, np.split(keep, ends), strict=True)]
    return BoxModel(
        name=name, role=role, score=int(_whole(np.array(best))) / WHOLE if np.isfinite(best) else None,
        least=least / WHOLE, counts=encode([len(some.scores) for some in found], "uint32"),
        boxes=encode(_parts([some.boxes for some in found], sizes[rows]), "uint16"),
        scores=encode(scores[keep], "uint16"),
        labels=encode(np.concatenate([some.labels for some in found]) - 1, "uint16"),
    )  # fmt: skip


def rounded(scores: np.ndarray, cut: float) -> np.ndarray:
    """Scores [D] as 16 bits, of which those from `cut` on are as many as before.

    >>> rounded(np.array([0.5000001, 0.5, 0.4]), 0.5000001).tolist()
    [32768, 32767, 26214]
    """
    found = _whole(scores)
    return np.where((scores < cut) & (found >= _whole(np.array(cut))), _whole(np.array(cut)) - 1, found)


def _whole(shares: np.ndarray) -> np.ndarray:
    """Shares in [0, 1] as 16 bits.

    >>> _whole(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 32768, 65535]
    """
    return np.round(np.clip(shares, 0, 1) * WHOLE).astype(np.uint16)


def _parts(boxes: Sequence[np.ndarray], sizes: np.ndarray) -> np.ndarray:
    """Boxes [n_i, 4] of images of `sizes` [N, 2] (height, width), as parts of those: uint16 [D, 4].

    >>> _parts([np.array([[0.0, 5, 10, 10]])], np.array([[10, 20]])).tolist()
    [[0, 32768, 32768, 65535]]
    """
    scale = np.repeat(sizes[:, [1, 0, 1, 0]], [len(some) for some in boxes], axis=0)
    return _whole(np.concatenate([np.zeros((0, 4)), *boxes]) / scale)


def _places(cache: FeatureCache, rows: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    """Where each image lies in its square: (left, top, right, bottom) as uint16 [n, 4]; the rest is padding."""
    height, width = picture
    side = max(picture)
    start = np.array([(side - width) // 2, (side - height) // 2], dtype=np.float64)
    inner = cache.array("frame/size")[:][rows][:, ::-1] / np.array(cache.identity["frame"])[::-1]
    ends = start + inner * np.array([width, height])
    return _whole(np.concatenate([np.broadcast_to(start, ends.shape), ends], axis=1) / side)


def _maps(caches: Sequence[FeatureCache], models: Sequence[BoxModel], rows: np.ndarray) -> list[str]:
    """Give the networks their attention at each stride that all have, on a square grid, the finest first."""
    names = [name for name in caches[0].names if name.startswith("maps/attention/")]
    names = [name for name in names if all(name in cache.names for cache in caches)]
    kinds, free = [], MAP_BYTES
    for name in sorted(names, key=lambda name: int(name.rpartition("/")[2])):
        cells = [_square(cache.array(name)[:][rows]) for cache in caches]
        if len({each.shape for each in cells}) > 1 or sum(each.size for each in cells) > free:
            continue
        free -= sum(each.size for each in cells)
        stride = name.rpartition("/")[2]
        kinds.append(f"attention-{stride}")
        for model, each in zip(models, cells, strict=True):
            label = f"attention, stride {stride}"
            model.maps[kinds[-1]] = MapSet(label, *each.shape[1:], encode(each, "uint8"))
    return kinds


def _square(maps: np.ndarray) -> np.ndarray:
    """Maps [n, h, w] as bytes on a square grid of at most `FINEST` cells, in its middle as a picture in its square.

    >>> _square(np.array([[[0.0, 2.0]]])).tolist()
    [[[0, 255], [0, 0]]]
    """
    height, width = maps.shape[1:]
    scale = min(1.0, FINEST / max(height, width))
    grid = max(1, round(height * scale)), max(1, round(width * scale))
    coded = as_bytes(pool_area(maps, grid) if grid != (height, width) else maps)
    side = max(grid)
    top, left = (side - grid[0]) // 2, (side - grid[1]) // 2
    whole = np.zeros((len(maps), side, side), dtype=np.uint8)
    whole[:, top : top + grid[0], left : left + grid[1]] = coded
    return whole
