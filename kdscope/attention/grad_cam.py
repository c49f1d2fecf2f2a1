"""Grad-CAM (Selvaraju et al., ICCV 2017): the channels of any layer, weighted by the mean gradient of a class score.

Written here and not taken from captum: all layers come from one forward and one backward pass, and each layer's output
is safe from operations in place. On one layer the two agree (a test). The score is one of `kdscope.attention.targets`,
none of which depends on the gauge of the head; and the map is kept signed, as its positive part alone cannot be ranked.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.attention.targets import score
from kdscope.errors import KDScopeError


def gradient_map(feature: Tensor, gradient: Tensor) -> Tensor:
    """sum_k alpha_k A_k with alpha_k the mean of the gradient over positions: [B, K, h, w] twice to [B, h, w], signed.

    Eqs. 1 and 2 of the paper without the ReLU, which is the positive part of this.

    >>> a = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    >>> gradient_map(a, torch.ones(1, 2, 1, 2))
    tensor([[[4., 6.]]])
    """
    if feature.dim() != 4 or gradient.shape != feature.shape:
        raise KDScopeError(f"Grad-CAM needs a map [B, K, h, w] and its gradient, not {list(feature.shape)}")
    return (gradient.mean((2, 3), keepdim=True) * feature).sum(1)


class GradCam:
    """Caught layers of a network and their gradients; a context manager that always removes its hooks.

    Args:
        model: images [B, 3, H, W] to logits [B, C], in eval mode; its parameters may be frozen.
        layers: names of modules that run once and give a map [B, K, h, w].

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> with GradCam(net, ["0"]) as cam:
    ...     logits = cam.forward(torch.randn(2, 3, 8, 8))
    ...     maps = cam.maps(logits, torch.tensor([0, 1]))
    >>> maps["0"].shape
    torch.Size([2, 8, 8])
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]):
        self.model, self.layers = model, list(layers)
        self.caught: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "GradCam":
        for layer in self.layers:
            module = self.model.get_submodule(layer)
            self._handles.append(module.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self.caught = {}

    def forward(self, images: Tensor) -> Tensor:
        """The logits [B, C], with the graph from the first of the layers on; `caught` are the layers' outputs."""
        self.caught = {}
        with torch.enable_grad():
            return self.model(images)

    def maps(self, logits: Tensor, classes: Tensor, target: str = "centred-logit") -> dict[str, Tensor]:
        """The map [B, h, w] of each layer for the last `forward`; `classes` int64 [B], `target` as `targets.score`."""
        if not self.layers:
            return {}
        maps = [self.caught[layer] for layer in self.layers]
        with torch.enable_grad():
            total = score(logits.float(), classes, target).sum()
        gradients = torch.autograd.grad(total, maps)
        return {
            layer: gradient_map(value.detach().float(), gradient.float())
            for layer, value, gradient in zip(self.layers, maps, gradients, strict=True)
        }

    def _hook(self, layer: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise KDScopeError(f"layer {layer!r} gives {type(output).__name__}, not a tensor")
            leaf = output if output.requires_grad else output.detach().requires_grad_()
            self.caught[layer] = leaf
            return leaf.clone()  # what comes next may write into it

        return hook
