"""Control arms of letKD: targets that keep all but what a claim rests on, and the checks of their names."""

import torch
from torch import Tensor

from kdscope.errors import unknown
from kdscope.methods.letkd.kmeans import CLUSTERINGS
from kdscope.methods.letkd.layer import VARIANTS

CHOICES = {
    "variant": VARIANTS,
    "clustering": CLUSTERINGS,
    "codebook": ("kmeans", "patches", "gaussian"),
    "noise": ("none", "shuffled", "smoothed"),
    "scores": ("teacher", "hard", "class"),
    "labels": ("true", "permuted-analysis", "permuted-assignment"),
}


def check_choices(**given: str) -> None:
    """Raise for a name that its setting does not know, with the nearest."""
    for setting, value in given.items():
        if value not in CHOICES[setting]:
            raise unknown(setting, str(value), CHOICES[setting], "term 'letkd'")


def shuffled(patches: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Patches [B, P, D] and their labels [B, P], a share of them those of another place of the batch.

    Each place is drawn on its own, by torch's generator of the device.
    """
    count = labels.numel()
    other = torch.randint(count, (count,), device=patches.device)
    drawn = torch.rand(count, device=patches.device) < share
    other = torch.where(drawn, other, torch.arange(count, device=patches.device))
    return patches.flatten(0, 1)[other].view_as(patches), labels.flatten()[other].view_as(labels)


def smoothed(target: Tensor, share: float, dim: int = 1) -> tuple[Tensor, Tensor]:
    """(1 - share) p_T + share / K of targets, templates along `dim`, and its sum over them of p log p.

    >>> smoothed(torch.tensor([[1.0, 0.0]]), 0.5)[0]
    tensor([[0.7500, 0.2500]])
    """
    target = (1 - share) * target + share / target.shape[dim]
    return target, torch.xlogy(target, target).sum(dim)


def scores_kept(scores: Tensor, subclasses: int, which: str) -> Tensor:
    """The score matrix itself ("teacher"), or of a control: "hard" is the identity, "class" uniform within classes.

    >>> scores_kept(torch.eye(4), 2, "class")[0]
    tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    if which == "hard":
        return torch.eye(len(scores)).to(scores)
    if which == "class":
        own = torch.arange(len(scores), device=scores.device) // subclasses
        return (own[:, None] == own).to(scores) / subclasses
    return scores
