"""Numbers about templates: how often each is used, how pure in classes, and what purity is worth by chance."""

import math

import numpy as np


def table_of(codes: np.ndarray, labels: np.ndarray, templates: int, classes: int) -> np.ndarray:
    """How many places of images of each class each template has: int64 [K, C].

    Args:
        codes: int [N, P], the template of each place; -1 for none. labels: int [N].

    >>> table_of(np.array([[0, 1], [1, -1]]), np.array([0, 1]), 2, 2).tolist()
    [[1, 0], [1, 1]]
    """
    pairs = codes.astype(np.int64) * classes + labels[:, None]
    return np.bincount(pairs[codes >= 0], minlength=templates * classes).reshape(templates, classes)


def purity(table: np.ndarray) -> np.ndarray:
    """Of each template the share of its places that are of its commonest class, [K]; NaN of one without places.

    >>> purity(np.array([[3, 1], [2, 2], [0, 0]])).tolist()
    [0.75, 0.5, nan]
    """
    total = table.sum(1)
    return np.divide(table.max(1), total, out=np.full(len(table), np.nan), where=total > 0)


def hits(codes: np.ndarray, labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Of each image the share of its places, of those with a template, whose template's commonest class is its own [N];
    weighted by places, their mean is the purity of all templates, weighted by use."""
    best = table.argmax(1)
    there = codes >= 0
    right = (best[np.where(there, codes, 0)] == labels[:, None]) & there
    places = there.sum(1)
    return np.divide(right.sum(1), places, out=np.full(len(codes), np.nan), where=places > 0)


def perplexity(table: np.ndarray) -> float:
    """exp of the entropy of use: how many templates, if all were used alike; NaN of none.

    >>> round(perplexity(np.array([[1, 1], [2, 0], [0, 0]])), 6)
    2.0
    """
    use = table.sum(1)[table.sum(1) > 0] / max(1, table.sum())
    return float(np.exp(-(use * np.log(use)).sum())) if len(use) else math.nan


def null_purity(
    codes: np.ndarray, labels: np.ndarray, templates: int, classes: int, draws: int = 20, seed: int = 0
) -> tuple[np.ndarray, float]:
    """Purity when the images' labels are shuffled: of each template [K], and of all weighted by use; means over draws.

    Rarely used templates are pure by chance, and so are places of one image: both keep in a shuffle of images.
    """
    rng = np.random.default_rng(seed)
    each, whole = [], []
    for _ in range(draws):
        table = table_of(codes, rng.permutation(labels), templates, classes)
        each.append(purity(table))
        whole.append(table.max(1).sum() / max(1, table.sum()))
    return np.mean(each, axis=0), float(np.mean(whole))
