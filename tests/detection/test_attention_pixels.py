"""Attention at image size against torch's interpolation, plain painting of boxes, and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kdscope import KDScopeError
from kdscope.detection.measures.attention_boxes import against_boxes, by_kind
from kdscope.detection.measures.attention_gap import attention_gap
from kdscope.detection.measures.attention_pixels import OTHER, enlarged, painted
from kdscope.detection.measures.feature_error import REGIONS
from kdscope.detection.measures.regions import regions

BOUNDS = (0.05, 0.2)


def everywhere(maps):
    return np.ones_like(maps, dtype=bool)


def test_a_map_of_two_by_two_cells_is_bilinear_between_their_middles():
    found = enlarged([[[0.0, 4.0], [8.0, 12.0]]], np.ones((1, 2, 2), bool), (4, 4))
    expected = [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    assert found[0].tolist() == expected


@pytest.mark.parametrize(("grid", "frame"), [((3, 5), (24, 40)), ((4, 4), (30, 18)), ((2, 7), (2, 7))])
def test_without_padding_it_is_the_interpolation_of_torch(grid, frame):
    maps = np.random.default_rng(0).random((3, *grid))
    theirs = F.interpolate(torch.from_numpy(maps)[:, None], frame, mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(enlarged(maps, everywhere(maps), frame), theirs.numpy(), atol=1e-6)


def test_in_the_image_a_padded_map_is_that_of_the_image_alone():
    maps = np.random.default_rng(0).random((2, 4, 6))
    valid = everywhere(maps)
    valid[:, 3:], valid[:, :, 4:] = False, False
    found = enlarged(np.where(valid, maps, 1e6), valid, (32, 48))
    alone = enlarged(maps[:, :3, :4], valid[:, :3, :4], (24, 32))
    np.testing.assert_allclose(found[:, :24, :32], alone, atol=1e-6)
    with pytest.raises(KDScopeError, match="both must be"):
        enlarged(maps, valid[:, :3], (32, 48))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 5))
def test_painted_boxes_are_the_regions_of_a_grid_of_pixels(seed, n):
    rng = np.random.default_rng(seed)
    corner = rng.random((n, 2)) * 24
    boxes = np.concatenate([corner, corner + rng.random((n, 2)) * rng.choice([0, 4, 20], (n, 1))], axis=1)
    frame, sizes = (24, 32), [(20, 32), (24, 27)]
    crowd, area = np.array([[3.0, 4, 15.5, 12.2]]), rng.random(n)
    more = (BOUNDS, [crowd, crowd], [area, area[:0]]) if n % 2 else (BOUNDS,)
    found = painted([boxes, boxes[:0]], np.array(sizes), frame, *more)
    cells = regions([boxes, boxes[:0]], sizes, frame, frame, *more)
    assert (found == np.where(cells == REGIONS.index("ring"), OTHER, cells)).all()


def kinds(box, frame=(8, 8)):
    found = painted([np.array([box], float)], np.array([frame]), frame, (0.05, 0.9))
    return np.where(found == OTHER, 3, found)


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        (kinds([2, 2, 6, 4]) == 1, (1, 8, 1, 1)),
        (np.full((1, 8, 8), 0.3), (0.125, 1, 0.5, 1 / 15)),
        (kinds([2, 2, 6, 4]) != 1, (0, 0, 0, 0)),
        (kinds([4, 2, 8, 4]) == 1, (0.5, 4, 0.714286, 1 / 3)),
    ],
    ids=["the box", "uniform", "elsewhere", "half off"],
)
def test_scores_of_known_maps_of_pixels(attention, expected):
    pixels, kind = attention.astype(np.float32).reshape(1, -1), kinds([2, 2, 6, 4]).reshape(1, -1)
    found = by_kind(pixels, kind, 3)
    for which in (0, 2):  # all objects, and those of medium size, which are all
        assert [float(score[0, which]) for score in found] == pytest.approx(expected, abs=1e-6)
    assert np.isnan([score[0, k] for score in found for k in (1, 3)]).all()  # no small and no large ones


def test_a_uniform_map_of_cells_is_uniform_in_pixels():
    maps = np.full((2, 3, 5), 1 / 7)
    valid = everywhere(maps)
    valid[1, :, 3:] = False
    found = enlarged(maps, valid, (50, 70))
    kind = painted([np.array([[3.0, 4, 30, 33]])] * 2, np.array([[50, 70], [50, 42]]), (50, 70), BOUNDS)
    scores = by_kind(found.reshape(2, -1), np.minimum(kind, 3).reshape(2, -1), 3)
    share = 27 * 29 / np.array([50 * 70, 50 * 42])
    assert scores.auroc[:, 0] == pytest.approx([0.5, 0.5], abs=1e-12)
    assert scores.lift[:, 0] == pytest.approx([1, 1], rel=1e-6)
    assert scores.iou[:, 0] == pytest.approx(share / (2 - share), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_each_kind_are_those_without_the_others(dtype):
    rng = np.random.default_rng(3)
    a = rng.integers(0, 9, (6, 60)).astype(dtype)  # with ties, and zeros
    kind = rng.integers(-1, 4, (6, 60))
    a[:, 0] = -0.0
    found = by_kind(a, kind, 3)
    for i in range(6):
        for k, own in enumerate([(kind[i] >= 0) & (kind[i] < 3), *(kind[i] == j for j in range(3))]):
            some = own | (kind[i] == 3)
            x, m = a[i, some].astype(float), own[some]
            expected = [x[m].sum() / x.sum(), x[m].sum() / x.sum() / m.mean(), roc_auc_score(m, x)]
            expected.append(_matched(x, m))
            assert [score[i, k] for score in found] == pytest.approx(expected, rel=1e-12)


def _matched(x, m):
    """Area-matched IoU by the definition: shares of the |M| highest, ties alike, over the sum of the larger shares."""
    cut = np.sort(x)[::-1][m.sum() - 1]
    share = np.where(x > cut, 1.0, np.where(x == cut, (m.sum() - (x > cut).sum()) / (x == cut).sum(), 0.0))
    return np.minimum(share, m).sum() / np.maximum(share, m).sum()


def test_pixels_of_float32_have_the_scores_of_float64():
    rng = np.random.default_rng(4)
    maps = enlarged(rng.random((3, 5, 6)), np.ones((3, 5, 6), bool), (40, 48))
    inside = (
        painted([rng.random((3, 4)) * 20 + [0, 0, 20, 20]] * 3, np.array([[40, 48]] * 3), (40, 48), BOUNDS) != OTHER
    )
    for one, other in zip(against_boxes(maps, inside), against_boxes(maps.astype(float), inside), strict=True):
        assert one == pytest.approx(other, rel=1e-12)


def test_overlap_at_image_size_is_that_of_the_highest_pixels():
    rng = np.random.default_rng(5)
    a, b = (rng.random((1, 4, 5)) for _ in range(2))
    inside = painted([np.array([[3.0, 2, 17, 12]])], np.array([[24, 30]]), (24, 30), BOUNDS) != OTHER
    found = attention_gap(*(enlarged(each, everywhere(each), (24, 30)) for each in (a, b)), inside)
    tops, pixels = [], []
    for each in (a, b):
        large = F.interpolate(torch.from_numpy(each)[None], (24, 30), mode="bilinear", align_corners=False).flatten()
        tops.append(set(large.argsort(descending=True)[: 14 * 10].tolist()))
        pixels.append(large.numpy())
    # Beyond the outer middles the map is level, so that a tie may be cut; these two have none there.
    assert found.iou[0] == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]), abs=1e-9)
    gap = np.abs(pixels[0] - pixels[1])
    assert found.foreground[0] == pytest.approx(gap[inside.ravel()].mean(), abs=1e-6)
    assert found.background[0] == pytest.approx(gap[~inside.ravel()].mean(), abs=1e-6)


def test_overlap_of_boxes_of_pixels_that_are_shifted_by_half():
    box, shifted = (painted([np.array([[x, 8.0, x + 16, 24]])], np.array([[40, 40]]), (40, 40), BOUNDS) != OTHER
                    for x in (8.0, 16.0))  # fmt: skip
    a, b = (np.float32(each) for each in (box, shifted))
    assert attention_gap(a, b, box).iou[0] == pytest.approx(1 / 3)
    assert against_boxes(b, box).iou[0] == pytest.approx(1 / 3)
    assert against_boxes(b, box).energy[0] == 0.5
