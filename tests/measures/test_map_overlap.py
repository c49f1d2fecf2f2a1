import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import adaptive_avg_pool2d

from kdscope.errors import KDScopeError
from kdscope.measures.grids import area_weights, pool_area, ranked
from kdscope.measures.joint import bootstrap_columns
from kdscope.measures.map_measures import AttentionIoU, MapRankCorrelation, SoftIoU
from kdscope.measures.map_overlap import (
    above_chance,
    area_under,
    chance_iou,
    map_overlap,
    map_rank_correlation,
    soft_iou,
    top_iou,
)
from kdscope.measures.map_threshold import intersection_union, per_image_iou, threshold_masks
from kdscope.measures.statistics import bootstrap_mean


def noise(n=400, side=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, side, side)), rng.normal(size=(n, side, side))


def smooth(n, side, seed):
    """Unrelated maps with structure: noise blurred over a neighbourhood."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, side // 3 + 1, side // 3 + 1, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].double().numpy()


@pytest.mark.parametrize("measure", [map_overlap, soft_iou, map_rank_correlation])
def test_equal_maps_symmetry_and_order(measure):
    a, b = noise()
    assert np.allclose(measure(np.abs(a), np.abs(a)), 1)
    assert np.allclose(measure(a, b), measure(b, a), atol=1e-12)
    order = np.random.default_rng(1).permutation(len(a))
    assert np.allclose(measure(a[order], b[order]), measure(a, b)[order], atol=1e-12)


def test_only_the_order_of_the_cells_counts():
    a, b = noise()
    assert np.allclose(map_overlap(np.exp(a), 3 * b + 1), map_overlap(a, b))
    assert np.allclose(map_rank_correlation(np.exp(a), b), map_rank_correlation(a, b))


def test_top_cells_equal_a_plain_count():
    a, b = noise(20)
    areas, iou, _ = top_iou(a, b)
    for k, count in enumerate(np.round(areas * 49).astype(int)):
        for i in range(20):
            one, other = (set(np.argsort(m[i].ravel())[-count:]) for m in (a, b))
            assert np.isclose(iou[i, k], len(one & other) / len(one | other))


def test_independent_maps_are_at_chance_on_any_grid():
    for side in (4, 7, 14):
        a, b = noise(4000, side)
        _areas, iou, chance = top_iou(a, b)
        kappa = above_chance(iou, chance)
        assert np.all(np.abs(kappa.mean(0)) < 4 * kappa.std(0) / np.sqrt(4000))
    # the usual formula is that of large grids, where independence predicts these
    for share, expected in ((0.5, 0.333), (0.25, 0.143), (0.15, 0.081), (0.1, 0.053), (0.05, 0.026)):
        assert np.isclose(chance_iou(round(share * 10_000), 10_000), expected, atol=6e-4)


def test_a_threshold_of_the_range_depends_on_the_threshold_and_an_area_does_not():
    a, b = smooth(2000, 14, 0), smooth(2000, 14, 1)
    by_range = [
        per_image_iou(*intersection_union(threshold_masks(a, None, t), threshold_masks(b, None, t))).mean()
        for t in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    assert by_range[0] > 0.85
    assert by_range[-1] < 0.1
    _areas, iou, chance = top_iou(a, b, (0.05, 0.1, 0.15, 0.25, 0.5))
    assert np.allclose(iou.mean(0), chance, atol=0.03)


def test_one_shared_outlier_fools_a_threshold_of_the_range_alone():
    a, b = noise(500, 14)
    a[:, 0, 0] = b[:, 0, 0] = 100
    masks = [threshold_masks(m, None, 0.5) for m in (a, b)]
    assert np.array_equal(per_image_iou(*intersection_union(*masks)), np.ones(500))
    assert top_iou(a, b, (0.15,))[1].mean() < 0.12


def test_ties_share_and_depend_on_no_order():
    a, b = noise(50)
    coarse = np.round(a)
    assert np.allclose(top_iou(coarse, coarse)[1], 1)
    flipped = top_iou(coarse[:, ::-1, ::-1], b[:, ::-1, ::-1])[1]
    assert np.allclose(flipped, top_iou(coarse, b)[1])
    weights = ranked(coarse).top(10)
    assert np.allclose(weights.sum(1), 10)
    assert weights.min() >= 0
    assert weights.max() <= 1


def test_flat_maps_are_counted_and_never_a_nan_in_the_mean():
    a, b = noise(30)
    a[:4] = 0.3
    for measure in (AttentionIoU(), SoftIoU(), MapRankCorrelation()):
        result = measure.update(a, b).compute()
        assert (result.n, result.excluded) == (26, 4)
        assert np.isfinite(result.value)
    assert np.isnan(soft_iou(-np.abs(a[5:6]), b[5:6]))


def test_batches_and_merges_give_one_number():
    a, b = noise(90)
    for kind in (AttentionIoU, SoftIoU, MapRankCorrelation):
        whole, parts = kind().update(a, b), kind()
        for start in range(0, 90, 32):
            parts.merge(kind().update(a[start : start + 32], b[start : start + 32]))
        assert whole.compute().value == parts.compute().value


def test_different_grids_meet_on_the_smaller_by_area():
    maps = torch.randn(3, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert np.allclose(pool_area(maps.numpy(), (4, 4)), adaptive_avg_pool2d(maps, (4, 4)))
    assert np.allclose(area_weights(7, 3).sum(1), 1)
    assert np.allclose(area_weights(7, 3).sum(0), 3 / 7)
    a, _b = noise(20, 8)
    assert np.allclose(map_overlap(a, pool_area(a, (4, 4))), 1)


def test_rank_correlation_is_scipys():
    a, b = noise(10)
    a = np.round(a, 1)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    assert np.allclose(map_rank_correlation(a, b), expected)


def test_bad_maps_are_one_line():
    a, b = noise(5)
    a[2, 0, 0] = np.nan
    with pytest.raises(KDScopeError, match="1 of 5 images have values that are not finite"):
        map_overlap(a, b)
    with pytest.raises(KDScopeError, match="maps of 5, 4 images"):
        map_overlap(b, b[:4])
    with pytest.raises(KDScopeError, match=r"not \[images, rows, columns\]"):
        map_overlap(b[0], b[0])


def test_a_lone_area_is_its_own_mean():
    assert area_under(np.array([0.5]), np.array([[0.25]])) == 0.25


def test_joint_intervals_are_those_of_each_mean():
    values = np.random.default_rng(0).exponential(size=(300, 2))
    values[:10, 1] = np.nan
    means, lows, highs = bootstrap_columns(values, resamples=4000)
    for k in range(2):
        kept = values[~np.isnan(values[:, k]), k]
        low, high = bootstrap_mean(kept, resamples=4000)
        assert np.isclose(means[k], kept.mean())
        assert np.allclose([lows[k], highs[k]], [low, high], atol=0.03 * (high - low) + 0.004)
    assert np.isnan(bootstrap_columns(np.full((3, 1), np.nan))).all()
