"""Several teachers as one, for measures: what an ensemble predicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError, unknown
from kdscope.measures.pair import log_softmax, to_numpy

COMBINATIONS = ("mean-probability", "mean-logit", "mean-loss")


def combine_logits(logits: Sequence[Any], how: str = "mean-probability", temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities [B, C], float64, of an ensemble of m networks. They serve as logits everywhere.

    Args:
        logits: m arrays [B, C], numpy or torch.
        how: "mean-probability", log (1/m) sum_k softmax(z_k / T) (Stanton et al., NeurIPS 2021); "mean-logit",
            log softmax of (1/m) sum_k z_k / T (Guo et al., arXiv 2405.00739): the two can disagree even on the top
            class. "mean-loss" is how a student may be trained (the mean of its KL from each teacher); its gradient is
            that of the KL from the mean probability, so the ensemble that it follows is that one.
        temperature: T > 0.

    Raises:
        KDScopeError: no networks, unknown `how`, or shapes that differ.

    >>> np.exp(combine_logits([[[5.0, 0, 0]], [[-6.0, 0.5, 0]]])).round(4)
    array([[0.4938, 0.3143, 0.1919]])
    >>> np.exp(combine_logits([[[5.0, 0, 0]], [[-6.0, 0.5, 0]]], "mean-logit")).round(4)
    array([[0.2098, 0.4442, 0.346 ]])
    """
    if how not in COMBINATIONS:
        raise unknown("ensemble", how, COMBINATIONS)
    members = [np.asarray(to_numpy(each), dtype=np.float64) for each in logits]
    if not members:
        raise KDScopeError("an ensemble of no networks; give at least one")
    shapes = {each.shape for each in members}
    if len(shapes) > 1:
        raise KDScopeError(f"the networks of an ensemble give logits of shapes {sorted(shapes)}; they must be the same")
    if how == "mean-logit":
        return log_softmax(sum(members) / len(members), temperature)
    total = log_softmax(members[0], temperature)
    for each in members[1:]:
        total = np.logaddexp(total, log_softmax(each, temperature))
    return total - np.log(len(members))
