"""Images by how sure a network is of them: bins of equal width or of equally many images, and their diagram."""

import numpy as np

from kdscope.errors import KDScopeError

BINS = 15


def equal_width(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin [N] of each confidence [N], 0..bins-1, of bins (a, b] of equal width; 0 belongs to the first.

    >>> equal_width(np.array([0.0, 0.1, 0.11, 1.0]), 10)
    array([0, 0, 1, 9])
    """
    _check(confidence)
    # Edges as k / bins, so that a confidence that equals one falls below it whatever rounding does to its product.
    return np.clip(np.searchsorted(np.arange(bins + 1) / bins, confidence, side="left") - 1, 0, bins - 1)


def equal_mass(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin [N] of each confidence [N], of bins that hold equally many images; equal confidences share a bin.

    >>> equal_mass(np.array([0.9, 0.2, 0.9, 0.3]), 2)
    array([1, 0, 1, 0])
    """
    _check(confidence)
    ordered, n = np.sort(confidence), len(confidence)
    edges = ordered[[n * k // bins - 1 for k in range(1, bins) if n * k // bins]]
    return np.searchsorted(np.unique(edges), confidence, side="left")


def _check(confidence: np.ndarray) -> None:
    if not len(confidence) or not (np.min(confidence) >= 0 and np.max(confidence) <= 1 + 1e-9):
        raise KDScopeError("confidences must be one or more numbers between 0 and 1")


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """The rows of a reliability diagram: of each bin that holds images `low`, `high`, `n`, `confidence`, `right`.

    >>> rows = reliability(np.array([0.95, 0.95, 0.15]), np.array([True, False, False]), 10)
    >>> rows["n"].tolist(), rows["right"].tolist(), rows["low"].tolist()
    ([1, 2], [0.0, 0.5], [0.1, 0.9])
    """
    where = equal_width(confidence, bins)
    size = np.bincount(where, minlength=bins)
    held = np.flatnonzero(size)
    means = [np.bincount(where, w, minlength=bins)[held] / size[held] for w in (confidence, correct.astype(float))]
    return {"low": held / bins, "high": (held + 1) / bins, "n": size[held], "confidence": means[0], "right": means[1]}
