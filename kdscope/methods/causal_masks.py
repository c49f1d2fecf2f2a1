"""Masks of causal attention transfer: where a teacher's evidence for a class lies, and the controls of that claim.

The evidence is the attribution of a class score to a layer's output A, by the head alone (what lies above the layer):
integrated gradients from A = 0 (Sundararajan, Taly & Yan, ICML 2017), summed over channels, or Grad-CAM. A control
keeps everything about these masks but their place: the same values at other places, or the mask of another image.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kdscope.attention.grad_cam import gradient_map
from kdscope.attention.integrated import integrate
from kdscope.attention.masks import signed, top_mask
from kdscope.attention.targets import score
from kdscope.data import chance

POINTS = 1024  # of the head that go through at once; fewer where memory runs out
SHAPES = ("soft", "topq")
TINY = 1e-12
Head = Callable[[Tensor, Tensor], Tensor]  # activations [M, C, h, w] and whose they are [M] -> logits [M, classes]


def integrated_map(head: Head, activation: Tensor, classes: Tensor, target: str, steps: int) -> tuple[Tensor, Tensor]:
    """sum_c IG_c [B, h, w] of a class score, signed, by the midpoint rule from A = 0, and its completeness error [B].

    IG = A 1/m sum_k dF/dA ((k + 1/2) A / m); the error is |sum IG - (F(A) - F(0))| / |F(A) - F(0)|.

    >>> head = lambda a, rows: torch.stack([a.square().sum((1, 2, 3)) / 2, a.sum((1, 2, 3))], dim=1)
    >>> found, error = integrated_map(head, torch.full((1, 2, 1, 1), 3.0), torch.tensor([0]), "raw-logit", 8)
    >>> found.item(), error.item()  # 2 * 3^2 / 2
    (9.0, 0.0)
    """
    activation = activation.detach().float()

    def scores(points: Tensor, rows: Tensor) -> Tensor:
        return score(head(points, rows).float(), classes[rows], target)

    found = integrate(scores, activation, torch.zeros_like(activation), steps=steps, most=steps, batch_size=POINTS)
    return found.map(), found.error


def grad_cam_map(head: Head, activation: Tensor, classes: Tensor, target: str) -> Tensor:
    """sum_c A_c mean_hw dF/dA_c [B, h, w], signed: Grad-CAM without its ReLU, of the head alone."""
    with torch.enable_grad():
        point = activation.detach().float().requires_grad_()
        rows = torch.arange(len(point), device=point.device)
        (gradient,) = torch.autograd.grad(score(head(point, rows).float(), classes, target).sum(), point)
    return gradient_map(point.detach(), gradient)


def stored(attribution: Tensor) -> Tensor:
    """As it is kept: [B, h, w] over its largest magnitude, float16; 0 where that is below 1e-12.

    The sign, and with it every way to make a mask, can still be chosen. What is computed for a batch goes through here
    too, so that it is what was kept.

    >>> stored(torch.tensor([[[-4.0, 2.0]], [[0.0, 0.0]]])).tolist()
    [[[-1.0, 0.5]], [[0.0, 0.0]]]
    """
    largest = attribution.abs().amax((1, 2), keepdim=True)
    return (attribution / largest.clamp_min(TINY)).where(largest >= TINY, 0.0).half()


def mask_of(attribution: Tensor, shape: str = "soft", q: float = 0.85, sign: str = "positive") -> Tensor:
    """M [B, h, w], float32, from a signed attribution M~ [B, h, w]; 1 everywhere where M~ is 0 everywhere.

    Args:
        shape: `soft`, M~ / max |M~|; `topq`, 1 at the round((1 - q) h w) places of greatest M~ (at least one), 0
            elsewhere. A quantile as a threshold would keep all places where M~ is 0 at most of them.
        sign: `positive`, relu(M~); `absolute`; `signed`.

    >>> mask_of(torch.tensor([[[1.0, 2.0]], [[-1.0, 0.0]]])).tolist()
    [[[0.5, 1.0]], [[1.0, 1.0]]]
    """
    counted = signed(attribution.float(), sign)
    largest = counted.abs().amax((1, 2), keepdim=True)
    mask = top_mask(counted, 1 - q).float() if shape == "topq" else counted / largest.clamp_min(TINY)
    return mask.where(largest >= TINY, 1.0)


def at_random_places(maps: Tensor, index: Tensor) -> Tensor:
    """The same values [B, h, w] in another order: a permutation of the places that is a function of the index [B].

    Every image keeps the histogram of its mask, in every view, and its permutation for good.

    >>> moved = at_random_places(torch.arange(4.0).reshape(1, 2, 2), torch.tensor([5]))
    >>> moved.sort().values.flatten().sort().values.tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    flat = maps.flatten(1)
    places = flat.shape[1]
    counter = index[:, None] * places + torch.arange(places, device=index.device)
    order = chance.bits(0, 0, counter, "cakd-random-mask").argsort(dim=1)
    return flat.gather(1, order).reshape(maps.shape)


def of_another_image(maps: Tensor, index: Tensor) -> Tensor:
    """The map [B, h, w] of another image of the batch: the next, around, in an order that hashes of the indices give.

    Nobody keeps his own from two images on; the order of the batch does not matter.

    >>> of_another_image(torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([8, 3])).flatten().tolist()
    [2.0, 1.0]
    """
    order = chance.bits(0, 0, index, "cakd-other-image").argsort()
    partner = torch.empty_like(order).scatter_(0, order, order.roll(1))
    return maps.index_select(0, partner)
