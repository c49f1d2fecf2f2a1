"""CBAM: a gate on the channels, then a gate on the places, of a feature map (Woo et al., ECCV 2018, section 3).

With the details of the authors' code: the two hidden layers keep their biases, the reduction is 16, and a batch norm
whose scale begins at 0 stands behind the 7x7 convolution, so that the spatial gate is 0.5 everywhere at initialisation.
"""

import torch
from torch import Tensor, nn


class ChannelGate(nn.Module):
    """sigmoid(MLP(mean_HW x) + MLP(max_HW x)), eq. 2: [B, C, H, W] -> gate [B, C, 1, 1] in (0, 1)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return scores.sigmoid()[:, :, None, None]


class SpatialGate(nn.Module):
    """sigmoid(bn(conv7x7([max_C x; mean_C x]))), eq. 3: [B, C, H, W] -> gate [B, 1, H, W] in (0, 1).

    >>> SpatialGate()(torch.randn(1, 8, 2, 2))
    tensor([[[[0.5000, 0.5000],
              [0.5000, 0.5000]]]], grad_fn=<SigmoidBackward0>)
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)
        self.close()

    def close(self) -> None:
        """Set the batch norm's scale and shift to 0: a gate of 0.5 everywhere."""
        nn.init.zeros_(self.bn.weight)
        nn.init.zeros_(self.bn.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return self.bn(self.conv(pooled)).sigmoid()


class CBAM(nn.Module):
    """x' = channel gate(x) * x, then spatial gate(x') * x' (eq. 1): [B, C, H, W] -> [B, C, H, W].

    >>> CBAM(64)(torch.randn(2, 64, 8, 8)).shape
    torch.Size([2, 64, 8, 8])
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.channel = ChannelGate(channels, reduction)
        self.spatial = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel(x) * x
        return self.spatial(x) * x
