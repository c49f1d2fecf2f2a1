"""Wide residual networks, `wrn-D-W` of any depth D = 6n + 4 and width W (Zagoruyko & Komodakis, BMVC 2016, table 1).

Pre-activation: a block is batch norm, ReLU, convolution, twice, added to its input as it is; batch norm and ReLU follow
the last stage. So a stage map here is a sum with both signs, the tensor that attention transfer was defined on for
these networks (Zagoruyko & Komodakis, ICLR 2017, section 4.1), where a CIFAR ResNet's is a ReLU's output. Without
dropout. Parameters with 100 classes: wrn-16-2 0.703 M, wrn-40-1 0.570 M, wrn-40-2 2.255 M, wrn-16-4 2.772 M, wrn-28-10
36.5 M; wrn-10-4 1.22 M and wrn-22-4 4.32 M are the student and the teacher of Lee & Song (BMVC 2019), as drawn there.
"""

from functools import partial

from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.models.initialisation import initialise
from kdscope.models.residual import stage
from kdscope.models.zoo import MODELS


class PreActivationBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))): [B, C_in, H, W] -> [B, C_out, H / stride, W / stride].

    Where the shape changes, the shortcut is a 1x1 convolution of relu(bn(x)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        residual = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Wide ResNet of depth D and width W (Zagoruyko & Komodakis, BMVC 2016).

    Images [B, 3, H, W] -> logits [B, C].

    Stage maps, before the batch norm and ReLU that follow: `layer1` [B, 16W, H, W], `layer2` [B, 32W, H/2, W/2],
    `layer3` [B, 64W, H/4, W/4].

    >>> import torch
    >>> WideResNet(10, 1, num_classes=10)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, depth: int, width: int, *, num_classes: int):
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            blocks = max(1, (depth - 4) // 6)
            valid = [f"wrn-{6 * n + 4}-{max(1, width)}" for n in (blocks, blocks + 1)]
            raise KDScopeError(
                f"wrn-{depth}-{width} cannot be: a wide ResNet has depth 6n + 4, n >= 1, and width >= 1; "
                f"nearest: {', '.join(valid)}"
            )
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = stage(PreActivationBlock, 16, 16 * width, blocks, stride=1)
        self.layer2 = stage(PreActivationBlock, 16 * width, 32 * width, blocks, stride=2)
        self.layer3 = stage(PreActivationBlock, 32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        x = self.relu(self.bn1(x))
        return self.fc(self.avgpool(x).flatten(1))


MODELS.register("wrn-D-W")(WideResNet)
for _size in ("10-1", "10-4", "16-1", "16-2", "16-4", "22-2", "22-4", "28-2", "28-10", "40-1", "40-2", "40-4"):
    MODELS.register(f"wrn-{_size}")(partial(WideResNet, *map(int, _size.split("-"))))
