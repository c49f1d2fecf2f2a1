"""Batches: what each holds, which images each rank sees, the same bits resident, streamed, resumed and made again."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.data import Batches, Split
from kdscope.data.batches import normalise
from kdscope.data.geometry import windows
from kdscope.errors import KDScopeError

STATISTICS = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
EVERY = ["none", "standard", "weak", "strong", "randaugment:9"]


def split(count: int = 100, height: int = 16, width: int = 16) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return Split("train", images, torch.randint(0, 10, (count,), generator=generator))


def seen(batches: Batches, epoch: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches.epoch(epoch)]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


def test_normalisation_is_the_closed_form():
    images = split().images
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in STATISTICS)
    expected = (images.double() / 255 - mean) / std
    torch.testing.assert_close(normalise(images, *STATISTICS).double(), expected, atol=1e-6, rtol=0)


def test_plain_batches_are_the_images_in_order():
    data = split()
    batches = Batches(data, STATISTICS, batch_size=32)
    parts = list(batches.epoch())
    assert [len(part.label) for part in parts] == [32, 32, 32, 4]
    assert len(batches) == 4
    assert torch.equal(torch.cat([part.index for part in parts]), torch.arange(100))
    assert torch.equal(torch.cat([part.label for part in parts]), data.labels)
    assert torch.equal(torch.cat([part.image for part in parts]), normalise(data.images, *STATISTICS))


@given(st.integers(1, 4), st.integers(3, 12), st.integers(3, 12), st.integers(0, 5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_windows_equal_slices(channels, height, width, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (6, channels, height + 2 * margin, width + 2 * margin)
    store = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    index = torch.randint(0, 6, (9,), generator=generator)
    dy, dx = torch.randint(0, 2 * margin + 1, (2, 9), generator=generator)
    found = windows(store, index, dy, dx, height, width)
    for row, (image, y, x) in enumerate(zip(index.tolist(), dy.tolist(), dx.tolist(), strict=True)):
        assert torch.equal(found[row], store[image, :, y : y + height, x : x + width])


def test_standard_equals_pad_slice_and_flip_of_each_image():
    data = split(height=12, width=20)
    batch = next(Batches(data, STATISTICS, augment="standard", batch_size=100, shuffle=True, seed=7).epoch(3))
    drawn = batch.view.parameters
    for row, image in enumerate(batch.index.tolist()):
        padded = torch.nn.functional.pad(data.images[image], (4, 4, 4, 4))
        y, x = int(drawn["dy"][row]), int(drawn["dx"][row])
        window = padded[:, y : y + 12, x : x + 20]
        window = window.flip(-1) if drawn["flip"][row] else window
        assert torch.equal(batch.image[row], normalise(window[None], *STATISTICS)[0])


def test_crops_and_flips_are_uniform():
    views = Batches(split(20_000, 4, 4), STATISTICS, augment="standard", batch_size=20_000)
    drawn = next(views.epoch()).view.parameters
    for name in ("dy", "dx"):
        counts = torch.bincount(drawn[name], minlength=9)
        assert (counts - 20_000 / 9).abs().max() < 5 * (20_000 / 9) ** 0.5
    assert abs(drawn["flip"].double().mean() - 0.5) < 0.02


@pytest.mark.parametrize("augment", EVERY)
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_the_resident_ones(augment, workers):
    options = {"augment": augment, "batch_size": 32, "shuffle": True, "seed": 5, "workers": workers}
    resident = Batches(split(), STATISTICS, **options)
    streamed = Batches(split(), STATISTICS, memory_budget=0, **options)
    assert (resident.streams, streamed.streams) == (False, True)
    pairs = list(zip(resident.epoch(2), streamed.epoch(2), strict=True))
    assert len(pairs) == 4
    assert all(same(*pair) for pair in pairs)
    index = torch.tensor([7, 3, 7])
    assert same(resident.batch(index, 4), streamed.batch(index, 4))


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_draws_nothing_from_the_global_generator(workers):
    """What a resumed epoch drew anew would be missing from the dropout of its second half."""
    batches = Batches(split(), STATISTICS, batch_size=32, shuffle=True, memory_budget=0, workers=workers)
    before = torch.get_rng_state()
    assert len(list(batches.epoch(0))) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", EVERY)
def test_every_view_can_be_made_again_in_any_company(augment):
    batches = Batches(split(), STATISTICS, augment=augment, batch_size=40, shuffle=True, seed=1)
    for batch in batches.epoch(6):
        again = batches.batch(batch.index.flip(0), batch.view.epoch)
        assert torch.equal(again.image.flip(0), batch.image)
        assert torch.equal(batches.batch(batch.index[:1], 6).image, batch.image[:1])
    assert batch.view.identity == {"augment": augment, "seed": 1, "epoch": 6}
    if augment != "none":
        assert not torch.equal(batches.batch(batch.index, 7).image, batch.image)
        assert not torch.equal(
            Batches(split(), STATISTICS, augment=augment, seed=2).batch(batch.index, 6).image, batch.image
        )


@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(0, 8), st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_epoch_resumed_is_its_tail(count, batch_size, shuffle, start, streams):
    budget = 0 if streams else 2**30
    batches = Batches(
        split(count, 4, 4),
        STATISTICS,
        augment="standard",
        batch_size=batch_size,
        shuffle=shuffle,
        memory_budget=budget,
        workers=0,
    )
    whole = list(batches.epoch(3))
    assert len(whole) == len(batches)
    tail = list(batches.epoch(3, start=start))
    assert len(tail) == max(0, len(whole) - start)
    assert all(same(*pair) for pair in zip(tail, whole[start:], strict=True))


@given(st.integers(1, 70), st.integers(1, 8), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_ranks_share_the_global_batches(count, share, world):
    data = split(count, 4, 4)
    alone = seen(Batches(data, STATISTICS, batch_size=share * world, shuffle=True), 2)
    ranks = [
        Batches(data, STATISTICS, batch_size=share * world, shuffle=True, rank=rank, world_size=world)
        for rank in range(world)
    ]
    parts = [seen(rank, 2) for rank in ranks]
    assert {len(part) for part in parts} == {len(rank) for rank in ranks}
    together = [list(chain(*pieces)) for pieces in zip(*parts, strict=True)]
    expected = [batch[: len(batch) // world * world] for batch in alone]
    assert together == [batch for batch in expected if batch]


@given(st.integers(1, 70), st.integers(1, 30), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_without_shuffling_ranks_cover_each_image_once(count, batch_size, world):
    data = split(count, 4, 4)
    ranks = [Batches(data, STATISTICS, batch_size=batch_size, rank=rank, world_size=world) for rank in range(world)]
    parts = [seen(rank) for rank in ranks]
    assert [len(part) for part in parts] == [len(rank) for rank in ranks]
    assert sorted(chain(*chain(*parts))) == list(range(count))


def test_views_do_not_depend_on_the_rank():
    data = split()
    options = {"augment": "strong", "batch_size": 20, "shuffle": True}
    alone = [batch.image for batch in Batches(data, STATISTICS, **options).epoch(1)]
    halves = [Batches(data, STATISTICS, rank=rank, world_size=2, **options).epoch(1) for rank in (0, 1)]
    for whole, first, second in zip(alone, *halves, strict=True):
        assert torch.equal(whole, torch.cat([first.image, second.image]))


def test_each_epoch_has_its_own_order():
    batches = Batches(split(), STATISTICS, batch_size=100, shuffle=True)
    assert seen(batches, 0) == seen(batches, 0)
    assert seen(batches, 0) != seen(batches, 1)


def test_channels_last_has_the_same_values():
    plain, other = (Batches(split(), STATISTICS, channels_last=last) for last in (False, True))
    first, second = next(plain.epoch()).image, next(other.epoch()).image
    assert second.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, second)


def test_the_split_is_never_changed():
    data = split()
    before = data.images.clone()
    for augment in EVERY:
        for budget in (0, 2**30):
            list(Batches(data, STATISTICS, augment=augment, memory_budget=budget, workers=0).epoch())
    assert torch.equal(data.images, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "standart"}, "unknown augmentation 'standart'; nearest: standard"),
        ({"augment": "randaugment:99"}, "level 0 to 30"),
        ({"augment": "randaugment:x"}, "level 0 to 30"),
        ({"augment": "randaugment"}, "write randaugment:VALUE"),
        ({"augment": "weak:3"}, "write weak"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 10, "shuffle": True, "world_size": 3}, "3 processes"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(KDScopeError, match=message):
        Batches(split(10, 4, 4), STATISTICS, **options)


def test_an_index_outside_is_refused():
    with pytest.raises(KDScopeError, match="index 10 is outside split 'train' of 10 images"):
        Batches(split(10, 4, 4), STATISTICS).batch(torch.tensor([0, 10]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augment", EVERY)
@pytest.mark.parametrize("budget", [0, 2**30])
def test_a_gpu_shows_the_same_pixels(augment, budget):
    options = {"augment": augment, "batch_size": 32, "shuffle": True, "memory_budget": budget}
    here = Batches(split(), STATISTICS, **options).epoch(1)
    there = Batches(split(), STATISTICS, device="cuda", **options).epoch(1)
    for first, second in zip(here, there, strict=True):
        assert second.image.is_cuda
        torch.testing.assert_close(first.image, second.image.cpu(), atol=1e-6, rtol=0)
        assert torch.equal(first.label, second.label.cpu())
