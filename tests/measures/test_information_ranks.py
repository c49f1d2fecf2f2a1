"""Mutual information on two processes: each counts its own images, and what they merge to is that of one array."""

import multiprocessing as mp

import numpy as np
import pytest
import torch

from kdscope.measures import MEASURES

NAMES = ("mutual-information", "soft-mutual-information")


def answers(n=600, classes=8):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, classes, n)
    teacher = rng.normal(size=(n, classes)) + 3 * np.eye(classes)[labels]
    return teacher, 0.7 * teacher + rng.normal(size=(n, classes)), labels


def _rank(rank, path, out):
    torch.set_num_threads(1)  # a forked process has none of its parent's OpenMP threads, and would wait for them
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    values = []
    for name in NAMES:
        state, states = MEASURES[name]().update(*(part[rank::2] for part in answers())), [None] * 2
        torch.distributed.all_gather_object(states, state)
        values.append(states[0].merge(states[1]).compute().value)
    if rank == 1:
        out.put(values)
    torch.distributed.destroy_process_group()


def test_two_ranks(tmp_path):
    context = mp.get_context("fork")
    out = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, tmp_path / "store", out), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    values = out.get(timeout=60)
    for process in ranks:
        process.join()
    for name, value in zip(NAMES, values, strict=True):
        assert value == pytest.approx(MEASURES[name]().update(*answers()).compute().value, rel=1e-12)
