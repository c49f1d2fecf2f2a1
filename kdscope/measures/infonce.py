"""A lower bound on what two networks' features tell of each other: find the pair among N (InfoNCE).

van den Oord et al., arXiv 1807.03748, eq. 4-5; Poole et al., ICML 2019: for any critic f, on images that it was not
fitted on, I(X; Y) >= E[f(x, y) - ln (1/N) sum_j exp f(x, y_j)], and the right side is at most ln N, near which it says
only "at least". The critic here is separable, f = sum_k w_k u_k v_k + b_k v_k + c_k v_k^2 on canonical variates
(Hotelling 1936): the best there is where features are Gaussian, and blind to what is not linear.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from kdscope.errors import KDScopeError

FOLDS = 4  # two find the variates, one fits the critic, one is judged; each is judged once
VARIATES = 32
AXES = 64  # principal ones, in which variates are sought; at most one for every ten images
FURTHEST = 4.0  # standard deviations: one outlier would rule c_k v_k^2
PENALTY = 1e-4
STEPS = 100
FEWEST = 20 * FOLDS


class Bound(NamedTuple):
    """Nats of each image [N], whose mean is the bound; the ln of the number of candidates, which it cannot exceed."""

    per_sample: np.ndarray
    ceiling: float
    candidates: int


def info_nce(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> Bound:
    """Lower bound on the mutual information of features x [N, d] and y [N, e] of the same images, nats; cross-fitted.

    Invariant to shifts, rotations and scales of either; below 0 by a little where nothing is shared.

    Args:
        seed: of the folds.

    Raises:
        KDScopeError: other shapes, values that are not finite, constant features, or fewer than 80 images.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(1000, 2))
    >>> bound = info_nce(x, x + rng.normal(size=(1000, 2)))  # the truth: ln 2
    >>> 0.6 < float(bound.per_sample.mean()) < 0.72, bound.candidates, round(bound.ceiling, 2)
    (True, 250, 5.52)
    """
    x, y = (np.asarray(part, dtype=np.float64) for part in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise KDScopeError(f"vectors of shapes {list(x.shape)} and {list(y.shape)}; they must be of the same images")
    if len(x) < FEWEST:
        raise KDScopeError(f"{len(x)} images for InfoNCE; at least {FEWEST} are needed")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise KDScopeError("vectors are NaN or infinite")
    fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
    gained, most = np.empty(len(x)), np.empty(len(x))
    for k in range(FOLDS):
        judged, fitted = fold == k, fold == (k + 1) % FOLDS
        u, v = _variates(x, y, ~(judged | fitted))
        gained[judged] = contrast(*_critic(u[fitted], v[fitted]), u[judged], v[judged])
        most[judged] = np.log(judged.sum())
    return Bound(gained, float(most.mean()), len(x) // FOLDS)


def contrast(w: np.ndarray, b: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """f(u_i, v_i) - ln (1/N) sum_j exp f(u_i, v_j) of each image [N]; f = (w u) . v + b . [v, v^2].

    >>> contrast(np.zeros(1), np.zeros(2), np.ones((3, 1)), np.ones((3, 1)))  # a critic that tells nothing
    array([0., 0., 0.])
    """
    scores = (u * w) @ v.T + _alone(v) @ b
    own = scores.diagonal().copy()
    top = scores.max(axis=1)
    return own - top - np.log(np.exp(scores - top[:, None]).mean(axis=1))


def _alone(v: np.ndarray) -> np.ndarray:
    return np.hstack([v, np.square(v)])


def _variates(x: np.ndarray, y: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical variates [N, K] of all images, found on the `known` ones."""
    axes = min(AXES, int(known.sum()) // 10)
    white = [_whitened(part, known, axes) for part in (x, y)]
    left, _, right = np.linalg.svd(white[0][known].T @ white[1][known], full_matrices=False)
    u, v = white[0] @ left[:, :VARIATES], white[1] @ right[:VARIATES].T
    return np.clip(u, -FURTHEST, FURTHEST), np.clip(v, -FURTHEST, FURTHEST)


def _whitened(z: np.ndarray, known: np.ndarray, axes: int) -> np.ndarray:
    centred = z - z[known].mean(axis=0)
    _, s, rows = np.linalg.svd(centred[known], full_matrices=False)
    if not s[0] > 1e-12 * max(1.0, np.abs(z).max()):
        raise KDScopeError("features are constant: they tell nothing")
    kept = min(axes, int((s > 1e-6 * s[0]).sum()))
    return centred @ rows[:kept].T / s[:kept] * np.sqrt(known.sum())


def _critic(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """argmax over w [K], b [2 K] of the mean contrast less a small ridge: a concave problem."""
    k, alone, together = u.shape[1], _alone(v), (u * v).mean(axis=0)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = (u * flat[:k]) @ v.T + alone @ flat[k:]
        own, top = scores.diagonal().copy(), scores.max(axis=1)
        p = np.exp(scores - top[:, None])
        total = p.sum(axis=1)
        p /= total[:, None]
        slope = np.concatenate([(u * (p @ v)).mean(axis=0) - together, (p.mean(axis=0) - 1 / len(u)) @ alone])
        value = (np.log(total) + top - own).mean() + PENALTY / 2 * flat @ flat
        return float(value), slope + PENALTY * flat

    found = minimize(loss, np.zeros(3 * k), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return found[:k], found[k:]
