"""What a linear probe can use of features: V-information (Xu et al., ICLR 2020), cross-fitted, in nats for each image.

I_V(Z -> Y) = H_V(Y) - H_V(Y | Z): by how much a softmax probe that reads Z predicts Y better, on images that it was not
fitted on, than one that reads nothing. An honest lower bound on the mutual information, and comparable between networks
under one family of probes. With `given`, both probes read that too: what Z tells beyond it, such as what a student's
features tell of the teacher's soft labels beyond the hard label.
"""

import numpy as np
from scipy.optimize import minimize

from kdscope.errors import KDScopeError
from kdscope.measures.pair import log_softmax

FOLDS = 3
PENALTY = 1e-3
STEPS = 100


def usable_information(
    features: np.ndarray, target: np.ndarray, given: np.ndarray | None = None, *, folds: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """Nats [N] that features [N, d] add to the prediction of each image's target; their mean is I_V, and may be < 0.

    Args:
        target: probabilities [N, C] (soft labels), or classes int [N].
        given: [N, k], what is known anyway, such as the one-hot label.

    Raises:
        KDScopeError: fewer than 2 images a fold, arrays of different images, or features that are not finite.

    >>> y = np.arange(300) % 3
    >>> float(usable_information(np.eye(3)[y], y).mean()) > 1.0  # of ln 3 = 1.0986
    True
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(target)
    y = np.eye(int(y.max()) + 1)[y] if y.ndim == 1 else y.astype(np.float64)
    known = np.zeros((len(x), 0)) if given is None else np.asarray(given, dtype=np.float64)
    if x.ndim != 2 or not len(x) == len(y) == len(known):
        raise KDScopeError(f"features {list(x.shape)}, targets {list(y.shape)}: they must be of the same images")
    if bad := int((~np.isfinite(x).all(axis=1)).sum()):
        raise KDScopeError(f"features are NaN or infinite in {bad} of {len(x)} images")
    if folds < 2 or len(x) < 2 * folds:
        raise KDScopeError(f"{len(x)} images in {folds} folds; a probe needs 2 folds or more, of 2 images or more")
    fold = np.random.default_rng(seed).permutation(len(x)) % folds
    gained = np.empty(len(x))
    for k in range(folds):
        train, test = fold != k, fold == k
        without, within = (_held_out(part, y, train, test) for part in (known, np.hstack([x, known])))
        gained[test] = within - without
    return gained


def _held_out(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """sum_c y_c log q_c [n] on the images of `test` by a probe fitted on those of `train`."""
    spread = x[train].std(axis=0)
    scaled = (x - x[train].mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0)
    scaled = np.hstack([scaled, np.ones((len(x), 1))])
    weights = _fit(scaled[train], y[train])
    return (y[test] * log_softmax(scaled[test] @ weights)).sum(axis=1)


def _fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """argmin of the cross-entropy plus a small ridge on all but the last row, the offsets."""
    shape, ridge = (x.shape[1], y.shape[1]), np.full((x.shape[1], 1), PENALTY)
    ridge[-1] = 0.0

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(shape)
        log_q = log_softmax(x @ w)
        slope = x.T @ (np.exp(log_q) * y.sum(axis=1, keepdims=True) - y) / len(x) + ridge * w
        return float(-(y * log_q).sum() / len(x) + (ridge * w**2).sum() / 2), slope.ravel()

    start = np.zeros(shape)
    start[-1] = np.log(np.maximum(y.mean(axis=0), 1e-6))
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return found.x.reshape(shape)
