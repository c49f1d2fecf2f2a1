"""How many images fall on each pair of classes, and what that says of mutual information: five estimators, in nats.

The plug-in estimate of independent labels is about (C - 1)^2 / 2n above zero: with 100 classes 0.57 nats at n = 10,000,
and 3.5 in a batch of 128. It is the jackknife that is unbiased to order 1/n at any dependence.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from kdscope.errors import KDScopeError


@dataclass(frozen=True)
class Contingency:
    """Counts of the pairs of classes that occur; whole numbers, so that batches and ranks add up exactly.

    Attributes:
        a, b: int64 [M], the classes of each pair, pairs ascending and each once.
        counts: int64 [M], how many images.
    """

    a: np.ndarray
    b: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray, counts: np.ndarray | None = None) -> "Contingency":
        """Of classes a [N] and b [N] of the same images, whole numbers from 0 up.

        Raises:
            KDScopeError: no images, different numbers of them, or classes that are no whole numbers from 0 up.

        >>> Contingency.of(np.array([1, 0, 1]), np.array([2, 0, 2])).counts
        array([1, 2])
        """
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.ndim != 1 or not len(a):
            raise KDScopeError(
                f"classes of shapes {list(a.shape)} and {list(b.shape)}; they must be of the same images"
            )
        for classes in (a, b):
            if not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
                raise KDScopeError("classes must be whole numbers from 0 up")
        width = int(b.max()) + 1
        codes, where = np.unique(a.astype(np.int64) * width + b, return_inverse=True)
        weights = np.ones(len(a), np.int64) if counts is None else np.asarray(counts, np.int64)
        total = np.zeros(len(codes), np.int64)
        np.add.at(total, where, weights)
        return cls(codes // width, codes % width, total)

    def __add__(self, other: "Contingency") -> "Contingency":
        columns = ((getattr(part, name) for part in (self, other)) for name in ("a", "b", "counts"))
        return Contingency.of(*map(np.concatenate, map(tuple, columns)))

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def margins(self) -> tuple[np.ndarray, np.ndarray]:
        """How often each class of a, and each of b, occurs (with zeros)."""
        return tuple(_sums(classes, self.counts) for classes in (self.a, self.b))

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes a and b [N] with these counts, in the order of the pairs."""
        return np.repeat(self.a, self.counts), np.repeat(self.b, self.counts)


def _sums(classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = np.zeros(int(classes.max()) + 1, np.int64)
    np.add.at(total, classes, counts)
    return total


def entropy(counts: np.ndarray) -> float:
    """Plug-in entropy of counts [K], nats.

    >>> round(entropy(np.array([1, 1])), 6)
    0.693147
    """
    n = counts.sum()
    return float(np.log(n) - xlogy(counts, counts).sum() / n)


def chao_shen_entropy(counts: np.ndarray) -> float:
    """Entropy with the coverage of the sample and Horvitz-Thompson weights, nats (Chao & Shen 2003).

    >>> round(chao_shen_entropy(np.array([50, 50])), 4)
    0.6931
    """
    counts = counts[counts > 0]
    n, once = int(counts.sum()), int((counts == 1).sum())
    coverage = 1 - (once if once < n else n - 1) / n
    p = coverage * counts / n
    seen = -np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-15)))
    return float(-(xlogy(p, p) / seen).sum())


def plugin(table: Contingency) -> float:
    """Mutual information of the relative frequencies: H(a) + H(b) - H(a, b), nats. Far too high where n / C^2 is small.

    >>> round(plugin(Contingency.of(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))), 10)
    0.2157615543
    """
    return max(0.0, sum(map(entropy, table.margins)) - entropy(table.counts))


def miller_madow(table: Contingency) -> float:
    """Plug-in less its bias to first order, by the cells that occur: (K_ab - K_a - K_b + 1) / 2n (Miller 1955)."""
    occupied = [int((margin > 0).sum()) for margin in table.margins]
    return plugin(table) - (len(table.counts) - sum(occupied) + 1) / (2 * table.n)


def chao_shen(table: Contingency) -> float:
    """Mutual information of Chao-Shen entropies, nats; undershoots for large n."""
    return sum(map(chao_shen_entropy, table.margins)) - chao_shen_entropy(table.counts)


def left_out(table: Contingency) -> dict[str, np.ndarray]:
    """Plug-in estimates [M] with one image of each cell left out: `information`, and the entropies `a` and `b`.

    Exactly, without a loop: all that changes are n, one cell and its two margins. They weigh `table.counts`.
    """
    n, (of_a, of_b) = table.n, table.margins
    lost = {"cell": _step(table.counts), "a": _step(of_a[table.a]), "b": _step(of_b[table.b])}
    sums = {"cell": xlogy(table.counts, table.counts).sum(), "a": xlogy(of_a, of_a).sum(), "b": xlogy(of_b, of_b).sum()}
    entropies = {name: np.log(n - 1) - (sums[name] - lost[name]) / (n - 1) for name in lost}
    return {
        "information": entropies["a"] + entropies["b"] - entropies["cell"],
        "a": entropies["a"],
        "b": entropies["b"],
    }


def _step(counts: np.ndarray) -> np.ndarray:
    """c ln c - (c - 1) ln (c - 1)."""
    return xlogy(counts, counts) - xlogy(counts - 1, counts - 1)


def jackknife(whole: float, parts: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Debiased value and standard error from values [M] with one of each `counts` images left out (Quenouille, Tukey).

    >>> value, error = jackknife(2.0, np.array([2.5, 2.0, 1.5]), np.array([1, 1, 1]))  # the mean of 1, 2, 3
    >>> value, round(error, 4)
    (2.0, 0.5774)
    """
    n = int(counts.sum())
    if n < 2:
        return whole, 0.0
    mean = float((counts * parts).sum() / n)
    spread = float((counts * np.square(parts - mean)).sum())
    return n * whole - (n - 1) * mean, float(np.sqrt((n - 1) / n * spread))


def jackknife_information(table: Contingency) -> tuple[float, float]:
    """Jackknifed mutual information and its standard error, nats (Zahl 1977, of the three entropies).

    >>> value, error = jackknife_information(Contingency.of(*np.tile([[0, 0, 1, 1], [0, 1, 0, 1]], 100)))
    >>> abs(value) < 0.01, error < 0.01
    (True, True)
    """
    if table.n < 2:
        return plugin(table), 0.0
    return jackknife(plugin(table), left_out(table)["information"], table.counts)


def permutation_null(table: Contingency, permutations: int = 100, seed: int = 0) -> np.ndarray:
    """Plug-in estimates [R] where the images of b are shuffled: the same classes as often, and nothing in common.

    As a null only. Subtracted, their mean over-corrects: the bias shrinks where labels depend on each other (at 100
    classes, n = 10,000 and 3.20 nats it leaves 2.97).
    """
    rng = np.random.default_rng(seed)
    a, b = table.labels()
    width, both = int(b.max()) + 1, sum(map(entropy, table.margins))
    draws = []
    for _ in range(permutations):
        codes = a * width + rng.permutation(b)
        counts = np.bincount(codes) if (a.max() + 1) * width < 2**24 else np.unique(codes, return_counts=True)[1]
        draws.append(both - entropy(counts))
    return np.maximum(draws, 0.0)
