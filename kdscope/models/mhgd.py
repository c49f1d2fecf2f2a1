"""The networks of Lee & Song, "Graph-based knowledge distillation by multi-head attention network", BMVC 2019.

As drawn there: `vgg16_mhgd` teaches `vgg7_mhgd`; wrn-22-4 teaches wrn-10-4 (wrn.py), and three students whose stages
are as wide as its own: `resnet_s`, `mobilenet_s`, `vgg_s`. The drawings show layers, widths and strides; batch norm
behind each convolution of the latter two is our reading. Parameters and multiply-adds at 32 pixels with 100 classes, of
the networks here (those that the paper's tables give fit no reading of its drawings):

| network     | parameters | multiply-adds |
|-------------|------------|---------------|
| vgg16_mhgd  | 17.96 M    | 401 M         |
| vgg7_mhgd   | 6.11 M     | 98 M          |
| resnet_s    | 1.22 M     | 166 M         |
| mobilenet_s | 0.158 M    | 14.9 M        |
| vgg_s       | 1.18 M     | 161 M         |
"""

from functools import partial

from torch import Tensor, nn

from kdscope.models.cifar_resnet import CifarResNet
from kdscope.models.initialisation import initialise
from kdscope.models.zoo import MODELS

CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 1024


class Halve(nn.MaxPool2d):
    """Max pooling by 2 of maps of 8 pixels a side and more: those of larger images than CIFAR's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if min(x.shape[2:]) >= 8 else x


class SensedVGG(nn.Module):
    """VGG without batch norm, a stage map behind each pooling (Lee & Song, BMVC 2019).

    Images [B, 3, H, W] -> logits [B, C]. Stage maps `block1` [B, 64, H/2, W/2], `block2` [B, 128, H/4, W/4], `block3`
    [B, 256, H/8, W/8], `block4` [B, 512, H/8, W/8], `block5` [B, 512, H/16, W/16]; from 64 pixels the last two are half
    of that. Dropout behind the hidden linear layers is that of VGG (ICLR 2015, section 3.1); no drawing shows it.

    The last ReLU of a stage stands behind its pooling: the same map, for both keep the order of numbers, and so the map
    before the stage's last ReLU is as large as the stage's.
    """

    stage_names = ("block1", "block2", "block3", "block4", "block5")

    def __init__(self, counts: tuple[int, ...], hidden: int, *, num_classes: int, dropout: float = 0.5):
        super().__init__()
        channels = (3, *CHANNELS)
        for i, count in enumerate(counts):
            pool = Halve(2) if i == 3 else nn.MaxPool2d(2)
            self.add_module(f"block{i + 1}", _pooled(channels[i], channels[i + 1], count, pool))
        # Other images than those of 32 and 64 pixels leave other maps than 2 x 2.
        self.flat = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.hidden = nn.Sequential()
        for inputs in [4 * CHANNELS[-1], HIDDEN][:hidden]:
            self.hidden.extend([nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Dropout(dropout)])
        self.classifier = nn.Linear(HIDDEN, num_classes)
        initialise(self)
        for module in (m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m is not self.classifier):
            nn.init.kaiming_normal_(module.weight)  # fan-in: without batch norm it is the signal that must not fade

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.classifier(self.hidden(self.flat(x)))


class Row(nn.Module):
    """Stem, three stages of given layers, average pooling, linear layer (Lee & Song, BMVC 2019).

    Images [B, 3, H, W] -> logits [B, C]. Stage maps after their ReLU: `layer1` [B, 64, H, W], `layer2`
    [B, 128, H/2, W/2], `layer3` [B, 256, H/4, W/4].
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, *stages: list[nn.Module], num_classes: int):
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 16))
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*layers) for layers in stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(images))))
        return self.fc(self.avgpool(x).flatten(1))


@MODELS.register("resnet_s")
def resnet_s(*, num_classes: int) -> CifarResNet:
    """ResNet student of wrn-22-4 (Lee & Song, BMVC 2019)."""
    return CifarResNet(8, 16, 4, num_classes=num_classes)


@MODELS.register("mobilenet_s")
def mobilenet_s(*, num_classes: int) -> Row:
    """MobileNet student of wrn-22-4 (Lee & Song, BMVC 2019)."""
    first = _separable(16, 64)
    second = [*_separable(64, 128, 2), *_separable(128, 128)]
    third = [*_separable(128, 256, 2), *_separable(256, 256)]
    return Row(first, second, third, num_classes=num_classes)


@MODELS.register("vgg_s")
def vgg_s(*, num_classes: int) -> Row:
    """VGG student of wrn-22-4 (Lee & Song, BMVC 2019)."""
    first = [*_convolution(16, 64), *_convolution(64, 64)]
    second = [*_convolution(64, 128, 2), *_convolution(128, 128)]
    third = [*_convolution(128, 256, 2), *_convolution(256, 256)]
    return Row(first, second, third, num_classes=num_classes)


def _pooled(in_channels: int, channels: int, count: int, pool: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1], pool, layers[-1])


def _convolution(in_channels: int, channels: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def _separable(in_channels: int, channels: int, stride: int = 1) -> list[nn.Module]:
    """Depthwise 3x3, then 1x1 (Howard et al., "MobileNets", 2017, figure 3)."""
    depthwise = _convolution(in_channels, in_channels, stride, groups=in_channels)
    return [*depthwise, *_convolution(in_channels, channels, kernel=1)]


MODELS.register("vgg16_mhgd")(partial(SensedVGG, (2, 2, 3, 3, 3), 2))
MODELS.register("vgg7_mhgd")(partial(SensedVGG, (1, 1, 1, 1, 1), 1))
