"""How the gradients of the task and of the transfer are put together, for each parameter tensor on its own.

A rule gets both gradients of every tensor (None where a loss does not reach it) and the epoch, and gives the one that
the optimiser sees; weight decay comes on top, in the optimiser. "sum" is not among them: it is the ordinary backward
pass.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdscope.errors import KDScopeError, unknown
from kdscope.registry import Registry

Gradients = Sequence[Tensor | None]
Rule = Callable[[Gradients, Gradients, int], list[Tensor | None]]

GRADIENTS: Registry[Rule] = Registry("gradient rule", group="kdscope.gradients")
TINY = 1e-12  # a norm of zero


@GRADIENTS.register("clip")
def clip(task: Gradients, transfer: Gradients, epoch: int) -> list[Tensor | None]:
    """g = g_task + g_transfer min(1, s ||g_task|| / ||g_transfer||), s = sigmoid(epoch), for each tensor.

    The rule of the released code of KD-SVD (Lee et al., ECCV 2018) and MHGD (Lee & Song, BMVC 2019): the transfer may
    never be stronger than the task, and in the first epoch half as strong. A tensor that the task does not reach (an
    adapter) takes the gradient of the transfer as it is.

    >>> clip([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 50.0])], epoch=0)  # capped at 5 sigmoid(0)
    [tensor([3.0000, 6.5000])]
    """
    share = 1 / (1 + math.exp(-epoch))
    return _scaled(task, transfer, lambda main, extra: (share * main / extra.clamp_min(TINY)).clamp_max(1.0))


@GRADIENTS.register("clip-paper")
def clip_paper(task: Gradients, transfer: Gradients, epoch: int) -> list[Tensor | None]:
    """g = g_task + g_transfer / (1 + exp(-tau)), tau = max(1, ||g_task|| / ||g_transfer||), for each tensor.

    The rule as MHGD prints it: the factor lies in [0.73, 1), so that it never caps a transfer that is too strong.

    >>> clip_paper([torch.tensor([1.0])], [torch.tensor([10.0])], epoch=0)[0].round(decimals=3)  # 1 + 10 sigmoid(1)
    tensor([8.3110])
    """
    return _scaled(task, transfer, lambda main, extra: (main / extra.clamp_min(TINY)).clamp_min(1.0).sigmoid())


@GRADIENTS.register("noise-matched")
def noise_matched(task: Gradients, transfer: Gradients, epoch: int) -> list[Tensor | None]:
    """`clip` with the transfer's direction replaced by a random one of the same length, tensor by tensor.

    A control: what is left of a gain with it comes from a larger and noisier step, not from the teacher. A tensor that
    the task does not reach keeps the transfer's own gradient.

    >>> (g,) = noise_matched([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 50.0])], epoch=0)
    >>> round(float((g - torch.tensor([3.0, 4.0])).norm()), 4)  # as long as the clipped one: 5 sigmoid(0)
    2.5
    """
    noisy = []
    for main, clipped in zip(task, clip(task, transfer, epoch), strict=True):
        if main is None or clipped is None:
            noisy.append(clipped)
            continue
        noise = torch.randn_like(main)
        noisy.append(main + noise * ((clipped - main).norm() / noise.norm().clamp_min(TINY)))
    return noisy


@GRADIENTS.register("lr-matched")
def lr_matched(task: Gradients, transfer: Gradients, epoch: int) -> list[Tensor | None]:
    """g = g_task (1 + ||clipped g_transfer|| / ||g_task||), tensor by tensor: the task alone, in larger steps.

    A control for the step size: the clipped transfer can double the length of an update.

    >>> lr_matched([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 50.0])], epoch=0)
    [tensor([4.5000, 6.0000])]
    """
    longer = []
    for main, clipped in zip(task, clip(task, transfer, epoch), strict=True):
        if main is None or clipped is None:
            longer.append(clipped)
        else:
            longer.append(main * (1 + (clipped - main).norm() / main.norm().clamp_min(TINY)))
    return longer


def diagnosed(task: Gradients, transfer: Gradients, epoch: int) -> Tensor:
    """Over the tensors that both reach: ||g_transfer|| / ||g_task||, their cosine, and whether `clip` would cap.

    Returns float32 [3]: the medians of the first two (a ratio has no mean), and the share that is capped.
    """
    both = [(a, b) for a, b in zip(task, transfer, strict=True) if a is not None and b is not None]
    if not both:
        return torch.zeros(3)
    main = torch.stack(torch._foreach_norm([a for a, _ in both])).clamp_min(TINY)
    extra = torch.stack(torch._foreach_norm([b for _, b in both]))
    inner = torch.stack([(a * b).sum() for a, b in both])
    capped = extra * (1 + math.exp(-epoch)) > main
    cosine = inner / (main * extra.clamp_min(TINY))
    return torch.stack([(extra / main).median(), cosine.median(), capped.float().mean()])


def _scaled(task: Gradients, transfer: Gradients, factor: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor | None]:
    """The task's gradients with the transfer's added, times a factor of their two norms."""
    both = [k for k, (a, b) in enumerate(zip(task, transfer, strict=True)) if a is not None and b is not None]
    combined = [b if a is None else a for a, b in zip(task, transfer, strict=True)]
    if both:
        main = torch.stack(torch._foreach_norm([task[k] for k in both]))
        extra = torch.stack(torch._foreach_norm([transfer[k] for k in both]))
        scales = factor(main, extra).unbind()
        added = torch._foreach_add([task[k] for k in both], torch._foreach_mul([transfer[k] for k in both], scales))
        for k, value in zip(both, added, strict=True):
            combined[k] = value
    return combined


def check_rule(name: str, precision: str) -> None:
    """Raise for a rule that is none, with the nearest, or that the precision of the config makes meaningless."""
    if name != "sum" and name not in GRADIENTS:
        raise unknown("gradients", name, ["sum", *GRADIENTS])
    if name != "sum" and precision == "16":
        raise KDScopeError(f"gradients {name!r} compares the sizes of gradients, which --precision 16 scales; use bf16")
