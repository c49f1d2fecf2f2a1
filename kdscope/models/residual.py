"""Residual blocks with the ReLU behind the addition, and rows of them (He et al., CVPR 2016, figure 5).

A shortcut that changes shape is a 1x1 convolution with batch norm (option B there). With CBAM the gates stand behind
the last batch norm of a block, before the addition (Woo et al., ECCV 2018, figure 3).
"""

from collections.abc import Callable

from torch import Tensor, nn

from kdscope.models.cbam import CBAM


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C_in, H, W] -> [B, C, H / stride, W / stride], non-negative."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, cbam: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.cbam = CBAM(channels) if cbam else None
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        if self.cbam is not None:
            residual = self.cbam(residual)
        return self.relu(self.downsample(x) + residual)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [B, C_in, H, W] -> [B, C, H / stride, W / stride], non-negative.

    The 3x3 convolution has C / 4 channels, and the stride.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, cbam: bool = False):
        super().__init__()
        inner = channels // self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.cbam = CBAM(channels) if cbam else None
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        if self.cbam is not None:
            residual = self.cbam(residual)
        return self.relu(self.downsample(x) + residual)


def stage(
    block: Callable[[int, int, int], nn.Module], in_channels: int, channels: int, count: int, stride: int
) -> nn.Sequential:
    """`count` of block(in_channels, channels, stride): the first changes the shape, the others keep it.

    >>> import torch
    >>> stage(Basic, 16, 32, count=3, stride=2)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """
    return nn.Sequential(
        block(in_channels, channels, stride), *(block(channels, channels, 1) for _ in range(count - 1))
    )


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
