"""What a definition of attention compares: the cells of each level, or all levels at the size of the image.

`kdscope` takes the cells of a level as they are, and an object for all cells that it touches. `normalised` is the same
of mean |F| over its own mean, which has no unit. `image-size` interpolates
each level to the frame and takes objects for the pixels of their boxes, some images at a time. `guo2024-code` is what
the code of Guo et al. does with maps at that size: cut at 0.4 of their range, and pooled over a batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from kdscope.analyses.detection_maps import EVERY, Cell, Framing, Grid
from kdscope.detection.measures.attention_pixels import enlarged, painted
from kdscope.detection.measures.feature_error import PADDING
from kdscope.measures.controls import derangement
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.measures.result import Result

NORMALISED, PIXELS, GUO = "normalised", "image-size", "guo2024-code"
CELLS = ("kdscope", NORMALISED)  # of maps as they are, at the cells of each level
GUO_BATCH = 128
AT_ONCE = 2**21  # pixels of one map held in memory
Levels = Mapping[int, np.ndarray]


class Look(NamedTuple):
    """Attention maps [n, h, w] of a network by stride, and of which images of the split (positions, ascending)."""

    maps: Levels
    rows: np.ndarray

    def at(self, rows: np.ndarray) -> Levels:
        """The maps of some of its images."""
        place = np.searchsorted(self.rows, rows)
        return self.maps if len(rows) == len(self.rows) else {stride: each[place] for stride, each in self.maps.items()}

    def shuffled(self, sizes: np.ndarray) -> "Look":
        """Each image with the map of another one of the same size in the frame; one alone in its size has none."""
        if len(self.rows) < 2:
            return Look({stride: each[:0] for stride, each in self.maps.items()}, self.rows[:0])
        within = np.unique(sizes[self.rows], axis=0, return_inverse=True)[1].reshape(-1)
        other = derangement(len(self.rows), within=within)
        moved = other != np.arange(len(other))
        return Look({stride: each[other[moved]] for stride, each in self.maps.items()}, self.rows[moved])


class Sight(NamedTuple):
    """The objects of all images, on the grid of each stride and in the frame."""

    grids: Mapping[int, Grid]
    framing: Framing

    def blocks(self, definition: str, looks: Sequence[Look]) -> Iterator[tuple[np.ndarray, Mapping[int, Grid], list]]:
        """Positions of images that all have maps of, the grids of each level, and the maps of each network there."""
        rows = looks[0].rows
        for look in looks[1:]:
            rows = np.intersect1d(rows, look.rows)
        step = len(rows) if definition in CELLS else max(1, AT_ONCE // int(np.prod(self.framing.frame)))
        for start in range(0, len(rows), max(1, step)):
            some = rows[start : start + step]
            grids = {stride: Grid(grid.region[some]) for stride, grid in self.grids.items()}
            maps = [look.at(some) for look in looks]
            if definition in CELLS:
                yield some, grids, maps
                continue
            valid = {stride: grid.region != PADDING for stride, grid in grids.items()}
            maps = [{s: enlarged(each[s], valid[s], self.framing.frame) for s in grids} for each in maps]
            kind = painted(*self.framing.some(some))
            # A pixel beside what is ignored can have no cell of its own, at coarse strides.
            unknown = {stride: np.isnan(maps[0][stride]) for stride in grids}
            yield some, {stride: Grid(np.where(unknown[stride], np.int8(PADDING), kind)) for stride in grids}, maps


def by_image(
    score: Callable[..., dict[Cell, np.ndarray]], sight: Sight, definition: str, *looks: Look
) -> dict[Cell, np.ndarray]:
    """`score(*maps, grids)` of all images [N]; NaN of those that some network has no map of."""
    values: dict[Cell, np.ndarray] = {}
    for rows, grids, maps in sight.blocks(definition, looks):
        for cell, each in score(*maps, grids).items():
            values.setdefault(cell, np.full(len(sight.framing.sizes), np.nan))[rows] = each
    return values


def pooled(sight: Sight, looks: Sequence[Look], confidence: float = 0.95) -> dict[Cell, Result]:
    """IoU of maps cut at 0.4 of their range (`kdscope.measures.map_threshold`), pooled over batches of images.

    Of one network it is that with the boxes, on images with an object; of two that of both. Padding is in no mask.
    """
    states: dict[int, ThresholdIoU] = {}
    for _, grids, maps in sight.blocks(GUO, looks):
        for stride, grid in grids.items():
            inside, valid = grid.objects(EVERY)
            known = inside.any(axis=(1, 2)) if len(looks) == 1 else np.ones(len(inside), dtype=bool)
            cut = [_without_padding(each[stride], valid)[known] for each in maps]
            cut += [inside[known]] if len(looks) == 1 else []
            states.setdefault(stride, ThresholdIoU(GUO, batch_size=GUO_BATCH)).update(*cut)
    found = {stride: state.compute(confidence) for stride, state in states.items() if state.seen}
    return {
        Cell(one.measure, f"stride {stride}", EVERY, ""): replace(
            one, ci_low=float(np.clip(one.ci_low, 0, 1)), ci_high=float(np.clip(one.ci_high, 0, 1))
        )
        for stride, one in found.items()
    }


def _without_padding(maps: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """With the least of an image's own values in its padding, which is then below any cut and leaves the range."""
    least = np.where(valid, maps, np.inf).min(axis=(1, 2), keepdims=True)
    return np.where(valid, maps, np.where(np.isfinite(least), least, 0.0))
