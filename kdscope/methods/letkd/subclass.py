"""Sub-classes of a teacher's features, and how often each is taken for which: letKD, algorithm 2.

The patches of each class are clustered on their own; a patch of sub-class i may be nearest to the prototype of another
sub-class j, of its own class or not. Row i of the score matrix tells how often: what the teacher thinks is alike.
"""

import torch
from torch import Tensor

from kdscope.methods.letkd.kmeans import kmeans, means, nearest

RESTARTS = 10


def subclasses(features: Tensor, labels: Tensor, classes: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters of each class on its own.

    Args:
        features: [N, D]. labels: int64 [N]. classes: C. count: K, of each class.

    Returns:
        Centres [C, K, D]; which there are, bool [C, K] (a class of fewer than K patches has fewer); and the sub-class
        c K + k of each patch, int64 [N].
    """
    centres = features.new_zeros(classes, count, features.shape[1])
    there = torch.zeros(classes, count, dtype=torch.bool, device=features.device)
    index = torch.zeros_like(labels)
    for c in range(classes):
        (own,) = (labels == c).nonzero(as_tuple=True)
        if len(own):
            found = kmeans(features[own], min(count, len(own)), restarts=RESTARTS)
            centres[c, : len(found.centres)] = found.centres
            there[c, : len(found.centres)] = True
            index[own] = c * count + found.index
    return centres, there, index


def score_matrix(features: Tensor, index: Tensor, count: int) -> Tensor:
    """Row i: the share of the patches of sub-class i that are nearest to the mean of sub-class j; [M, M], of row sum 1.

    Args:
        features: [N, D]. index: int64 [N], the sub-class of each. count: M; one without patches is taken for itself.

    >>> score_matrix(torch.tensor([[0.0], [1.0], [8.0], [4.0], [5.0]]), torch.tensor([0, 0, 0, 1, 1]), 2)
    tensor([[0.6667, 0.3333],
            [0.0000, 1.0000]])
    """
    sizes = torch.bincount(index, minlength=count)
    (there,) = (sizes > 0).nonzero(as_tuple=True)
    at, _ = nearest(features, means(features, index, count)[there])
    table = torch.bincount(index * count + there[at], minlength=count * count).view(count, count).to(features.dtype)
    table = table / sizes.clamp_min(1)[:, None]
    return torch.where((sizes > 0)[:, None], table, torch.eye(count, dtype=table.dtype, device=table.device))


def own_subclass(features: Tensor, labels: Tensor, centres: Tensor, there: Tensor) -> Tensor:
    """The nearest sub-class of each patch among those of its own class, c K + k, int64 [N].

    Args:
        features: [N, D]. labels: int64 [N]. centres: [C, K, D]. there: bool [C, K].

    >>> centres = torch.tensor([[[1.0], [2.0]], [[9.0], [9.5]]])  # all nearer are of the other class
    >>> own_subclass(torch.tensor([[0.0]]), torch.tensor([1]), centres, torch.ones(2, 2, dtype=torch.bool))
    tensor([2])
    """
    distance = (features[:, None] - centres[labels]).square().sum(2)
    nearest_own = distance.masked_fill(~there[labels], float("inf")).argmin(1)
    return labels * centres.shape[1] + nearest_own
