"""Numbers about attributions and interventions: arrays in, one number an image out, and their mean with its interval.

Area under the deletion or insertion curve: Petsiuk, Das & Saenko, "RISE", BMVC 2018.
"""

from collections.abc import Sequence

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean, wilson

CITATIONS = {
    "deletion-auc": "Petsiuk et al., BMVC 2018; Rong et al., ICML 2022",
    "insertion-auc": "Petsiuk et al., BMVC 2018; Rong et al., ICML 2022",
    "energy-inside": "Wang et al., CVPR workshops 2020",
    "completeness-error": "Sundararajan et al., ICML 2017",
    "converged": "Sundararajan et al., ICML 2017",
}


def curve_area(curves: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Mean height of curves [N, F] over shares [F] that ascend, by the trapezoid rule: float64 [N].

    >>> curve_area(np.array([[1.0, 0.5, 0.0]]), [0.0, 0.5, 1.0])
    array([0.5])
    """
    curves, at = np.asarray(curves, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if curves.ndim != 2 or curves.shape[1:] != at.shape or len(at) < 2 or (np.diff(at) <= 0).any():
        raise KDScopeError(f"curves {list(curves.shape)} over {len(at)} shares; shares ascend, one for each point")
    return ((curves[:, 1:] + curves[:, :-1]) / 2 @ np.diff(at)) / (at[-1] - at[0])


def mean_result(measure: str, values: np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> Result:
    """The mean over images of one number each [N], with its BCa interval (Wilson's for 0 and 1); NaN is left out.

    >>> mean_result("deletion-auc", np.array([0.1, 0.3, np.nan])).n
    2
    """
    values = np.asarray(values, dtype=np.float64)
    kept = values[~np.isnan(values)]
    if not len(kept):
        low = high = float("nan")
    elif measure == "converged":
        low, high = wilson(exact_mean(kept), len(kept), confidence)
    else:
        low, high = bootstrap_mean(kept, confidence=confidence, seed=seed)
    return Result(
        measure, exact_mean(kept), values, len(kept), low, high, source=CITATIONS.get(measure, ""),
        excluded=len(values) - len(kept),
    )  # fmt: skip


def paired_result(measure: str, better: np.ndarray, worse: np.ndarray, *, confidence: float = 0.95) -> Result:
    """The mean of better - worse, image by image [N], with its interval; NaN in either is left out.

    >>> found = paired_result("deletion-gain", np.array([1.0, 2.0, np.nan]), np.array([0.0, 1.0, 1.0]))
    >>> found.value, found.n
    (1.0, 2)
    """
    difference = np.asarray(better, dtype=np.float64) - np.asarray(worse, dtype=np.float64)
    return mean_result(measure, difference, confidence=confidence)
