"""The optimiser, and the learning rate as a function of the step alone: nothing of it needs to be saved."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from kdscope.config import OptimSettings


def make_optimizer(parameters: Iterable[nn.Parameter], settings: OptimSettings) -> Optimizer:
    """SGD with momentum or AdamW, fused: one kernel for all parameters."""
    parameters = [p for p in parameters if p.requires_grad]
    if settings.name == "adamw":
        return AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    return SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate(step: int, total: int, settings: OptimSettings) -> float:
    """The rate at `step` of `total`: a linear warm-up, then cosine to zero, steps, or constant.

    >>> s = OptimSettings(lr=0.1, warmup=0.0)
    >>> round(learning_rate(50, 100, s), 3), round(learning_rate(80, 100, s.model_copy(update={"schedule": "step"})), 4)
    (0.05, 0.001)
    """
    warm = settings.warmup * total
    if step < warm:
        return settings.lr * (step + 1) / (math.floor(warm) + 1)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
    if settings.schedule == "step":
        return settings.lr * settings.gamma ** sum(step >= m * total for m in settings.milestones)
    return settings.lr


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
