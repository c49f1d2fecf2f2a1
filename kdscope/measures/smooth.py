"""SmoothECE (Blasiok & Nakkiran, "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing", ICLR 2024).

The residuals (right - confidence) are smoothed over the confidence by a Gaussian that is reflected at 0 and 1, and the
absolute value is integrated. The width is where width and error are equal, so nothing is to be chosen.
"""

import numpy as np
from scipy.fft import dct, idct

GRID = 1024


def cells(confidence: np.ndarray, grid: int = GRID) -> np.ndarray:
    """The cell [N] of each confidence [N] in [0, 1], of a grid of 1,024."""
    return np.minimum((confidence * grid).astype(np.int64), grid - 1)


def smooth_error(cell: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> tuple[float, np.ndarray]:
    """SmoothECE of confidences [N] in these `cells` and bool [N], and its values with one image left out (first order).

    On a grid of cells a reflected Gaussian is a product of cosine coefficients (the heat equation between two walls).

    >>> sure = np.full(1000, 0.8)
    >>> value, _ = smooth_error(cells(sure), sure, np.arange(1000) < 600)
    >>> round(value, 3)
    0.2
    """
    n, grid = len(confidence), GRID
    gap = correct - confidence
    coefficients = dct(np.bincount(cell, gap, minlength=grid) / n, norm="ortho")
    width = fixed_point(coefficients)
    smoothed = idct(coefficients * _kernel(grid, width), norm="ortho")
    value = float(np.abs(smoothed).sum())
    # The kernel is its own transpose: what an image adds is its residual times the smoothed sign at its cell.
    slope = idct(dct(np.sign(smoothed), norm="ortho") * _kernel(grid, width), norm="ortho")
    return value, value - (slope[cell] * gap - value) / max(n - 1, 1)


def smoothed_error(coefficients: np.ndarray, width: float) -> float:
    """The integral of |residuals smoothed at that width|, from their cosine coefficients; falls as the width grows."""
    return float(np.abs(idct(coefficients * _kernel(len(coefficients), width), norm="ortho")).sum())


def fixed_point(coefficients: np.ndarray, steps: int = 16) -> float:
    """The width at which the smoothed error equals the width, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed_error(coefficients, middle) > middle else (low, middle)
    return (low + high) / 2


def _kernel(grid: int, width: float) -> np.ndarray:
    return np.exp(-0.5 * (np.pi * np.arange(grid) * width) ** 2)
