"""The views of Stanton et al.: what each does to an image, how often, and that any of them can be made again."""

import pytest
import torch
from torchvision.transforms import functional as TF

from kdscope.data import Batches, augmentation, load
from kdscope.data.chance import Chance
from kdscope.data.colour import hue
from kdscope.errors import KDScopeError

POLICIES = ("rotation:20", "vertical-flip", "jitter:0.2", "combined", "noise:0.2", "mixup")


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 12, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def raw(batches: Batches, batch) -> torch.Tensor:
    """Levels 0 to 255 of a batch."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (batches.mean, batches.std))
    return (255 * (batch.image * std + mean)).round()


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.05, 1 / 3, 0.5])
def test_hue_as_torchvision_turns_it(turn):
    images = pictures(20)
    images[0] = 77
    theirs = TF.adjust_hue(images, turn)
    ours = hue(images, torch.full((20,), turn))
    assert (ours.int() - theirs.int()).abs().max() <= 1  # theirs truncates
    assert torch.equal(ours[0], images[0])


@pytest.mark.parametrize("name", POLICIES)
def test_a_view_depends_on_seed_epoch_and_index_alone(name):
    digits = load("digits")
    batches = Batches(digits.train, digits, augment=name, batch_size=64, shuffle=True, seed=3)
    first = next(batches.epoch(5))
    again = batches.batch(first.index.flip(0), epoch=5)
    assert torch.equal(again.image.flip(0), first.image)
    assert not torch.equal(batches.batch(first.index, epoch=6).image, first.image)
    streamed = Batches(
        digits.train, digits, augment=name, batch_size=64, shuffle=True, seed=3, memory_budget=0, workers=0
    )
    assert torch.equal(next(streamed.epoch(5)).image, first.image)


@pytest.mark.parametrize("name", POLICIES)
def test_crop_and_mirror_are_those_of_standard(name):
    chance = Chance(0, 0, torch.arange(40))
    plain, drawn = (augmentation(each).draw(chance, 12, 12) for each in ("standard", name))
    assert all(torch.equal(plain[key], drawn[key]) for key in ("dy", "dx", "flip"))


def test_upside_down_is_a_half_of_the_images():
    one = augmentation("vertical-flip")
    drawn = one.draw(Chance(0, 0, torch.arange(4000)), 12, 12)
    assert 0.47 < drawn["upside-down"].double().mean() < 0.53
    images, chosen = pictures(8), torch.arange(8) % 2 == 0
    seen = one.apply(images.clone(), {"flip": torch.zeros(8, dtype=torch.bool), "upside-down": chosen})
    assert torch.equal(seen[chosen], images[chosen].flip(-2))
    assert torch.equal(seen[~chosen], images[~chosen])


def test_rotation_and_jitter_stay_in_their_range():
    chance = Chance(0, 0, torch.arange(4000))
    degrees = augmentation("rotation:20").draw(chance, 12, 12)["degrees"]
    assert 19 < degrees.max() <= 20
    assert -20 <= degrees.min() < -19
    drawn = augmentation("jitter:0.2").draw(chance, 12, 12)
    for name, centre in {"brightness": 1, "contrast": 1, "colour": 1, "hue": 0}.items():
        assert 0.19 < (drawn[name] - centre).abs().max() <= 0.2, name


def test_noise_replaces_a_fifth_of_the_images_by_uniform_levels():
    one = augmentation("noise:0.2")
    drawn = one.draw(Chance(0, 0, torch.arange(4000)), 12, 12)
    assert 0.18 < drawn["noisy"].double().mean() < 0.22
    drawn["flip"][:] = False
    images = torch.full((4000, 3, 12, 12), 9, dtype=torch.uint8)
    seen = one.apply(images, drawn)
    assert (seen[~drawn["noisy"]] == 9).all()
    counts = torch.bincount(seen[drawn["noisy"]].flatten().long(), minlength=256).double()
    expected = counts.sum() / 256
    # Chi-squared with 255 degrees of freedom: below 345 with probability 1 - 1.5e-4.
    assert ((counts - expected) ** 2 / expected).sum() < 345


def test_mixup_is_the_weighted_mean_of_two_views_of_standard():
    digits = load("digits")
    mixed, plain = (
        Batches(digits.train, digits, augment=name, batch_size=64, seed=3) for name in ("mixup", "standard")
    )
    index = torch.arange(200)
    seen = mixed.batch(index, epoch=2)
    share, partner = seen.view.parameters["share"], seen.view.parameters["partner"]
    assert 0.5 <= share.min() < 0.51 < 0.99 < share.max() < 1
    a, b = (raw(plain, plain.batch(rows, epoch=2)).double() for rows in (index, partner))
    weight = share[:, None, None, None]
    assert (raw(mixed, seen) - (weight * a + (1 - weight) * b)).abs().max() <= 1
    assert torch.equal(seen.label, digits.train.labels[:200])


@pytest.mark.parametrize("name", ["rotation:0", "rotation:181", "jitter:0.6", "noise:x", "noise:1.5", "noise:nan"])
def test_strengths_out_of_range_get_one_line(name):
    with pytest.raises(KDScopeError, match=rf"augmentation '{name}' is out of range; give a number above 0, at most"):
        augmentation(name)
