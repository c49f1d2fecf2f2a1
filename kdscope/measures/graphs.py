"""What a graph of a batch looks at: numbers about attention weights G [A, N, N] of A heads, each row a distribution.

The graphs are those of MHGD (Lee & Song, BMVC 2019); the numbers are for its controls. A graph that attends to every
image alike has the class's share of the batch as same-class mass, 1 / N as identity mass and ln N as entropy.
"""

import numpy as np

from kdscope.errors import KDScopeError

SATURATED = 0.99  # of |tanh|: no gradient to speak of gets through


def scores(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """S [A, N, N] of keys and queries [N, A, D], in float64: S[a, i, j] = key_i . query_j."""
    return np.einsum("iad,jad->aij", keys.astype(np.float64), queries.astype(np.float64), optimize=True)


def log_graph(bounded: np.ndarray) -> np.ndarray:
    """ln G of bounded scores [A, N, N]: the logarithm of their softmax over the last axis.

    >>> np.exp(log_graph(np.zeros((1, 2, 2)))).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """
    shifted = bounded - bounded.max(axis=2, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))


def same_class_mass(logs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much of each image's attention goes to images of its class, itself included: [A, N], in [0, 1].

    >>> same_class_mass(np.log(np.full((1, 4, 4), 0.25)), np.array([0, 0, 0, 1]))
    array([[0.75, 0.75, 0.75, 0.25]])
    """
    return (np.exp(logs) * (labels[:, None] == labels)).sum(axis=2)


def identity_mass(logs: np.ndarray) -> np.ndarray:
    """How much of each image's attention goes to itself: [A, N], in [0, 1]."""
    return np.exp(np.diagonal(logs, axis1=1, axis2=2))


def row_entropy(logs: np.ndarray) -> np.ndarray:
    """Entropy of each image's attention: [A, N], nat, in [0, ln N]."""
    graph = np.exp(logs)
    return -(graph * np.where(graph > 0, logs, 0.0)).sum(axis=2)


def divergence(logs: np.ndarray, of: np.ndarray) -> np.ndarray:
    """KL(G || G') of each image's attention [A, N], nat: what MHGD draws to 0, the student's graph G, the teacher's G'.

    >>> float(divergence(np.log(np.full((1, 1, 2), 0.5)), np.log(np.array([[[0.8808, 0.1192]]])))[0, 0].round(4))
    0.4338
    """
    graph = np.exp(logs)
    return (graph * (np.where(graph > 0, logs, 0.0) - np.where(graph > 0, of, 0.0))).sum(axis=2)


def head_correlation(logs: np.ndarray) -> float:
    """Mean Pearson correlation of the weights of two different heads, in [-1, 1]; NaN for one head, or constant ones.

    >>> head_correlation(np.log(np.array([[[0.2, 0.8], [0.6, 0.4]]] * 2))).__round__(6)
    1.0
    """
    if logs.ndim != 3:
        raise KDScopeError(f"graphs are [heads, N, N], not {list(logs.shape)}")
    flat = np.exp(logs).reshape(len(logs), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1)
    if len(flat) < 2 or (length <= 1e-12).any():
        return float("nan")
    found = (flat / length[:, None]) @ (flat / length[:, None]).T
    return float(found[np.triu_indices(len(found), 1)].mean())
