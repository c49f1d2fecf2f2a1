import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from kdscope.errors import KDScopeError
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.measures.map_threshold import (
    intersection_union,
    linear_weights,
    per_image_iou,
    pooled_influence,
    pooled_iou,
    threshold_masks,
)

FULL = (224, 224)


def ramp(side):
    return np.broadcast_to(np.arange(side) / (side - 1), (1, side, side))


def one_hot(row, column):
    maps = np.zeros((1, 7, 7))
    maps[0, row, column] = 1
    return maps


def iou(a, b, size=None):
    return per_image_iou(*intersection_union(threshold_masks(a, size), threshold_masks(b, size)))[0]


def noise(n=2000):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, 7, 7, generator=generator).numpy() for _ in range(2))


def test_interpolation_is_torchs():
    maps = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    down, across = linear_weights(7, 32), linear_weights(5, 24)
    expected = interpolate(maps[:, None], (32, 24), mode="bilinear", align_corners=False)[:, 0]
    assert np.allclose(down @ maps.numpy() @ across.T, expected, atol=1e-12)


def test_equal_maps_are_one_whatever_their_scale_and_shift():
    a, b = noise(50)
    masks = [threshold_masks(m, FULL) for m in (a, 3 * a + 2, b)]
    assert np.array_equal(per_image_iou(*intersection_union(*masks[:2])), np.ones(50))
    forward, back = (per_image_iou(*intersection_union(*pair)) for pair in (masks[::2], masks[::-2]))
    assert np.array_equal(forward, back)


def test_a_ramp_and_its_mirror():
    assert np.isclose(threshold_masks(ramp(224)).mean(), 134 / 224)
    assert np.isclose(iou(ramp(224), ramp(224)[:, :, ::-1]), 44 / 224, atol=1e-12)


def test_a_small_ramp_interpolated():
    small = ramp(7)
    assert threshold_masks(small, FULL)[0, 0].sum() == 131
    assert np.isclose(iou(small, small[:, :, ::-1], FULL), 38 / 224, atol=1e-12)
    assert np.isclose(iou(small, small.transpose(0, 2, 1), FULL), 0.4132492244, atol=1e-9)


def test_one_hot_maps():
    assert threshold_masks(one_hot(3, 3), FULL).sum() == 1008
    assert threshold_masks(one_hot(0, 0), FULL).sum() == 1106
    assert np.isclose(iou(one_hot(3, 3), one_hot(3, 4), FULL), 1 / 35, atol=1e-12)
    assert iou(one_hot(3, 3), one_hot(0, 0), FULL) == 0


def test_pooled_and_mean():
    shared, union = np.array([12, 0]), np.array([12, 2])
    assert np.isclose(pooled_iou(shared, union), 12 / 14, atol=1e-12)
    assert np.nanmean(per_image_iou(shared, union)) == 0.5


def test_the_default_does_not_depend_on_batches_and_the_pooled_form_does():
    a, b = noise(300)
    whole, parts, merged = ThresholdIoU(), ThresholdIoU(), ThresholdIoU()
    whole.update(a, b)
    for start in range(0, 300, 64):
        parts.update(a[start : start + 64], b[start : start + 64])
        merged.merge(ThresholdIoU().update(a[start : start + 64], b[start : start + 64]))
    assert whole.estimate() == parts.estimate() == merged.estimate()
    state = intersection_union(threshold_masks(a), threshold_masks(b))
    assert pooled_iou(*state, 64) != pooled_iou(*state, 256)


def test_flat_maps_are_counted_out():
    flat = np.ones((2, 7, 7))
    flat[1] = one_hot(3, 3)
    result = ThresholdIoU().update(flat, np.ones((2, 7, 7))).compute()
    assert (result.value, result.n, result.excluded) == (0.0, 1, 1)
    assert np.isnan(pooled_iou(np.zeros(2), np.zeros(2)))
    pooled = ThresholdIoU("guo2024-code", batch_size=1).update(flat, flat).compute()
    assert (pooled.value, pooled.excluded) == (1.0, 1)


def test_chance_of_two_independent_gaussian_maps():
    x, y = noise()
    masks = threshold_masks(x, FULL)
    assert np.isclose(masks.mean(), 0.720, atol=0.002)
    for rho, expected in ((0, 0.563), (0.25, 0.607), (0.5, 0.660), (0.75, 0.737), (0.9, 0.819)):
        other = threshold_masks(rho * x + np.sqrt(1 - rho**2) * y, FULL)
        assert np.isclose(pooled_iou(*intersection_union(masks, other)), expected, atol=0.005)
    assert np.isclose(pooled_iou(*intersection_union(masks, threshold_masks(-x, FULL))), 0.437, atol=0.002)


def test_three_networks():
    a, b = (threshold_masks(m) for m in noise(40))
    both, three = intersection_union(a, b), intersection_union(a, b, b)
    assert np.array_equal(both, three)
    with pytest.raises(KDScopeError, match="masks of one shape"):
        intersection_union(a, b[:, :3])


def test_the_influence_is_that_of_weighting_an_image():
    shared, union = np.array([3.0, 1, 4, 1, 5]), np.array([9.0, 2, 6, 5, 7])
    step, found = 1e-6, pooled_influence(shared, union)
    for k in range(5):
        weights = 1 + step * (np.arange(5) == k)
        moved = (weights * shared).sum() / (weights * union).sum()
        assert np.isclose((moved - pooled_iou(shared, union)) / step, found[k], atol=1e-6)
