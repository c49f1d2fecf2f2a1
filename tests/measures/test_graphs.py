"""Numbers about attention graphs: what they are for graphs that are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdscope.errors import KDScopeError
from kdscope.measures.graphs import (
    divergence,
    head_correlation,
    identity_mass,
    log_graph,
    row_entropy,
    same_class_mass,
    scores,
)

LABELS = np.array([0, 1, 0, 2, 0, 1])
N = len(LABELS)


def drawn(seed, heads=3, n=N, scale=1.0):
    return log_graph(scale * np.random.default_rng(seed).normal(size=(heads, n, n)))


def test_a_graph_of_images_that_see_themselves_alone():
    logs = log_graph(1000 * np.eye(N)[None])
    assert identity_mass(logs) == pytest.approx(np.ones((1, N)))
    assert same_class_mass(logs, LABELS) == pytest.approx(np.ones((1, N)))
    assert row_entropy(logs) == pytest.approx(np.zeros((1, N)), abs=1e-12)
    assert divergence(logs, log_graph(np.zeros((1, N, N)))) == pytest.approx(np.full((1, N), math.log(N)))


def test_a_bounded_graph_cannot_be_the_identity():
    """softmax(tanh): at the most e / (e + (N - 1) / e) of the attention is on one image."""
    logs = log_graph(np.tanh(1000 * (2 * np.eye(128)[None] - 1)))
    assert identity_mass(logs) == pytest.approx(np.full((1, 128), math.e / (math.e + 127 / math.e)))
    assert identity_mass(logs)[0, 0] == pytest.approx(0.0549826, abs=1e-6)


def test_a_graph_that_sees_all_images_alike():
    logs = log_graph(np.full((2, N, N), 7.0))
    share = np.array([3, 2, 3, 1, 3, 2]) / N  # of each image's class among the six
    assert same_class_mass(logs, LABELS) == pytest.approx(np.stack([share, share]))
    assert identity_mass(logs) == pytest.approx(np.full((2, N), 1 / N))
    assert row_entropy(logs) == pytest.approx(np.full((2, N), math.log(N)))
    assert math.isnan(head_correlation(logs))


def test_a_graph_that_sees_the_class_alone():
    logs = log_graph(1000.0 * (LABELS[:, None] == LABELS)[None])
    assert same_class_mass(logs, LABELS) == pytest.approx(np.ones((1, N)))
    assert identity_mass(logs)[0] == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2])


@given(st.integers(0, 10**6))
def test_graphs_do_not_depend_on_the_order_of_the_images(seed):
    logs, other = drawn(seed), drawn(seed + 1)
    order = np.random.default_rng(seed).permutation(N)
    moved, beside = (each[:, order][:, :, order] for each in (logs, other))
    assert same_class_mass(moved, LABELS[order]) == pytest.approx(same_class_mass(logs, LABELS)[:, order])
    assert identity_mass(moved) == pytest.approx(identity_mass(logs)[:, order])
    assert row_entropy(moved) == pytest.approx(row_entropy(logs)[:, order])
    assert divergence(moved, beside) == pytest.approx(divergence(logs, other)[:, order])
    assert head_correlation(moved) == pytest.approx(head_correlation(logs))
    assert divergence(logs, logs) == pytest.approx(np.zeros((3, N)))
    assert (divergence(logs, other) > 0).all()


def test_heads_that_agree_and_heads_that_do_not():
    one = np.exp(drawn(0, heads=1))
    even = np.full_like(one, 1 / N)
    opposite = 2 * even - one  # rows of one again
    assert head_correlation(np.log(np.concatenate([one, one]))) == pytest.approx(1)
    pair = np.concatenate([one, np.clip(opposite, 1e-12, None)])
    expected = np.corrcoef(pair.reshape(2, -1))[0, 1]
    assert head_correlation(np.log(pair)) == pytest.approx(expected)
    three = drawn(1)
    expected = np.corrcoef(np.exp(three).reshape(3, -1))[np.triu_indices(3, 1)].mean()
    assert head_correlation(three) == pytest.approx(expected)
    assert math.isnan(head_correlation(drawn(0, heads=1)))
    with pytest.raises(KDScopeError, match=r"graphs are \[heads, N, N\], not \[2, 2\]"):
        head_correlation(np.zeros((2, 2)))


def test_scores_are_products_of_keys_and_queries():
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(2, N, 3, 4)).astype(np.float32)
    found = scores(keys, queries)
    assert found.shape == (3, N, N)
    assert found.dtype == np.float64
    assert found[2, 4, 1] == pytest.approx(float(keys[4, 2].astype(float) @ queries[1, 2].astype(float)))
