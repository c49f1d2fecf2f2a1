"""Sums over the steps of an epoch, kept on the device: nothing waits for a number until the epoch ends."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdscope.errors import KDScopeError


class Tally:
    """Image-weighted sums of each term's value, of right answers and of images; and when a term was first NaN.

    Right answers are told as the column `counted`, where it has a name.

    >>> tally = Tally(["cross-entropy"], torch.tensor([1.0]), "cpu")
    >>> tally.add(torch.tensor([2.0]), torch.tensor(3), images=4, step=0)
    >>> tally.means(tally.sums)
    {'loss': 2.0, 'cross-entropy': 2.0, 'train_accuracy': 0.75}
    """

    def __init__(
        self, names: Sequence[str], weights: Tensor, device: torch.device | str, counted: str = "train_accuracy"
    ):
        self.names, self.counted = tuple(names), counted
        self.weights = weights.tolist()
        self.sums = torch.zeros(len(names) + 2, dtype=torch.float64, device=device)
        self.first_bad = torch.full((len(names),), -1, dtype=torch.int64, device=device)

    def add(self, values: Tensor, right: Tensor, images: int, step: int) -> None:
        """Count one step. `values` [K] and `right` are device tensors; nothing is read back."""
        values = values.detach()
        self.sums[:-2] += values * images
        self.sums[-2] += right
        self.sums[-1] += images
        self.first_bad = torch.where((self.first_bad < 0) & ~values.isfinite(), step, self.first_bad)

    def check(self, epoch: int, kept: str) -> None:
        """Stop the run if a term was NaN or infinite: which, since which step, and which checkpoint is still good."""
        bad = [(step, name) for step, name in zip(self.first_bad.tolist(), self.names, strict=True) if step >= 0]
        if bad:
            step, name = min(bad)
            raise KDScopeError(f"term {name!r} became NaN or infinite in epoch {epoch}, step {step + 1}; {kept}")

    def means(self, sums: Tensor) -> dict[str, float]:
        """The epoch's loss, each term's mean value and the accuracy on the images as shown, from (reduced) sums."""
        *terms, right, images = sums.tolist()
        means = [value / images for value in terms]
        loss = sum(weight * mean for weight, mean in zip(self.weights, means, strict=True))
        counted = {self.counted: right / images} if self.counted else {}
        return {"loss": loss, **dict(zip(self.names, means, strict=True)), **counted}

    def shares(self, sums: Tensor) -> dict[str, float]:
        """What part of the epoch's loss each weighted term is, from (reduced) sums.

        >>> tally = Tally(["a", "b"], torch.tensor([1.0, 2.0]), "cpu")
        >>> tally.add(torch.tensor([2.0, 3.0]), torch.tensor(0), images=4, step=0)
        >>> tally.shares(tally.sums)
        {'a_share': 0.25, 'b_share': 0.75}
        """
        parts = [weight * value for weight, value in zip(self.weights, sums[:-2].tolist(), strict=True)]
        total = sum(parts)
        return {f"{name}_share": part / total if total else 0.0 for name, part in zip(self.names, parts, strict=True)}
