"""What the teacher says the templates should be: an assignment of each place of its map to K codes.

Penultimate map: softmax of minus the squared distance to the centroids of all training patches (algorithm 1).
Intermediate map: the nearest sub-class of the image's own class, and by the score matrix what it is taken for
(algorithm 2).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from kdscope.errors import KDScopeError
from kdscope.methods.letkd.subclass import own_subclass
from kdscope.methods.shapes import exact

NEVER = -1e30  # a logit whose probability is 0; minus infinity times 0 is not


def letkd_loss(scores: Tensor, target: Tensor) -> Tensor:
    """mean over places of KL(p_T || softmax(a)), in nats; 0 where they agree, ln K of a one-hot target and a = 0.

    Args:
        scores: a [N, K]. target: p_T [N, K], rows that sum to 1.

    >>> round(float(letkd_loss(torch.zeros(2, 8), torch.eye(8)[:2])), 6)  # ln 8
    2.079442
    """
    scores, target = exact(scores), exact(target)
    entropy = -torch.xlogy(target, target).sum(1)
    return (scores.logsumexp(1) - (target * scores).sum(1) - entropy).mean()


def soft_assignment(patches: Tensor, centroids: Tensor, sharpness: float = 1.0) -> Tensor:
    """softmax_k(-T ||z - c_k||^2) [N, K] of patches z [N, D] and centroids c [K, D]; T = 0 is uniform.

    A centroid that is NaN is none: nothing is assigned to it.

    >>> soft_assignment(torch.tensor([[1.0]]), torch.tensor([[1.0], [2.0], [float("nan")]]))
    tensor([[0.7311, 0.2689, 0.0000]])
    """
    patches = exact(patches)
    weight, bias, middle = (each.to(patches) for each in _affine(exact(centroids), sharpness))
    return torch.addmm(bias, patches - middle, weight.T).softmax(1)


def _affine(centroids: Tensor, sharpness: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weight [K, D], bias [K] and origin [D] of -T ||z - c||^2 + T ||z||^2; the square of z is the same for all k."""
    none = centroids.isnan().any(1)
    centroids = centroids.masked_fill(none[:, None], 0.0)
    middle = centroids.sum(0) / (~none).sum()  # far from zero, the differences of squares would be rounded away
    centroids = (centroids - middle).masked_fill(none[:, None], 0.0)
    bias = (-sharpness * centroids.square().sum(1)).masked_fill(none, NEVER)
    return 2 * sharpness * centroids, bias, middle


def patches(feature_map: Tensor) -> Tensor:
    """The places of a map [B, C, H, W] as rows [B H W, C], image by image, in reading order."""
    return exact(feature_map).permute(0, 2, 3, 1).flatten(0, 2)


def pooled(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map [B, C, H, W] averaged over equal cells to `grid` (h, w).

    Raises:
        KDScopeError: a grid that does not divide the map's.

    >>> pooled(torch.arange(4.0).view(1, 1, 2, 2), (1, 1)).item()
    1.5
    """
    have = tuple(feature_map.shape[2:])
    if have == tuple(grid):
        return feature_map
    if have[0] % grid[0] or have[1] % grid[1]:
        raise KDScopeError(
            f"a map of {have[0]} x {have[1]} cannot be averaged to {grid[0]} x {grid[1]} in equal cells; "
            "choose another layer"
        )
    return avg_pool2d(feature_map, (have[0] // grid[0], have[1] // grid[1]))


class Codebook(nn.Module):
    """p_T of the penultimate map.

    Args:
        centroids: [K, D]; NaN where a template has no centroid.
        sharpness: T.
    """

    def __init__(self, centroids: Tensor, sharpness: float):
        super().__init__()
        weight, bias, middle = _affine(centroids, sharpness)
        for name, value in (("centroids", centroids), ("weight", weight), ("bias", bias), ("middle", middle)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, patches: Tensor, labels: Tensor, last: bool = True) -> tuple[Tensor, Tensor]:
        """p_T of patches [B, P, D] and sum_k p_T log p_T [B, P]; see `divergence.Targets`. Labels count for nothing."""
        patches, weight = patches - self.middle, self.weight.expand(len(patches), -1, -1)
        if last:
            logits, dim = torch.baddbmm(self.bias, patches, weight.transpose(1, 2)), 2
        else:
            logits, dim = torch.baddbmm(self.bias[:, None], weight, patches.transpose(1, 2)), 1
        target = logits.softmax(dim)
        normaliser = logits.amax(dim) - target.amax(dim).log()
        return target, logits.mul_(target).sum(dim) - normaliser


class Subclasses(nn.Module):
    """p_T of the intermediate map.

    Args:
        mean: [D]; directions: [D, n], of the discriminant analysis.
        centres: [C, k, n]; there: bool [C, k], which of them there are.
        scores: s_T [C k, C k].
    """

    def __init__(self, mean: Tensor, directions: Tensor, centres: Tensor, there: Tensor, scores: Tensor):
        super().__init__()
        for name, value in (("mean", mean), ("directions", directions), ("centres", centres), ("scores", scores)):
            self.register_buffer(name, value.float(), persistent=False)
        self.register_buffer("there", there.bool(), persistent=False)
        self.register_buffer("information", torch.xlogy(self.scores, self.scores).sum(1), persistent=False)

    def assigned(self, patches: Tensor, labels: Tensor) -> Tensor:
        """The sub-class of each patch [N], among those of its label [N]."""
        features = (patches - self.mean) @ self.directions
        return own_subclass(features, labels, self.centres, self.there)

    def forward(self, patches: Tensor, labels: Tensor, last: bool = True) -> tuple[Tensor, Tensor]:
        """p_T of patches [B, P, D] with the label of each [B, P], and sum_k p_T log p_T [B, P]."""
        index = self.assigned(patches.flatten(0, 1), labels.flatten()).view(labels.shape)
        target = self.scores[index]
        return (target if last else target.transpose(1, 2)), self.information[index]
