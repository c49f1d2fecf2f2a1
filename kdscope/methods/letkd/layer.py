"""The knowledge distillation layer: Gorgun, Gurbuz & Alatan, "Knowledge Distillation Layer that Lets the Student
Decide", BMVC 2023, section 3 and supplement 2.2.

Each place of a map is matched with K templates, and what the matches stand for is added to it:

    a = s1 cos(w_k, x),  p = ReLU(BN(a)),  v = s2 W p / ||p||,  x' = x + alpha v

at training and at inference. Batch norm and ReLU stand for an assignment that may also be "none of them".
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize

VARIANTS = ("official_code", "paper_text")
LEAST = 1e-12  # of a norm that is divided by


class CosConv2d(nn.Module):
    """A 1x1 convolution of unit vectors without bias: [B, C_in, H, W] -> [B, C_out, H, W], within -scale and scale.

    Each place of the input and each row of the weight are divided by their lengths, and the cosine is multiplied by one
    number that is learned. A place that is all zero gives zero.

    Args:
        scale: where that number begins.
        unit: which vectors of the weight have length 1: "rows" (each output channel's) or "columns" (each input's; then
            the result is a sum of unit vectors, not a cosine).

    >>> layer = CosConv2d(2, 1, scale=3.0)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 1.0]]))
    >>> layer(torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)).item()  # 3 cos 45 degrees
    2.1213202476501465
    """

    def __init__(self, in_channels: int, out_channels: int, scale: float, unit: str = "rows"):
        super().__init__()
        self.weight = nn.Parameter(math.sqrt(2 / in_channels) * torch.randn(out_channels, in_channels))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.axis = 1 if unit == "rows" else 0

    def forward(self, x: Tensor) -> Tensor:
        # Scale and lengths are put where the tensor is small: K is up to 64 times the width of the map.
        weight = (self.scale * normalize(self.weight, dim=self.axis))[:, :, None, None]
        length = _Length.apply(x) if torch.is_grad_enabled() and x.requires_grad else _length(x)
        if self.weight.shape[1] < self.weight.shape[0]:
            return conv2d((x / length).to(x.dtype), weight.to(x.dtype))
        return conv2d(x, weight.to(x.dtype)) / length

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


def _length(x: Tensor) -> Tensor:
    """The length of each place of x [B, C, H, W] over channels, float32 at least: [B, 1, H, W], above 0."""
    kind = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=kind).clamp_min(LEAST)


class _Length(torch.autograd.Function):
    """The same, with one tensor of the size of x in its gradient where autograd makes two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = _length(x)
        ctx.save_for_backward(x, length)
        return length

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, length = ctx.saved_tensors
        return x * (gradient / length).to(x.dtype)


class KDLayer(nn.Module):
    """x + alpha v of the module's docstring: a map [B, C, H, W] to one of the same shape.

    It has 2 K C + 2 K + 2 parameters. `codes` gives the matches a [B, K, H, W], which the teacher is shown; `match` the
    assignments p; `values` what is added.

    Args:
        channels: C of the map. templates: K.
        alpha: weight of what is added, a constant that may be set at test time; 0 leaves the map as it is.
        scale, value_scale: where s1 and s2 begin.
        variant: "official_code", where each row of W has length 1, or "paper_text", where each template's value has.
    """

    def __init__(
        self,
        channels: int,
        templates: int,
        alpha: float = 1.0,
        scale: float = 3.0,
        value_scale: float = 1.0,
        variant: str = "official_code",
    ):
        super().__init__()
        self.codes = CosConv2d(channels, templates, scale)
        self.norm = nn.BatchNorm2d(templates)
        self.match = nn.ReLU(inplace=True)
        self.values = CosConv2d(templates, channels, value_scale, "rows" if variant == "official_code" else "columns")
        self.alpha = float(alpha)

    @property
    def templates(self) -> int:
        return self.codes.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        found = self.match(self.norm(self.codes(x)))
        return x + self.alpha * self.values(found).to(x.dtype)

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Number the templates anew [K]: the layer computes the same."""
        self.codes.weight.copy_(self.codes.weight[order])
        self.values.weight.copy_(self.values.weight[:, order])
        for each in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
            each.copy_(each[order])


def kd_layers(network: nn.Module) -> Iterator[tuple[str, KDLayer]]:
    """The knowledge distillation layers of a network, with their names."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, KDLayer))
