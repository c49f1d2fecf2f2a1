"""ShuffleNets for small images, as in the comparison of Tian et al., "Contrastive representation distillation", 2020.

`shufflenetv1`: Zhang et al., CVPR 2018, table 1, g = 3. `shufflenetv2`: Ma et al., ECCV 2018, table 5, 1x. In both the
stem is a 1x1 convolution and nothing is pooled before the first stage. Parameters with 100 classes: 0.949 M and
1.356 M. They bear the names of that comparison's code, so its weights load here.
"""

import torch
from torch import Tensor, nn

from kdscope.models.initialisation import initialise
from kdscope.models.zoo import MODELS

STEM = 24  # channels


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of [B, C, H, W] dealt out anew, the i-th of each of the `groups` side by side (CVPR 2018, figure 1).

    >>> shuffle(torch.arange(6.0).reshape(1, 6, 1, 1), 3).flatten().tolist()
    [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class GroupedUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3, grouped 1x1 convolution (CVPR 2018, figure 2): [B, C_in, H, W] -> [B, C, ...] >= 0.

    With stride 2 the input, pooled, takes C_in of the C channels of the output; otherwise it is added.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int):
        super().__init__()
        new = channels - in_channels if stride == 2 else channels
        inner = new // 4
        self.groups = 1 if in_channels == STEM else groups  # too few channels for groups (CVPR 2018, section 3.2)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.relu = nn.ReLU()
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        new = shuffle(self.relu(self.bn1(self.conv1(x))), self.groups)
        # That comparison has a ReLU here, which the paper has not.
        new = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(new)))))
        return self.relu(x + new if self.shortcut is None else torch.cat([new, self.shortcut(x)], 1))


class ShuffleNetV1(nn.Module):
    """ShuffleNet with groups of channels, for small images (Zhang et al., CVPR 2018).

    Images [B, 3, H, W] -> logits [B, C]. Stage maps after their ReLU: `layer1` [B, 240, H/2, W/2], `layer2`
    [B, 480, H/4, W/4], `layer3` [B, 960, H/8, W/8].
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, groups: int = 3, widths: tuple[int, ...] = (240, 480, 960), *, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _grouped(STEM, widths[0], 4, groups)
        self.layer2 = _grouped(widths[0], widths[1], 8, groups)
        self.layer3 = _grouped(widths[1], widths[2], 4, groups)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[2], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))


class SplitUnit(nn.Module):
    """Half of the channels as they are, half through three convolutions (ECCV 2018, figure 3c): [B, C, H, W] >= 0.

    One ReLU stands behind the shuffle, over both halves. It changes nothing in the first, which the unit before has
    rectified, and so is the network of the paper, but what enters it is the map before the stage's last ReLU.
    """

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        kept, new = x.chunk(2, 1)
        new = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(new)))))
        new = self.bn3(self.conv3(new))
        return self.relu(shuffle(torch.cat([kept, new], 1), 2))


class DownUnit(nn.Module):
    """Two branches of stride 2 side by side (ECCV 2018, figure 3d): [B, C_in, H, W] -> [B, C, H/2, W/2] >= 0."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        return self.relu(shuffle(torch.cat([left, right], 1), 2))


class ShuffleNetV2(nn.Module):
    """ShuffleNet that splits its channels, 1x, for small images (Ma et al., ECCV 2018).

    Images [B, 3, H, W] -> logits [B, C]. Stage maps after their ReLU: `layer1` [B, 116, H/2, W/2], `layer2`
    [B, 232, H/4, W/4], `layer3` [B, 464, H/8, W/8].
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, widths: tuple[int, ...] = (116, 232, 464, 1024), *, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _split(STEM, widths[0], 3)
        self.layer2 = _split(widths[0], widths[1], 7)
        self.layer3 = _split(widths[1], widths[2], 3)
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[3], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _grouped(in_channels: int, channels: int, count: int, groups: int) -> nn.Sequential:
    rest = (GroupedUnit(channels, channels, 1, groups) for _ in range(count - 1))
    return nn.Sequential(GroupedUnit(in_channels, channels, 2, groups), *rest)


def _split(in_channels: int, channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_channels, channels), *(SplitUnit(channels) for _ in range(count)))


MODELS.register("shufflenetv1")(ShuffleNetV1)
MODELS.register("shufflenetv2")(ShuffleNetV2)
