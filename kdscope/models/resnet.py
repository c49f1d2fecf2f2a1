"""The large residual networks on small images: resnet18, resnet34, resnet50, resnet101, and `_cbam` versions of each.

He et al., "Deep residual learning for image recognition", CVPR 2016, table 1, with the stem that is usual for CIFAR:
one 3x3 convolution of stride 1, no max pooling. CBAM: Woo et al., ECCV 2018. With 10 classes: resnet18 11.17 M
parameters and 0.555 GMAC at 32 pixels, resnet50 23.52 M and 1.298 GMAC, resnet50_cbam 26.05 M and 1.30 GMAC.
"""

from functools import partial

from torch import Tensor, nn

from kdscope.models.cbam import SpatialGate
from kdscope.models.initialisation import initialise
from kdscope.models.residual import Basic, Bottleneck, stage
from kdscope.models.zoo import MODELS

CHANNELS = (64, 128, 256, 512)


class ResNet(nn.Module):
    """ResNet of four stages, stem for small images (He et al., CVPR 2016, table 1).

    Images [B, 3, H, W] -> logits [B, C]; `block` is `Basic` or `Bottleneck`, `counts` the blocks in each stage.

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
        counts: tuple[int, ...],
        cbam: bool = False,
        *,
        num_classes: int,
    ):
        super().__init__()
        widths = [channels * block.expansion for channels in CHANNELS]
        make = partial(block, cbam=cbam)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = stage(make, 64, widths[0], counts[0], stride=1)
        self.layer2 = stage(make, widths[0], widths[1], counts[1], stride=2)
        self.layer3 = stage(make, widths[1], widths[2], counts[2], stride=2)
        self.layer4 = stage(make, widths[2], widths[3], counts[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise(self)
        for module in self.modules():
            if isinstance(module, SpatialGate):
                module.close()

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def cbam_resnet(
    block: type[Basic] | type[Bottleneck], counts: tuple[int, int, int, int], *, num_classes: int
) -> ResNet:
    """ResNet with gates on channels and places, CBAM (Woo et al., ECCV 2018)."""
    return ResNet(block, counts, True, num_classes=num_classes)


for _depth, _block, _counts in (
    (18, Basic, (2, 2, 2, 2)),
    (34, Basic, (3, 4, 6, 3)),
    (50, Bottleneck, (3, 4, 6, 3)),
    (101, Bottleneck, (3, 4, 23, 3)),
):
    MODELS.register(f"resnet{_depth}")(partial(ResNet, _block, _counts))
    MODELS.register(f"resnet{_depth}_cbam")(partial(cbam_resnet, _block, _counts))
