"""Samplers: what a batch of classes holds, the same on every rank and after a resume; the least size of a batch."""

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kdscope
from kdscope.data import Batches, Split
from kdscope.data.samplers import order
from kdscope.errors import KDScopeError
from kdscope.training.session import Session

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def split(labels) -> Split:
    return Split("train", torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.as_tensor(labels))


def seen(batches: Batches, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches.epoch(epoch, start)]


def groups(labels, part, each):
    """The classes of the groups of `each` images that a batch consists of, one group after another."""
    rows = torch.as_tensor(labels)[part].view(-1, each)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0].tolist()


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.integers(4, 9), st.integers(20, 80))
@settings(max_examples=50, deadline=None)
def test_batches_are_whole_groups_of_different_classes(seed, each, per_batch, classes, count):
    labels = torch.cat([torch.arange(classes), torch.randint(0, classes, (count,))]) * 3  # labels with gaps
    parts = order(f"class:{each}", labels, per_batch * each, seed, 2)
    assert len(parts) == max(1, len(labels) // (per_batch * each))
    for part in parts:
        chosen = groups(labels, part, each)
        assert len(set(chosen)) == per_batch
        if int(torch.bincount(labels)[chosen].min()) >= each:
            assert len(part.unique()) == len(part)


def test_classes_are_equally_often_there_whatever_their_sizes():
    labels = torch.tensor([0] * 500 + [1] * 50 + [2] * 5 + [3] * 45)
    times = Counter(chain(*(groups(labels, part, 5) for part in order("class:5", labels, 10, 0, 0))))
    assert times == {0: 30, 1: 30, 2: 30, 3: 30}


def test_a_balanced_epoch_shows_each_image_once():
    labels = torch.arange(240) % 12
    parts = order("class:4", labels, 24, seed=1, epoch=3)
    assert sorted(torch.cat(parts).tolist()) == list(range(240))


def test_no_image_of_a_class_comes_twice_before_all_have():
    labels = torch.tensor([0] * 7 + [1] * 93)
    shown = torch.cat(order("class:3", labels, 6, 0, 0))
    times = torch.bincount(shown, minlength=100)
    assert times[:7].max() - times[:7].min() == 1  # 16 groups of 3: 48 images of 7
    assert times[7:].max() == 1


def test_batches_are_a_function_of_seed_and_epoch():
    labels = torch.arange(60) % 6

    def flat(seed, epoch):
        return torch.cat(order("class:2", labels, 8, seed, epoch)).tolist()

    assert flat(0, 0) == flat(0, 0)
    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)


def test_a_resumed_epoch_is_its_tail_and_ranks_share_the_batches():
    data = split(torch.arange(100) % 10)
    options = {"batch_size": 16, "shuffle": True, "seed": 3, "sampler": "class:4"}
    alone = Batches(data, STATISTICS, **options)
    whole = seen(alone, 5)
    assert len(whole) == len(alone) == 6
    assert seen(alone, 5, start=4) == whole[4:]
    ranks = [Batches(data, STATISTICS, rank=rank, world_size=2, **options) for rank in (0, 1)]
    assert [first + second for first, second in zip(*(seen(rank, 5) for rank in ranks), strict=True)] == whole
    for rank in ranks:
        assert all(len(groups(data.labels, torch.tensor(part), 4)) == 2 for part in seen(rank, 5))


def test_evaluation_goes_through_all_images_whatever_the_sampler():
    data = split(torch.arange(10) % 2)
    assert list(chain(*seen(Batches(data, STATISTICS, batch_size=3, sampler="class:2")))) == list(range(10))


@pytest.mark.parametrize(("least", "sizes"), [(1, [4, 4, 2]), (2, [4, 4, 2]), (3, [4, 4])])
def test_a_last_batch_that_is_too_small_is_left_out(least, sizes):
    batches = Batches(split(torch.zeros(10).long()), STATISTICS, batch_size=4, shuffle=True, least=least)
    assert [len(part) for part in seen(batches)] == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize(("least", "sizes"), [(1, [4, 4, 1]), (2, [4, 4])])
def test_the_least_size_is_that_of_each_rank(least, sizes):
    options = {"batch_size": 8, "shuffle": True, "least": least, "world_size": 2}
    for rank in (0, 1):
        batches = Batches(split(torch.zeros(19).long()), STATISTICS, rank=rank, **options)
        assert [len(part) for part in seen(batches)] == sizes
        assert len(batches) == len(sizes)


def test_evaluation_leaves_nothing_out():
    batches = Batches(split(torch.zeros(10).long()), STATISTICS, batch_size=4, least=4)
    assert [len(part) for part in seen(batches)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "clas:4"}, "unknown sampler 'clas:4'; nearest: class:K"),
        ({"sampler": "class"}, "write uniform, or class:K"),
        ({"sampler": "class:0"}, "write uniform, or class:K"),
        ({"sampler": "uniform:2"}, "write uniform, or class:K"),
        ({"sampler": "class:3"}, "needs whole groups of 3 images; 16 are none"),
        ({"sampler": "class:4", "world_size": 8}, "whole groups of 4 images on each of 8 processes; 16 are none"),
        ({"sampler": "class:2"}, "puts 8 classes into a batch of 16, and there are 5; try class:4"),
    ],
)
def test_refused(options, message):
    with pytest.raises(KDScopeError, match=message):
        Batches(split(torch.arange(40) % 5), STATISTICS, **({"batch_size": 16, "shuffle": True} | options))


class Enough(Exception):
    pass


def test_a_run_is_trained_on_batches_of_classes(tmp_path, monkeypatch):
    def look(session, batch, rate):
        raise Enough(Counter(batch.label.tolist()))

    monkeypatch.setattr(Session, "step", look)
    with pytest.raises(Enough) as found:
        kdscope.train(tmp_path / "run", data="digits:8", batch_size=80, **{"data.sampler": "class:16"})
    assert list(found.value.args[0].values()) == [16] * 5


def test_a_sampler_that_does_not_fit_the_data_leaves_no_run_behind(tmp_path):
    with pytest.raises(KDScopeError, match="puts 40 classes into a batch of 80, and there are 10; try class:8"):
        kdscope.train(tmp_path / "run", data="digits:8", batch_size=80, **{"data.sampler": "class:2"})
    assert not (tmp_path / "run").exists()
