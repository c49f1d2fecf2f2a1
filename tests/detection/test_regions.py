"""Regions of cells against a plain loop over cells and boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope import KDScopeError
from kdscope.detection.measures.feature_error import REGIONS
from kdscope.detection.measures.regions import regions

BOUNDS = (0.05, 0.2)


def plain(boxes, size, frame, grid):
    found = np.full(grid, REGIONS.index("far"))
    for i, j in np.ndindex(*grid):
        top, bottom = (frame[0] / grid[0] * (i + k) for k in (0, 1))
        left, right = (frame[1] / grid[1] * (j + k) for k in (0, 1))
        if (top + bottom) / 2 >= size[0] or (left + right) / 2 >= size[1]:
            found[i, j] = -1
            continue

        def touches(box, top=top, bottom=bottom, left=left, right=right):
            wide, high = min(box[2], right) - max(box[0], left), min(box[3], bottom) - max(box[1], top)
            return wide > 0 and high > 0

        mine = [box for box in boxes if touches(box)]
        if mine:
            area = min((b[2] - b[0]) * (b[3] - b[1]) for b in mine) / (size[0] * size[1])
            found[i, j] = 0 if area < BOUNDS[0] else 1 if area < BOUNDS[1] else 2
            continue
        wider = [
            (x1 - (x2 - x1) / 4, y1 - (y2 - y1) / 4, x2 + (x2 - x1) / 4, y2 + (y2 - y1) / 4) for x1, y1, x2, y2 in boxes
        ]
        if any(touches(box) for box in wider):
            found[i, j] = REGIONS.index("ring")
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 4))
def test_regions_are_those_of_a_plain_loop(seed, n):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 40, (n, 2)).astype(float)
    boxes = np.c_[corner, corner + rng.integers(1, 30, (n, 2))]
    size, frame, grid = (48, 40), (64, 64), (8, 7)
    both = regions([boxes, boxes[:0]], [size, frame], frame, grid, BOUNDS)
    assert both[0].tolist() == plain(boxes, size, frame, grid).tolist()
    assert (both[1] == REGIONS.index("far")).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 3), m=st.integers(1, 3))
def test_a_crowd_is_neither_object_nor_background(seed, n, m):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 40, (n + m, 2)).astype(float)
    boxes = np.c_[corner, corner + rng.integers(1, 30, (n + m, 2))]
    objects, crowds = boxes[:n], boxes[n:]
    size, frame, grid = (48, 40), (64, 64), (8, 7)
    plainly = plain(objects, size, frame, grid)
    under = plain(crowds, size, frame, grid) < REGIONS.index("ring")  # padding, or a cell of a crowd
    objects_there = (plainly >= 0) & (plainly < REGIONS.index("ring"))
    expected = np.where(under & ~objects_there, -1, plainly)
    found = regions([objects, boxes[:0]], [size] * 2, frame, grid, BOUNDS, [crowds, crowds])
    assert found[0].tolist() == expected.tolist()
    assert set(found[1].ravel()) <= {-1, REGIONS.index("far")}
    assert (found[1] == -1).tolist() == under.tolist()


def test_an_object_is_as_large_as_is_said_and_the_smallest_box_is_on_top():
    boxes = [np.array([[0.0, 0, 16, 16], [0, 0, 4, 4]])]
    found = regions(boxes, [(16, 16)], (16, 16), (4, 4), (10, 100), areas=[np.array([5.0, 50.0])])
    assert found[0, 0, 0] == 1
    assert (np.delete(found.ravel(), 0) == 0).all()
    with pytest.raises(KDScopeError, match="areas of 2 images"):
        regions(boxes, [(16, 16)], (16, 16), (4, 4), (10, 100), areas=[np.array([5.0, 50.0])] * 2)


def test_a_box_without_area_covers_nothing_and_bounds_rise():
    flat = regions([np.array([[3.0, 3.0, 3.0, 9.0]])], [(16, 16)], (16, 16), (4, 4), BOUNDS)
    assert (flat == REGIONS.index("far")).all()
    with pytest.raises(KDScopeError, match="rising"):
        regions([], [], (8, 8), (2, 2), (0.5, 0.1))
