"""Class activation maps: which positions of the last feature map speak for a class (Zhou et al., CVPR 2016).

A network that averages its last map f [K, h, w] over positions and then applies a linear head says z_c = mean (w_c . f)
+ b_c: the logit is the mean of a map. But softmax does not change when one vector is added to all rows of the head, and
that map does. So the rows are centred here, w_c - mean_k w_k, which makes the map a property of the predictor.
"""

import torch
from torch import Tensor, nn

from kdscope.errors import KDScopeError

SUM_WARNING = (
    "cam-sum adds the class activation maps of all classes: sum_c w_c gets no gradient from any loss on softmax, so the"
    " map shows the head's random start and not what was learned"
)


def class_activation_map(feature: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """CAM of one class for each image, with centred head weights.

    Args:
        feature: the map under the average pooling, [B, K, h, w].
        weight: of the linear head, [C, K]; C > 1.
        classes: int64 [B].

    Returns:
        Map [B, h, w], signed, in units of logits; its mean is z_c - mean_k z_k, less the same of the biases.

    Raises:
        KDScopeError: if the head does not take the map's channels, or has one class.

    >>> w = torch.tensor([[2.0], [0.0]])
    >>> class_activation_map(torch.ones(1, 1, 2, 2), w, torch.tensor([0]))
    tensor([[[1., 1.],
             [1., 1.]]])
    """
    _check(feature, weight)
    centred = weight - weight.mean(0)
    return torch.einsum("bkhw,bk->bhw", feature, centred[classes])


def cam_sum(feature: Tensor, weight: Tensor) -> Tensor:
    """The map of Guo et al. (arXiv 2405.00739, released code): the CAMs of all classes added up, [B, h, w].

    For comparison with their numbers only (`SUM_WARNING`); with centred weights it is zero everywhere. The biases, a
    constant, are left out: the code's min-max normalisation removes them.
    """
    _check(feature, weight)
    return torch.einsum("bkhw,k->bhw", feature, weight.sum(0))


def pools_into(feature: Tensor, logits: Tensor, head: nn.Linear) -> bool:
    """Whether the logits [B, C] are the head's of the map's average over positions, so that a CAM explains them."""
    if feature.dim() != 4 or feature.shape[1] != head.in_features or logits.shape[1] != head.out_features:
        return False
    expected = head(feature.to(head.weight.dtype).mean((2, 3)))
    tolerance = 1e-3 if logits.dtype.itemsize >= 4 else 5e-2
    return bool((expected - logits).abs().max() <= tolerance * (1 + logits.abs().max()))


def _check(feature: Tensor, weight: Tensor) -> None:
    if feature.dim() != 4 or feature.shape[1] != weight.shape[1]:
        raise KDScopeError(
            f"a head of {weight.shape[1]} inputs does not read a map of shape {list(feature.shape)}; "
            "a class activation map needs the map under the average pooling"
        )
    if len(weight) < 2:
        raise KDScopeError("a class activation map needs a head with at least two classes")
