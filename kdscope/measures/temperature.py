"""The temperature at which a network's predictions fit labels best (Guo C. et al., ICML 2017).

Distillation at a temperature shifts confidence, so calibration at T = 1 alone says little of what was learned. The
temperature is fitted on other images than it is judged on: fitted on its own, it flatters.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from kdscope.measures.pair import log_softmax, pairs

BOUNDS = (1e-2, 1e2)
FEWEST = 2


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """argmin_T of the mean of -log softmax(z / T)[y], between 0.01 and 100.

    Args:
        logits: [N, C]; labels: int [N].

    Raises:
        KDScopeError: as `kdscope.measures.pair.pairs`.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(20_000, 5))
    >>> y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)  # drawn from softmax(z)
    >>> abs(fit_temperature(3 * z, y) - 3) < 0.1
    True
    """
    checked = list(pairs(logits, logits, labels))
    z = np.concatenate([chunk.student for chunk in checked])
    y = np.concatenate([chunk.labels for chunk in checked])
    z = z - z.max(axis=1, keepdims=True)
    true = np.take_along_axis(z, y[:, None], axis=1).mean()

    def loss(log_t: float) -> float:
        scaled = z / np.exp(log_t)
        return float(np.log(np.exp(scaled).sum(axis=1)).mean() - true / np.exp(log_t))

    found = minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def cross_fitted(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Log-probabilities [N, C], each half of the images at the temperature of the other half; and the temperatures.

    Even and odd images are the halves. With fewer than 4 images there is nothing to fit, and T stays 1.
    """
    logits = np.asarray(logits)
    if len(logits) < 2 * FEWEST:
        return log_softmax(logits), (1.0, 1.0)
    fitted = tuple(fit_temperature(logits[1 - k :: 2], np.asarray(labels)[1 - k :: 2]) for k in range(2))
    judged = np.empty(logits.shape)
    for k, temperature in enumerate(fitted):
        judged[k::2] = log_softmax(logits[k::2], temperature)
    return judged, fitted
