"""The grids of the analyses: what is an object, how large it is, and what is neither object nor background."""

import numpy as np
import pytest
import torch
from made_up import BOXES, IMAGES, LABELS, SIDE, STRIDES, Memory, every_object, network, subject

from kdscope.analyses.cast import Party
from kdscope.analyses.detection_attention_pairs import gaps
from kdscope.analyses.detection_attention_truth import on_boxes
from kdscope.analyses.detection_maps import attention_of, grid_of
from kdscope.analyses.detection_views import Seen
from kdscope.detection.measures.feature_error import REGIONS
from kdscope.detection.stored import found_in, objects_in, sizes_in


def changed(**arrays) -> Memory:
    cache = network(every_object())
    return Memory({name: cache.array(name) for name in cache.names} | arrays, cache.identity)


def test_a_crowd_is_no_background():
    """A region that is ignored would pull the background's numbers: nobody says what is in it."""
    crowd = np.zeros((IMAGES, 3), dtype=np.uint8)
    crowd[:, 2] = 1  # the large one, x 8 to 68 and y 60 to 120
    cache = changed(**{"truth/crowd": crowd})
    grid = grid_of(cache, 8)
    assert (grid.region[:, 7:15, 1:9] == -1).all()
    assert (grid.region == -1).sum() == IMAGES * 8 * 8
    assert not (grid.region == REGIONS.index("large")).any()
    inside, valid = grid.objects("all")
    assert not (inside & ~valid).any()
    attention = attention_of(cache, 8, grid)
    assert (attention[grid.region == -1] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=(1, 2)), (16 * 16 - 8 * 8))


def sizes_on_the_grid(cache):
    """Which of the three objects, that share no cell, are small, medium and large on the grid of a stride."""
    region = grid_of(cache, 8).region
    middles = ((BOXES[:, :2] + BOXES[:, 2:]) / 2 // 8).astype(int)
    return np.array([[REGIONS[region[i, y, x]] for x, y in middles] for i in range(IMAGES)])


def sizes_in_ap(cache):
    """The same, by which range of average precision counts each."""
    seen = Seen(Party((subject("a", "a"),)), "network", cache, found_in(cache), objects_in(cache), sizes_in(cache))
    counted = {name: matches.counted.reshape(IMAGES, 3) for name, matches in seen.matches.items() if name != "all"}
    assert (np.sum(list(counted.values()), axis=0) == 1).all()
    return np.array(list(counted))[np.argmax(list(counted.values()), axis=0)]


def test_small_is_what_average_precision_calls_small():
    square = network(every_object())
    assert sizes_on_the_grid(square)[0].tolist() == ["small", "medium", "large"]
    assert (sizes_on_the_grid(square) == sizes_in_ap(square)).all()
    # Of all but generated scenes COCO's pixels count: stored larger, some by twice as much, they have other words.
    scale = np.where(np.arange(IMAGES) % 2, 2.5, 1.25)[:, None]
    boxes = (BOXES * scale[..., None]).astype(np.float32)
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).astype(np.float32)
    cache = changed(
        **{"truth/boxes": boxes, "truth/area": area, "frame/original": np.full((IMAGES, 2), SIDE * scale, dtype=int)}
    )
    cache.identity["dataset"] = "coco:photographs"
    assert sizes_on_the_grid(cache)[:2].tolist() == [["small", "medium", "medium"], ["medium", "medium", "large"]]
    assert (sizes_on_the_grid(cache) == sizes_in_ap(cache)).all()
    # A file may say that an object is smaller than its box: the area of its mask.
    thin = changed(**{"truth/area": np.full((IMAGES, 3), 300, dtype=np.float32)})
    assert (sizes_on_the_grid(thin) == "small").all()
    assert (sizes_in_ap(thin) == "small").all()
    assert torch.equal(objects_in(thin).labels, torch.from_numpy(np.tile(LABELS, IMAGES)))


def seen(factor, normalised, seed=0):
    """The attention of a network whose features are `factor` times as large, of images with padding and a crowd."""
    crowd = np.zeros((IMAGES, 3), dtype=np.uint8)
    crowd[0, 2] = 1
    rng = np.random.default_rng(seed)
    maps = {f"maps/attention/{s}": factor * rng.gamma(2.0, size=(IMAGES, SIDE // s, SIDE // s)) for s in STRIDES}
    cache = changed(**maps, **{"truth/crowd": crowd, "frame/size": np.tile([[SIDE, 96]], (IMAGES, 1))})
    grids = {stride: grid_of(cache, stride) for stride in STRIDES}
    return {s: attention_of(cache, s, grid, normalised=normalised) for s, grid in grids.items()}, grids


def scores(factor, normalised):
    """All that is said of a network's attention, and of that beside another network's, whose unit stays."""
    maps, grids = seen(factor, normalised)
    values = on_boxes(maps, grids) | gaps(seen(1.0, normalised, seed=1)[0], maps, grids)
    assert any(np.isfinite(each).all() for each in values.values())
    return values


@pytest.mark.parametrize("factor", [1e-3, 0.4, 6.0])
def test_the_unit_of_features_is_in_no_normalised_score(factor):
    one, other = (scores(k, True) for k in (1.0, factor))
    for cell, values in one.items():
        np.testing.assert_allclose(other[cell], values, rtol=1e-9, atol=1e-12, err_msg=str(cell))


def test_the_unit_of_features_is_in_energy_lift_and_gaps_and_not_in_ranks():
    one, other = (scores(k, False) for k in (1.0, 2.0))
    for cell, values in one.items():
        if cell.area != "all":
            continue
        same = np.allclose(other[cell], values, rtol=0.02)
        assert same == (cell.measure in ("auroc", "area-matched-iou", "attention-overlap")), cell


def test_normalised_attention_is_the_softmax_of_twice_the_relative_mean():
    maps, grids = seen(5.0, True)
    rng = np.random.default_rng(0)
    raw, valid = rng.gamma(2.0, size=(IMAGES, 16, 16)), grids[8].region != -1
    relative = np.where(valid, raw / raw[valid].mean(), -np.inf)  # padding and crowds are in no mean
    power = np.exp(relative / 0.5)
    expected = valid.sum((1, 2)) * (power / power.sum((1, 2), keepdims=True)).T
    np.testing.assert_allclose(maps[8], expected.T, rtol=1e-9)


def test_a_level_of_zeros_is_even():
    cache = changed(**{"maps/attention/8": np.zeros((IMAGES, 16, 16))})
    np.testing.assert_allclose(attention_of(cache, 8, grid_of(cache, 8), normalised=True), 1)
