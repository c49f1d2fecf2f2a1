"""A surrogate mask: as smooth as its map, and of it in no other way."""

import torch

from kdscope.attention.imputation import blur
from kdscope.attention.intervention import ranks
from kdscope.attention.surrogate import smooth_surrogate


def likeness(maps, down, across):
    """Mean correlation of the ranks of cells that lie so far apart."""
    place = ranks(maps)
    place = place - place.mean((1, 2), keepdim=True)
    height, width = place.shape[1:]
    one, other = place[:, : height - down, : width - across], place[:, down:, across:]
    return float(((one * other).mean((1, 2)) / place.square().mean((1, 2))).mean())


def test_as_smooth_as_the_map_at_every_distance_and_no_nearer_to_it_than_chance():
    generator = torch.Generator().manual_seed(0)
    for side, sigma in ((16, 0.5), (16, 1.5), (8, 0.8)):
        maps = blur(torch.randn(400, 1, side, side, generator=generator), sigma)[:, 0].exp()
        found = smooth_surrogate(maps, torch.rand(400, 2 * side, 2 * side, generator=generator))
        for step in ((0, 1), (1, 0), (0, 2), (1, 1), (2, 2)):
            assert abs(likeness(found, *step) - likeness(maps, *step)) < 0.06
        rough = torch.rand(400, side, side, generator=generator)
        assert abs(likeness(rough, 0, 1)) < 0.05 < likeness(maps, 0, 1)
        both = torch.stack([ranks(maps).flatten(1), ranks(found).flatten(1)]) - 0.5
        assert abs(float((both[0] * both[1]).mean() * 12)) < 0.03


def test_a_monotone_change_of_the_map_and_its_batch_change_nothing():
    generator = torch.Generator().manual_seed(1)
    maps, noise = torch.randn(3, 5, 7, generator=generator), torch.rand(3, 10, 14, generator=generator)
    found = smooth_surrogate(maps, noise)
    assert torch.equal(found, smooth_surrogate(maps.exp() - 2, noise))
    assert torch.allclose(found[1:2], smooth_surrogate(maps[1:2], noise[1:2]), atol=1e-6)
    assert torch.isfinite(smooth_surrogate(torch.zeros(1, 4, 4), torch.rand(1, 8, 8))).all()
