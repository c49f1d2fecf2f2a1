"""The divergence of the student's matches from their targets over thousands of templates, without the many tensors of
that size that autograd would make and keep: what the loss of letKD costs.

At batch 64, K = 4,096 and 8 x 8 places each such tensor has 67 MB. The gradient, softmax(a) - p_T, is computed along
with the value, in pieces that stay in the processor's cache; targets are made piece by piece. On a GPU, where a piece
is a launch, there are as few as memory allows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PIECE_BYTES = {"cpu": 2**20, "cuda": 2**30}
# (first image, one after the last, whether templates come last) -> p_T, and its sum_k p log p for each place
Targets = Callable[[int, int, bool], tuple[Tensor, Tensor]]


def divergence(scores: Tensor, targets: Targets) -> Tensor:
    """mean over places of KL(p_T || softmax(a)), float32 (float64 of such scores); `letkd_loss` of the whole.

    Args:
        scores: a [B, K, H, W], contiguous or channels last.
        targets: gives (p_T, sum_k p_T log p_T) of some images: [b, H W, K] and [b, H W] where templates come last,
            [b, K, H W] and [b, H W] else.
    """
    return _Divergence.apply(scores, targets)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Targets) -> Tensor:
        last = not scores.is_contiguous() and scores.is_contiguous(memory_format=torch.channels_last)
        kind = torch.float32 if scores.dtype.itemsize < 4 else scores.dtype
        gradient = torch.empty_like(scores)
        rows, out = (_places(each, last) for each in (scores, gradient))
        places = scores.shape[0] * scores.shape[2] * scores.shape[3]
        dim = 2 if last else 1
        total = torch.zeros((), dtype=kind, device=scores.device)
        size = max(1, PIECE_BYTES.get(scores.device.type, 2**30) // (4 * scores[0].numel()))
        for first in range(0, len(scores), size):
            piece = rows[first : first + size].to(kind)
            target, information = targets(first, first + len(piece), last)
            chances = piece.softmax(dim)
            # The largest score and its probability give log sum exp without another pass of exponentials.
            normaliser = piece.amax(dim) - chances.amax(dim).log()
            total += (information + normaliser).sum() - torch.dot(target.flatten(), piece.flatten())
            torch.sub(chances, target, out=chances)
            out[first : first + size] = chances.div_(places)
        ctx.save_for_backward(gradient)
        return total / places

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * weight.to(gradient.dtype), None


def _places(scores: Tensor, last: bool) -> Tensor:
    """[B, K, H, W] as [B, K, H W], or as [B, H W, K] where that is how it lies in memory; a view."""
    return scores.permute(0, 2, 3, 1).flatten(1, 2) if last else scores.flatten(2)
