"""MobileNetV2 of half width for small images: `mobilenetv2_half` (Sandler et al., CVPR 2018, table 2).

As in the comparison of Tian et al., "Contrastive representation distillation", ICLR 2020: the stem has stride 2 and the
blocks of 24 channels have stride 1; the expansion is 6, and a layer of its own in the first block too; ReLU, not ReLU6.
Parameters with 100 classes: 0.813 M. They bear the names of that comparison's code, so its weights load here.
"""

from functools import partial

from torch import Tensor, nn

from kdscope.models.initialisation import initialise
from kdscope.models.zoo import MODELS

ROWS = (  # expansion, channels at full width, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280  # channels, at any width up to 1


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to fewer (figure 4): [B, C_in, H, W] -> [B, C, H / stride, W / stride].

    No ReLU behind the last convolution: both signs. The input is added where the shape stays.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        inner = in_channels * expansion
        self.adds = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_convolution(in_channels, inner, 1),
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2, inverted residuals, for small images (Sandler et al., CVPR 2018).

    Images [B, 3, H, W] -> logits [B, C]. Stage maps, with both signs, at half width: `blocks.1` [B, 12, H/2, W/2],
    `blocks.2` [B, 16, H/4, W/4], `blocks.4` [B, 48, H/8, W/8], `blocks.6` [B, 160, H/16, W/16].
    """

    stage_names = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")

    def __init__(self, width: float, *, num_classes: int):
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*_convolution(3, channels, 3, 2))
        self.blocks = nn.ModuleList()
        for expansion, full, count, stride in ROWS:
            row = nn.Sequential()
            for i in range(count):
                row.append(InvertedResidual(channels, int(full * width), stride if i == 0 else 1, expansion))
                channels = int(full * width)
            self.blocks.append(row)
        self.conv2 = nn.Sequential(*_convolution(channels, LAST, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(LAST, num_classes))
        initialise(self)
        nn.init.normal_(self.classifier[0].weight, std=0.01)

    @property
    def block_names(self) -> tuple[str, ...]:
        """All blocks, those between the stages too."""
        return tuple(f"blocks.{i}.{j}" for i, row in enumerate(self.blocks) for j in range(len(row)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for row in self.blocks:
            x = row(x)
        return self.classifier(self.avgpool(self.conv2(x)).flatten(1))


def _convolution(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


MODELS.register("mobilenetv2_half")(partial(MobileNetV2, 0.5))
