"""The large residual networks on small images: resnet18, resnet34, resnet50, resnet101, and `_cbam` versions of each.

He et al., "Deep residual learning for image recognition", CVPR 2016, table 1, with the stem that is usual for CIFAR:
one 3x3 convolution of stride 1, no max pooling. In a bottleneck the 3x3 convolution has the stride. With CBAM the gates
stand behind the last batch norm of each block, before the addition (Woo et al., ECCV 2018, figure 3). With 10 classes:
resnet18 11.17 M parameters and 0.555 GMAC at 32 pixels, resnet50 23.52 M and 1.298 GMAC, resnet50_cbam 26.05 M and 1.30
GMAC.
"""

from functools import partial

from torch import Tensor, nn

from kdscope.models.cbam import CBAM, SpatialGate
from kdscope.models.initialisation import initialise
from kdscope.models.zoo import MODELS

CHANNELS = (64, 128, 256, 512)


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C_in, H, W] -> [B, C, H / stride, W / stride], non-negative."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, cbam: bool):
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
    """1x1, 3x3, 1x1 convolutions and a shortcut: [B, C_in, H, W] -> [B, 4C, H / stride, W / stride], non-negative."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, cbam: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU()
        self.cbam = CBAM(4 * channels) if cbam else None
        self.downsample = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        if self.cbam is not None:
            residual = self.cbam(residual)
        return self.relu(self.downsample(x) + residual)


class ResNet(nn.Module):
    """Images [B, 3, H, W] -> logits [B, C]; `block` is `Basic` or `Bottleneck`, `counts` the blocks in each stage.

    Stage maps after their last ReLU, with e = 1 (Basic) or 4: `layer1` [B, 64e, H, W], `layer2` [B, 128e, H/2, W/2],
    `layer3` [B, 256e, H/4, W/4], `layer4` [B, 512e, H/8, W/8].

    >>> import torch
    >>> ResNet(Basic, (1, 1, 1, 1), num_classes=10)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 10])
    """

    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        counts: tuple[int, int, int, int],
        cbam: bool = False,
        *,
        num_classes: int,
    ):
        super().__init__()
        e = block.expansion
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = _stage(block, 64, CHANNELS[0], counts[0], stride=1, cbam=cbam)
        self.layer2 = _stage(block, CHANNELS[0] * e, CHANNELS[1], counts[1], stride=2, cbam=cbam)
        self.layer3 = _stage(block, CHANNELS[1] * e, CHANNELS[2], counts[2], stride=2, cbam=cbam)
        self.layer4 = _stage(block, CHANNELS[2] * e, CHANNELS[3], counts[3], stride=2, cbam=cbam)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(CHANNELS[3] * e, num_classes)
        initialise(self)
        for module in self.modules():
            if isinstance(module, SpatialGate):
                module.close()

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(
    block: type[Basic] | type[Bottleneck], in_channels: int, channels: int, count: int, stride: int, cbam: bool
) -> nn.Sequential:
    first = block(in_channels, channels, stride, cbam)
    rest = (block(channels * block.expansion, channels, 1, cbam) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


for _depth, _block, _counts in (
    (18, Basic, (2, 2, 2, 2)),
    (34, Basic, (3, 4, 6, 3)),
    (50, Bottleneck, (3, 4, 6, 3)),
    (101, Bottleneck, (3, 4, 23, 3)),
):
    MODELS.register(f"resnet{_depth}")(partial(ResNet, _block, _counts))
    MODELS.register(f"resnet{_depth}_cbam")(partial(ResNet, _block, _counts, True))
