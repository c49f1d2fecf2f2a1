"""What one network says of one batch: its logits and the feature maps that hooks caught; and an ensemble of such."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from kdscope.errors import KDScopeError, unknown

ENSEMBLES = ("mean-probability", "mean-logit", "mean-loss")


@dataclass(frozen=True)
class Features:
    """Logits [B, C] and named feature maps [B, ...] of one network for one batch, in the network's own order.

    >>> f = Features(torch.zeros(2, 10), {"layer1": torch.ones(2, 16, 8, 8)})
    >>> f["layer1"].shape[1], round(float(f.log_probs(4.0)[0, 0].exp()), 3)
    (16, 0.1)
    """

    logits: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.maps:
            raise unknown("layer", layer, self.maps, "the captured features")
        return self.maps[layer]

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """log softmax(z / T) [B, C], float32 (float64 stays): losses are computed outside of autocast."""
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        return log_softmax(logits / temperature, dim=1)


@dataclass(frozen=True)
class Ensemble(Features):
    """Several teachers as one, for terms that read logits alone.

    `mean-probability` averages softmax(z_k / T) (Stanton et al., NeurIPS 2021); `mean-logit` averages z_k (Guo et al.,
    2024). They can disagree even on the top class. `weights` sum to one.
    """

    members: Sequence[Features] = ()
    weights: Sequence[float] = ()
    how: str = "mean-probability"

    @classmethod
    def of(cls, members: Sequence[Features], weights: Sequence[float], how: str) -> "Features":
        """The ensemble of `members`; one member alone is itself."""
        if how not in ENSEMBLES:
            raise unknown("ensemble", how, ENSEMBLES)
        if len(members) != len(weights):
            raise KDScopeError(f"an ensemble of {len(members)} teachers has {len(weights)} weights; give one for each")
        if len(members) == 1:
            return members[0]
        logits = sum(weight * member.logits.float() for member, weight in zip(members, weights, strict=True))
        return cls(logits=logits, members=tuple(members), weights=tuple(weights), how=how)

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        if self.how == "mean-logit":
            return super().log_probs(temperature)
        each = [
            member.log_probs(temperature) + math.log(weight)
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        return torch.logsumexp(torch.stack(each), dim=0)
