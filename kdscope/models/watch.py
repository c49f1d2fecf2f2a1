"""What each module of a network does with one black image, of a size that fits."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdscope.errors import KDScopeError

SIZES = (64, 32, 224)  # pixels: images that are tried on a network whose image size is not known


@dataclass(frozen=True)
class Step:
    """One call of one module, in the order in which calls finish: parts before the whole."""

    name: str
    module: nn.Module
    call: int  # 0 for the first call of this module
    output: Any
    operation: str  # autograd's name of what made the output, in lower case; "" without a graph

    @property
    def has_parts(self) -> bool:
        return next(self.module.children(), None) is not None

    @property
    def depth(self) -> int:
        return self.name.count(".")


def watch(model: nn.Module, image_size: int | None = None, *, gradient: bool = False) -> list[Step]:
    """Every call of every module of `model`, for one black image in eval mode; the network stays as it was.

    Args:
        model: any network on images [B, 3, H, W].
        image_size: side of the image, in pixels; without it `SIZES`, until one fits.
        gradient: record the graph, so that outputs know by which operation they were made.

    Raises:
        KDScopeError: if the network takes no such image.

    >>> [(step.name, step.call) for step in watch(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))]
    [('0', 0), ('1', 0)]
    """
    steps: list[Step] = []
    calls: dict[str, int] = {}
    sizes = (image_size,) if image_size else SIZES
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))

    def after(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, -1) + 1
            # Read now: an operation in place may write over the output later.
            made = getattr(output, "grad_fn", None)
            steps.append(Step(name, module, calls[name], output, "" if made is None else type(made).__name__.lower()))

        return hook

    handles = [module.register_forward_hook(after(name)) for name, module in model.named_modules() if name]
    try:
        with evaluating(model), torch.set_grad_enabled(gradient):
            for size in sizes:
                steps.clear()
                calls.clear()
                image = torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype, requires_grad=gradient)
                try:
                    model(image.clone())  # a clone, so that an operation in place may come first
                    break
                except Exception as error:  # a network that is not ours fails in its own way
                    reason = error
            else:
                tried = ", ".join(map(str, sizes))
                raise KDScopeError(
                    f"this {type(model).__name__} takes no image [1, 3, H, H] of {tried} pixels "
                    f"({type(reason).__name__}: {' '.join(str(reason).split())[:200]})"
                ) from reason
    finally:
        for handle in handles:
            handle.remove()
    return steps


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in eval mode and without gradients; afterwards each of its modules is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
