"""Linear discriminant analysis of features that come in batches: sums in float64, and one eigenvalue problem.

scikit-learn's `LinearDiscriminantAnalysis` holds several copies of all features; this holds none.
"""

import torch
from torch import Tensor

from kdscope.errors import KDScopeError

REGULARISER = 1e-6  # of the mean variance within classes, added to each: channels that are dead have none


class Scatter:
    """The scatter of features within and between classes; `update` with batches, then `solve`.

    Args:
        classes: how many. channels: D of the features.
    """

    def __init__(self, classes: int, channels: int, device: torch.device | str = "cpu"):
        options = {"dtype": torch.float64, "device": device}
        self.counts = torch.zeros(classes, **options)
        self.sums = torch.zeros(classes, channels, **options)
        self.products = torch.zeros(channels, channels, **options)
        self.origin: Tensor | None = None  # near the mean, so that products are not differences of large numbers

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features [N, D] with labels int64 [N]."""
        features = features.double()
        if self.origin is None:
            self.origin = features.mean(0)
        features = features - self.origin
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        self.sums.index_add_(0, labels, features)
        self.products += features.T @ features

    def solve(self, components: int) -> tuple[Tensor, Tensor]:
        """The mean [D] and the directions [D, components], float64: z = (x - mean) @ directions.

        Directions v solve S_b v = lambda S_w v, largest lambda first, and are as long as makes the covariance within
        classes the identity.

        Raises:
            KDScopeError: more components than min(classes - 1, D); features without variance within classes.
        """
        from scipy.linalg import eigh

        present = self.counts > 0
        most = most_components(int(present.sum()), len(self.products))
        if not 1 <= components <= most:
            raise KDScopeError(
                f"discriminant analysis of {int(present.sum())} classes and {len(self.products)} channels has "
                f"1 to {most} components, not {components}"
            )
        counts, sums = self.counts[present], self.sums[present]
        mean = sums.sum(0) / counts.sum()
        total = self.products - counts.sum() * mean.outer(mean)
        between = (sums / counts[:, None] - mean).T @ ((sums / counts[:, None] - mean) * counts[:, None])
        within = (total - between) / max(1.0, float(counts.sum()) - len(counts))
        variance = float(within.trace()) / len(within)
        if not variance > 0:
            raise KDScopeError("discriminant analysis needs features that differ within a class")
        within = within + REGULARISER * variance * torch.eye(len(within), dtype=within.dtype, device=within.device)
        last = len(within) - 1
        _, vectors = eigh(between.cpu().numpy(), within.cpu().numpy(), subset_by_index=[last - components + 1, last])
        directions = torch.from_numpy(vectors[:, ::-1].copy()).to(mean)
        return mean + self.origin, directions


def most_components(classes: int, channels: int) -> int:
    """How many directions there can be.

    >>> most_components(10, 64)
    9
    """
    return min(classes - 1, channels)
