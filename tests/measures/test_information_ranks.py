"""Mutual information on two processes: each counts its own images, and what they merge to is that of one array."""

import numpy as np
import pytest
import torch
from processes import on_two_ranks

from kdscope.measures import MEASURES

NAMES = ("mutual-information", "soft-mutual-information")


def answers(n=600, classes=8):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, classes, n)
    teacher = rng.normal(size=(n, classes)) + 3 * np.eye(classes)[labels]
    return teacher, 0.7 * teacher + rng.normal(size=(n, classes)), labels


def test_two_ranks(tmp_path):
    def work(rank):
        values = []
        for name in NAMES:
            state, states = MEASURES[name]().update(*(part[rank::2] for part in answers())), [None] * 2
            torch.distributed.all_gather_object(states, state)
            values.append(states[0].merge(states[1]).compute().value)
        return values

    for name, value in zip(NAMES, on_two_ranks(work, tmp_path), strict=True):
        assert value == pytest.approx(MEASURES[name]().update(*answers()).compute().value, rel=1e-12)
