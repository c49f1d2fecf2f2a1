import numpy as np
import pytest

from kdscope.errors import KDScopeError
from kdscope.measures.map_truth import energy_inside, mask_share, pointing_game


def scene(n=2000, side=8):
    rng = np.random.default_rng(0)
    masks = np.zeros((n, 4 * side, 4 * side), bool)
    for k in range(n):
        y, x = rng.integers(0, 2 * side, 2)
        masks[k, y : y + 2 * side, x : x + 2 * side] = True
    return rng.uniform(size=(n, side, side)), masks


def test_a_map_that_knows_nothing_scores_the_masks_share():
    maps, masks = scene()
    assert abs(pointing_game(maps, masks).mean() - mask_share(masks).mean()) < 0.03
    assert abs(energy_inside(maps, masks).mean() - mask_share(masks).mean()) < 0.01


def test_the_mask_itself_is_all_inside():
    _, masks = scene(50)
    assert np.array_equal(energy_inside(masks, masks), np.ones(50))
    assert np.array_equal(pointing_game(masks, masks), np.ones(50))


def test_flat_maps_and_empty_masks_do_not_count():
    maps, masks = scene(4)
    maps[0], masks[1] = 1.0, False
    maps[2] = -maps[2]
    assert np.isnan(pointing_game(maps, masks)).tolist() == [True, True, False, False]
    assert np.isnan(energy_inside(maps, masks)).tolist() == [True, True, True, False]
    assert np.isnan(mask_share(masks)).tolist() == [False, True, False, False]


def test_masks_of_other_images_are_refused():
    maps, masks = scene(4)
    with pytest.raises(KDScopeError, match="do not fit"):
        pointing_game(maps, masks[:3])
