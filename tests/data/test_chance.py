"""The counter-based random numbers: known bits, uniform, independent, of (seed, epoch, index, stream) alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.data.chance import Chance, _mix, bits, integers, permutation, uniform

MASK = (1 << 64) - 1


def splitmix(counter: int) -> int:
    """The finaliser of SplitMix64 in Python's unbounded integers."""
    counter = ((counter ^ (counter >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    counter = ((counter ^ (counter >> 27)) * 0x94D049BB133111EB) & MASK
    return counter ^ (counter >> 31)


@given(st.integers(0, MASK))
def test_mixer_equals_unbounded_integers(counter):
    word = torch.tensor([counter - (1 << 64) if counter >> 63 else counter])
    assert _mix(word).item() & MASK == splitmix(counter)


def test_uniform_moments_and_histogram():
    values = uniform(3, 5, torch.arange(200_000), "flip")
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 1 / 2) < 4 * (1 / 12 / 200_000) ** 0.5
    assert abs(values.var() - 1 / 12) < 0.001
    counts = torch.histc(values, 100, 0, 1)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert 50 < chi_square < 160  # 99 degrees of freedom: mean 99, standard deviation 14


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0, "flip"), (0, 0, "crop-x")),
        ((0, 0, "flip"), (0, 1, "flip")),
        ((0, 0, "flip"), (1, 0, "flip")),
        ((1, 0, "flip"), (0, 1, "flip")),
    ],
)
def test_seeds_epochs_and_streams_are_uncorrelated(first, second):
    index = torch.arange(100_000)
    pair = torch.stack([uniform(seed, epoch, index, stream) for seed, epoch, stream in (first, second)])
    assert abs(torch.corrcoef(pair)[0, 1]) < 4 / 100_000**0.5


def test_neighbouring_images_are_uncorrelated():
    values = uniform(0, 0, torch.arange(100_000), "flip")
    assert abs(torch.corrcoef(torch.stack([values[1:], values[:-1]]))[0, 1]) < 4 / 100_000**0.5


@given(st.integers(1, 2**31 - 1))
@settings(max_examples=30)
def test_integers_stay_in_range(count):
    values = integers(0, 0, torch.arange(1000), "policy", count)
    assert values.min() >= 0
    assert values.max() < count


def test_integers_are_uniform():
    counts = torch.bincount(integers(0, 0, torch.arange(90_000), "crop-x", 9), minlength=9)
    assert (counts - 10_000).abs().max() < 5 * 10_000**0.5


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30), st.integers(0, 29), st.integers(-(2**70), 2**70))
def test_any_batch_gives_the_numbers_of_the_whole(index, cut, seed):
    index = torch.tensor(index)
    whole = bits(seed, 2, index, "flip")
    assert torch.equal(whole, torch.cat([bits(seed, 2, part, "flip") for part in (index[:cut], index[cut:])]))
    assert torch.equal(whole.flip(0), bits(seed, 2, index.flip(0), "flip"))


def test_coins_fall_with_their_probability():
    assert Chance(0, 0, torch.arange(100_000)).coin("flip", 0.3).double().mean() == pytest.approx(0.3, abs=0.006)


def test_permutation_depends_on_seed_and_epoch_only():
    assert torch.equal(permutation(1, 2, 100), permutation(1, 2, 100))
    assert not torch.equal(permutation(1, 2, 100), permutation(1, 3, 100))
    assert not torch.equal(permutation(1, 2, 100), permutation(2, 2, 100))
    assert torch.equal(permutation(1, 2, 100).sort().values, torch.arange(100))
