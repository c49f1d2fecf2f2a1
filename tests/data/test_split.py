"""Splits: fingerprints, the moments of pixels, and the part of train that is held out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.data.batches import Batches
from kdscope.data.split import Dataset, Split, hold_out, moments, stratified
from kdscope.errors import KDScopeError


def random_split(count: int = 200, classes: int = 4, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Split("train", images, torch.randint(0, classes, (count,), generator=generator))


def dataset(split: Split) -> Dataset:
    return Dataset(
        "random", split, Split("test", split.images, split.labels), None, tuple("abcd"), *moments(split.images)
    )


def test_moments_equal_float64():
    images = random_split().images
    pixels = images.double() / 255
    mean, std = moments(images)
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), pixels.mean((0, 2, 3)), atol=1e-14, rtol=0)
    expected = pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), expected, atol=1e-13, rtol=0)


def test_moments_of_one_colour_are_defined():
    assert moments(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)) == ((0.2, 0.2, 0.2), (1.0, 1.0, 1.0))


def test_fingerprint_is_of_the_content():
    split = random_split()
    assert split.fingerprint == Split("test", split.images.clone(), split.labels.clone()).fingerprint
    pixel = split.images.clone()
    pixel[-1, 2, 7, 7] ^= 1
    label = split.labels.clone()
    label[100] += 1
    others = [Split("train", pixel, split.labels), Split("train", split.images, label), random_split(199)]
    assert len({split.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert dataset(split).fingerprint != dataset(others[0]).fingerprint


@given(st.integers(0, 1000), st.floats(0.02, 0.9), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_held_out_part_is_stratified_and_of_the_size_asked_for(seed, fraction, classes):
    labels = torch.randint(0, classes, (150,), generator=torch.Generator().manual_seed(seed))
    held = stratified(labels, fraction, seed)
    assert held.sum() == round(150 * fraction)
    sizes, taken = torch.bincount(labels), torch.bincount(labels[held], minlength=int(labels.max()) + 1)
    assert ((taken - sizes * fraction).abs() < 1 + 1e-9).all()
    assert torch.equal(held, stratified(labels, fraction, seed))


def test_hold_out_cuts_train_in_two():
    whole = dataset(random_split())
    cut = hold_out(whole, 0.25, seed=3)
    assert (len(cut.train), len(cut.validation), cut.splits) == (150, 50, ("train", "validation", "test"))
    both = torch.cat([cut.train.images, cut.validation.images]).flatten(1)
    order = {row.numpy().tobytes() for row in whole.train.images.flatten(1)}
    assert {row.numpy().tobytes() for row in both} == order
    assert (cut.mean, cut.std) == (whole.mean, whole.std)
    assert not torch.equal(hold_out(whole, 0.25, seed=4).validation.images, cut.validation.images)
    assert hold_out(whole, 0.0) is whole


def test_a_part_of_a_split_copies_no_pixel():
    count, size = 200_000, 256  # 39 GB, were it copied
    images = torch.zeros(1, 3, size, size, dtype=torch.uint8).expand(count, 3, size, size)
    split = Split("train", images, torch.arange(count) % 10)
    cut = hold_out(Dataset("large", split, split, None, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3), 0.1)
    assert (len(cut.train), len(cut.validation), cut.image_size) == (180_000, 20_000, size)
    assert cut.train.stored.data_ptr() == cut.validation.stored.data_ptr() == images.data_ptr()
    assert cut.validation.shape == (20_000, 3, size, size)
    streamed = Batches(cut.validation, cut, batch_size=2, workers=0, memory_budget=2**20)
    assert streamed.streams
    assert next(streamed.epoch()).image.shape == (2, 3, size, size)
    assert cut.validation.fingerprint


def test_a_part_is_what_a_copy_of_it_would_be():
    whole, index = random_split(), torch.tensor([7, 3, 150, 3, 199])
    part = whole.subset(index, "validation")
    copy = Split("validation", whole.images[index], whole.labels[index])
    assert torch.equal(part.images, copy.images)
    assert torch.equal(part.read(torch.tensor([4, 0])), copy.images[[4, 0]])
    assert (part.shape, part.fingerprint) == (tuple(copy.images.shape), copy.fingerprint)
    assert torch.equal(part.subset(torch.tensor([2, 1])).images, copy.images[[2, 1]])
    chosen = torch.tensor([True, False, True, False, False])
    assert torch.equal(part.subset(chosen).images, copy.images[chosen])
    for budget in (0, 2**30):
        seen = list(Batches(part, ((0.5,) * 3, (0.5,) * 3), batch_size=2, memory_budget=budget).epoch())
        expected = list(Batches(copy, ((0.5,) * 3, (0.5,) * 3), batch_size=2).epoch())
        assert all(
            torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in zip(seen, expected, strict=True)
        )


@pytest.mark.parametrize("fraction", [1.5, 1.0, -0.1, float("nan"), 0.001, 0.999])
def test_fractions_that_make_no_sense(fraction):
    with pytest.raises(KDScopeError, match="validation="):
        hold_out(dataset(random_split(20)), fraction)


def test_unknown_split_names_the_nearest():
    with pytest.raises(KDScopeError, match=r"unknown split 'tset' in dataset random; nearest: test"):
        dataset(random_split()).split("tset")
    with pytest.raises(KDScopeError, match=r"validation=0\.1"):
        dataset(random_split()).split("validation")


def test_what_is_not_a_split_is_refused():
    with pytest.raises(KDScopeError, match=r"uint8 images \[N, 3, H, W\]"):
        Split("train", torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(KDScopeError, match="labels"):
        Split("train", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
