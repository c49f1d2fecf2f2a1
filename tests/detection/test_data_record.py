"""Objects in flat arrays against plain loops over images."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.data.chance import permutation
from kdscope.detection.data import Objects, load
from kdscope.detection.data.record import hold_out
from kdscope.errors import KDScopeError


def made(counts):
    """Objects whose box says which image and which of it they are."""
    boxes = [torch.tensor([[i, k, i + 2, k + 3] for k in range(n)]).view(-1, 4) for i, n in enumerate(counts)]
    labels = [[1 + k % 3 for k in range(n)] for n in counts]
    return Objects.of(boxes, labels, [[k % 2 == 1 for k in range(n)] for n in counts])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_a_subset_is_what_a_loop_takes(counts, data):
    objects = made(counts)
    index = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10))
    some = objects.subset(torch.tensor(index, dtype=torch.int64))
    assert some.counts.tolist() == [counts[i] for i in index]
    assert some.boxes.tolist() == [[i, k, i + 2, k + 3] for i in index for k in range(counts[i])]
    assert some.image.tolist() == [place for place, i in enumerate(index) for _ in range(counts[i])]
    assert some.area.tolist() == [6.0] * len(some.labels)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), max_size=8))
def test_images_stay_when_their_objects_are_left_out(counts):
    objects = made(counts)
    single = objects.only(~objects.crowd)
    assert single.counts.tolist() == [(n + 1) // 2 for n in counts]
    assert single.boxes[:, 1].tolist() == [k for n in counts for k in range(0, n, 2)]
    assert single.offsets.dtype == torch.int64


@pytest.mark.parametrize(("empty", "what"), [(slice(0, 4), "it takes"), (slice(4, 8), "are left")])
def test_a_part_without_an_object_is_not_held_out(empty, what):
    """A crowd is none; what is scored on nothing has no score."""
    data = load("scenes:8:128:1")
    held = hold_out(data, 0.5)
    assert (len(held.train), len(held.validation)) == (4, 4)
    order = permutation(0, 0, 8)[empty]
    crowd = torch.isin(data.train.objects.image, order)
    train = replace(data.train, objects=replace(data.train.objects, crowd=crowd))
    with pytest.raises(KDScopeError, match=rf"validation=0.5: in the 4 training images of scenes:8:128:1 that {what} "):
        hold_out(replace(data, train=train), 0.5)


def test_splits_by_name_and_what_changes_a_fingerprint():
    data = load("scenes:6:128:3")
    assert data.splits == ("train", "test")
    assert data.split("test") is data.test
    with pytest.raises(KDScopeError, match=r"unknown split 'validation' .*hold one out with validation=0.1"):
        data.split("validation")
    objects = data.train.objects
    for name, change in {"boxes": 1.0, "labels": 1, "crowd": True}.items():
        parts = vars(objects) | {name: getattr(objects, name) + change}
        changed = type(data.train)("train", data.train.stored, Objects(**parts), data.train.image_ids)
        assert changed.fingerprint != data.train.fingerprint
    assert data.train.subset(torch.arange(6)).fingerprint == data.train.fingerprint
