"""The orbit of crop and flip: all views, numbered, and the very pixels that training shows."""

import pytest
import torch

from kdscope.data import Batches, Split
from kdscope.data.orbit import count_views, nth_view, view_number
from kdscope.errors import KDScopeError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
IMAGES = torch.randint(1, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BATCHES = Batches(Split("train", IMAGES, torch.arange(7)), (MEAN, STD), augment="standard", batch_size=7, shuffle=True)
EVERY = torch.arange(162)


def test_there_are_162_distinct_views_and_number_80_is_the_image():
    shown = BATCHES.shown(torch.full((162,), 3), nth_view("standard", EVERY))
    assert count_views("standard") == len(shown.image.flatten(1).unique(dim=0)) == 162
    assert torch.equal(view_number(shown.view), EVERY)
    drawn = {name: value[80].item() for name, value in shown.view.parameters.items()}
    assert drawn == {"dy": 4, "dx": 4, "flip": False}
    plain = Batches(BATCHES.split, (MEAN, STD), batch_size=7).batch(torch.tensor([3]))
    assert torch.equal(shown.image[80], plain.image[0])
    assert torch.equal(shown.image[81], plain.image[0].flip(-1))
    assert plain.view.augment == "none"
    assert view_number(plain.view).tolist() == [0]


def test_the_margin_is_black_before_normalisation():
    corner = BATCHES.shown(torch.tensor([0]), nth_view("standard", torch.tensor([0]))).image[0]
    expected = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(corner[:, :4, :].flatten(1), expected[:, None].expand(3, 64))
    assert (corner[:, 4:, 4:] > expected[:, None, None]).all()


def test_every_view_of_an_epoch_is_one_of_them():
    for batch in (*BATCHES.epoch(0), *BATCHES.epoch(5)):
        again = BATCHES.shown(batch.view.index, nth_view("standard", view_number(batch.view)))
        assert torch.equal(again.image, batch.image)
        assert torch.equal(again.label, batch.label)
        assert again.view.epoch == -1


def test_streamed_views_are_the_resident_ones():
    streamed = Batches(BATCHES.split, (MEAN, STD), augment="standard", memory_budget=0, batch_size=7)
    assert streamed.streams
    assert not BATCHES.streams
    index, parameters = torch.tensor([6, 0, 2]), nth_view("standard", torch.tensor([161, 17, 80]))
    assert torch.equal(streamed.shown(index, parameters).image, BATCHES.shown(index, parameters).image)


def test_what_cannot_be_shown():
    with pytest.raises(KDScopeError, match=r"'strong' makes too many views .* use standard or none"):
        count_views("strong")
    with pytest.raises(KDScopeError, match="has views 0 to 161"):
        nth_view("standard", torch.tensor([162]))
    outside = nth_view("standard", torch.tensor([5])) | {"dy": torch.tensor([9])}
    with pytest.raises(KDScopeError, match="has dy from 0 to 8"):
        BATCHES.shown(torch.tensor([0]), outside)
    with pytest.raises(KDScopeError, match="index 7 is outside"):
        BATCHES.shown(torch.tensor([7]), nth_view("standard", torch.tensor([5])))
