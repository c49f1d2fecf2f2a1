"""The small residual networks of the CIFAR comparisons: resnet8 ... resnet110, resnet8x4 and resnet32x4.

He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2: three stages of n blocks, depth
6n + 2, 16-32-64 channels. As in the comparison of Tian et al., "Contrastive representation distillation", ICLR 2020, a
shortcut that changes shape is a 1x1 convolution with batch norm (He et al. pad with zeros), and `x4` means 32 channels
in the stem and 64-128-256 in the stages. Parameters with 100 classes: resnet20 0.278 M, resnet56 0.862 M, resnet8x4
1.234 M, resnet32x4 7.434 M; these two are also the "ResNet8 and ResNet32, doubled" of Lee & Song's code (BMVC 2019).
Parameters bear the names of the comparison's code, so its weights load here.
"""

from functools import partial

from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.models.initialisation import initialise
from kdscope.models.residual import Basic, stage
from kdscope.models.zoo import MODELS


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for small images (He et al., CVPR 2016, section 4.2).

    Images [B, 3, H, W] -> logits [B, C]. `multiplier` makes all widths so many times as large, rounded: a student of
    any capacity (`kdscope.models.matching_multiplier`).

    Stage maps: `layer1` [B, 16w, H, W], `layer2` [B, 32w, H/2, W/2], `layer3` [B, 64w, H/4, W/4], each after its ReLU.

    >>> import torch
    >>> CifarResNet(8, num_classes=10)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, depth: int, stem: int = 16, width: int = 1, *, num_classes: int, multiplier: float = 1.0):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise KDScopeError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, ...), not {depth}")
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier <= 64:
            raise KDScopeError(f"a CIFAR ResNet's multiplier is a number above 0, at most 64, not {multiplier!r}")
        blocks = (depth - 2) // 6
        stem, *widths = (
            max(1, round(multiplier * channels)) for channels in (stem, 16 * width, 32 * width, 64 * width)
        )
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = stage(Basic, stem, widths[0], blocks, stride=1)
        self.layer2 = stage(Basic, widths[0], widths[1], blocks, stride=2)
        self.layer3 = stage(Basic, widths[1], widths[2], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}")(partial(CifarResNet, _depth))
for _depth in (8, 32):
    MODELS.register(f"resnet{_depth}x4")(partial(CifarResNet, _depth, 32, 4))
