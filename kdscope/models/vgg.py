"""VGG with batch norm for small images: vgg8, vgg11, vgg13, vgg16, vgg19 (Simonyan & Zisserman, ICLR 2015, table 1).

As in the comparison of Tian et al., "Contrastive representation distillation", ICLR 2020: vgg8 has one convolution in
each of the five blocks, and one linear layer stands behind the average pool. Its four stage maps are the outputs of the
second to the fifth block there and here (the first, at full resolution, is no stage), so that they pair with those of a
ResNet of four stages. Parameters with 100 classes: vgg8 3.965 M, vgg13 9.462 M. They bear the names of that
comparison's code.
"""

from functools import partial

from torch import Tensor, nn

from kdscope.models.initialisation import initialise
from kdscope.models.zoo import MODELS

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # in each of the five blocks
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """VGG with batch norm, one linear layer (Simonyan & Zisserman, ICLR 2015).

    Images [B, 3, H, W] of 16 pixels and more -> logits [B, C].

    Stage maps, each after its ReLU and before the pooling: `block1` [B, 128, H/2, W/2], `block2` [B, 256, H/4, W/4],
    `block3` [B, 512, H/8, W/8], and `block4` [B, 512, H/8, W/8]; H/16 for images of 64 pixels and more.

    >>> import torch
    >>> VGG(8, num_classes=10)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    stage_names = ("block1", "block2", "block3", "block4")

    def __init__(self, depth: int, *, num_classes: int):
        super().__init__()
        counts = CONVOLUTIONS[depth]
        self.block0 = _block(3, CHANNELS[0], counts[0])
        self.block1 = _block(CHANNELS[0], CHANNELS[1], counts[1])
        self.block2 = _block(CHANNELS[1], CHANNELS[2], counts[2])
        self.block3 = _block(CHANNELS[2], CHANNELS[3], counts[3])
        self.block4 = _block(CHANNELS[3], CHANNELS[4], counts[4])
        self.pool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(CHANNELS[4], num_classes)
        initialise(self)
        nn.init.normal_(self.classifier.weight, std=0.01)  # as in the VGG paper, section 3.1

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.block0(images))
        x = self.pool(self.block1(x))
        x = self.pool(self.block2(x))
        x = self.block3(x)
        if min(x.shape[2:]) >= 8:  # images of 64 pixels; at 32 the map is 4 x 4 already
            x = self.pool(x)
        return self.classifier(self.avgpool(self.block4(x)).flatten(1))


def _block(in_channels: int, channels: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers)


for _depth in CONVOLUTIONS:
    MODELS.register(f"vgg{_depth}")(partial(VGG, _depth))
