"""What an attribution is of: a number that a network says about a class, and that two networks say in the same unit.

Softmax does not change when one number is added to all logits of an image, so that a raw logit is no property of the
predictor: a network and its copy with one random vector added to every row of its head give the same probabilities, and
other maps of the raw logit. The targets here are gauge-free, but for `raw-logit`, which says so.
"""

import warnings

from torch import Tensor

from kdscope.errors import KDScopeError, unknown

TARGETS = ("centred-logit", "log-prob", "margin", "raw-logit")


def score(logits: Tensor, classes: Tensor, target: str = "centred-logit", rivals: Tensor | None = None) -> Tensor:
    """One number for each image, about one class.

    Args:
        logits: [B, C], C > 1.
        classes: int64 [B], of which class.
        target: `centred-logit`, z_c - mean_k z_k; `log-prob`, log softmax(z)_c; `margin`, z_c - z_r with r = `rivals`
            (by default the best other class of these logits); `raw-logit`, z_c, which depends on the gauge.
        rivals: int64 [B]; along a path, fix them at its end (`runner_up`), so that the margin stays one function.

    Returns:
        [B], in the dtype of the logits.

    Raises:
        KDScopeError: an unknown target, or a single class, about which nothing can be asked.

    >>> import torch
    >>> z = torch.tensor([[3.0, 1.0, -1.0]])
    >>> score(z, torch.tensor([0])).item(), score(z + 7, torch.tensor([0]), "margin").item()
    (2.0, 2.0)
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise KDScopeError(f"a target needs logits [B, C] of at least two classes, not {list(logits.shape)}")
    own = logits.gather(1, classes[:, None])[:, 0]
    if target == "centred-logit":
        return own - logits.mean(1)
    if target == "log-prob":
        return logits.log_softmax(1).gather(1, classes[:, None])[:, 0]
    if target == "margin":
        rivals = runner_up(logits, classes) if rivals is None else rivals
        return own - logits.gather(1, rivals[:, None])[:, 0]
    if target == "raw-logit":
        return own
    raise unknown("target", target, TARGETS)


def runner_up(logits: Tensor, classes: Tensor) -> Tensor:
    """The best class but `classes`: int64 [B].

    >>> import torch
    >>> runner_up(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([2])
    """
    return logits.detach().scatter(1, classes[:, None], float("-inf")).argmax(1)


def check_target(target: str) -> None:
    """A KDScopeError for an unknown target, a warning for one that depends on the gauge."""
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if target == "raw-logit":
        warnings.warn(
            "the raw logit is no property of the predictor: adding one vector to all rows of the head changes no "
            "probability, and these maps; use centred-logit, log-prob or margin to compare networks",
            stacklevel=3,
        )
