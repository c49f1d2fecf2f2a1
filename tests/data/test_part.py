"""Parts of a training set: disjoint, complete, even in each class, and refused where they are none."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdscope.data import load
from kdscope.data.part import part_of
from kdscope.errors import KDScopeError


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 7))
def test_parts_are_disjoint_complete_and_even_in_each_class(labels, parts):
    labels = torch.tensor(labels)
    rows = [part_of(labels, k, parts) for k in range(1, parts + 1)]
    assert torch.cat(rows).sort().values.tolist() == list(range(len(labels)))
    for label in labels.unique():
        counts = [int((labels[part] == label).sum()) for part in rows]
        assert max(counts) - min(counts) <= 1


def test_halves_of_a_dataset_share_all_but_the_training_images():
    whole, first, second = (load(name) for name in ("digits:8", "part:1/2:digits:8", "part:2/2:digits:8"))
    assert len(first.train) + len(second.train) == len(whole.train)
    assert torch.equal(first.test.images, whole.test.images)
    assert (first.mean, first.std, first.classes) == (whole.mean, whole.std, whole.classes)
    rows = part_of(whole.train.labels, 2, 2)
    assert torch.equal(second.train.images, whole.train.images[rows])
    assert len({first.fingerprint, second.fingerprint, whole.fingerprint}) == 3


@pytest.mark.parametrize("name", ["part", "part:1/2", "part:3/2:digits", "part:0/2:digits", "part:1:digits"])
def test_what_is_no_part_gets_one_line(name):
    with pytest.raises(KDScopeError, match=f"dataset '{name}' is not understood; write part:K/N:NAME"):
        load(name)


def test_an_empty_part_gets_one_line():
    with pytest.raises(KDScopeError, match="has no image"):
        load("part:999/999:digits:8")
