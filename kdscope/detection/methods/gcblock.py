"""The global context block of Cao et al. (GCNet, 2019), by which FGD compares the relations of all places of a map."""

import torch
from torch import Tensor, nn


class GlobalContext(nn.Module):
    """R(F) = F + W_v2(ReLU(LN(W_v1(sum_j softmax_j(W_k F_j) F_j)))): one context vector of the map, added everywhere.

    W_v2 starts at zero, so that R(F) = F and the global loss starts as a plain squared difference of the maps.

    Args:
        channels: C of maps [N, C, H, W]; the bottleneck has half of them.

    >>> F = torch.arange(8.0).view(1, 2, 2, 2)
    >>> bool((GlobalContext(2)(F) == F).all())
    True
    """

    def __init__(self, channels: int):
        super().__init__()
        middle = max(1, channels // 2)
        self.key = nn.Conv2d(channels, 1, 1)
        self.value = nn.Sequential(
            nn.Conv2d(channels, middle, 1),
            nn.LayerNorm([middle, 1, 1]),
            nn.ReLU(),
            nn.Conv2d(middle, channels, 1),
        )
        nn.init.kaiming_normal_(self.key.weight, mode="fan_in")
        nn.init.zeros_(self.key.bias)
        nn.init.zeros_(self.value[3].weight)
        nn.init.zeros_(self.value[3].bias)

    def forward(self, feature_map: Tensor) -> Tensor:
        share = self.key(feature_map).flatten(1).softmax(1)  # [N, HW], how much each place says of the whole
        context = torch.einsum("ncp,np->nc", feature_map.flatten(2), share)
        return feature_map + self.value(context[..., None, None])
