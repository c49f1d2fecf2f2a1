"""A small vision transformer for small images: `vit_tiny` (Dosovitskiy et al., ICLR 2021; Touvron et al., ICML 2021).

The tiny one of DeiT (table 1 there: 192 channels, 12 blocks, 3 heads), with patches of 4 pixels instead of 16, so that
an image of 32 pixels is 8 x 8 of them; without its distillation token and its stochastic depth. Parameters with 100
classes: 5.38 M.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdscope.errors import KDScopeError
from kdscope.models.zoo import MODELS

PATCH = 4  # pixels
SIDE = 8  # patches a side that the table of positions is made for; for others it is interpolated


class PatchMap(nn.Module):
    """Patch tokens [B, h * w, D] as a map [B, D, h, w]; a module, so that a hook finds it."""

    def forward(self, patches: Tensor, sides: tuple[int, int]) -> Tensor:
        return patches.transpose(1, 2).unflatten(2, sides)


class ViT(nn.Module):
    """Vision transformer with a class token, patches of 4 pixels (Touvron et al., DeiT, ICML 2021).

    Images [B, 3, H, W] -> logits [B, C]. Stage maps `stage1` to `stage4` [B, dim, H/4, W/4], with both signs: the patch
    tokens behind blocks depth / 4, depth / 2, 3 depth / 4 and depth - 1; those that leave the last block reach no
    logit. The later blocks read the maps: gradients, and what a hook changes, go on from there.

    Raises:
        KDScopeError: if the depth is less than 5: two maps would be one.

    >>> ViT(dim=24, depth=5, num_classes=10)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 10])
    """

    stage_names = ("stage1", "stage2", "stage3", "stage4")

    def __init__(self, dim: int, depth: int, heads: int = 3, *, num_classes: int):
        from torchvision.models.vision_transformer import EncoderBlock  # not at the top: listing models needs no such

        super().__init__()
        if depth < 5:
            raise KDScopeError(f"a ViT here has four maps behind blocks of their own, so 5 blocks or more, not {depth}")
        self.patch_embed = nn.Conv2d(3, dim, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))  # its position is part of it
        self.position = nn.Parameter(torch.zeros(1, dim, SIDE, SIDE))
        blocks = [EncoderBlock(heads, dim, 4 * dim, dropout=0.0, attention_dropout=0.0) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.stage1, self.stage2, self.stage3, self.stage4 = (PatchMap() for _ in self.stage_names)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self._ends = {depth // 4: "stage1", depth // 2: "stage2", 3 * depth // 4: "stage3", depth - 1: "stage4"}
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        sides = x.shape[2:]
        position = self.position
        if sides != position.shape[2:]:
            position = interpolate(position, size=sides, mode="bicubic", align_corners=False)
        token, patches = self.class_token.expand(x.shape[0], -1, -1), (x + position).flatten(2).transpose(1, 2)
        tokens = torch.cat([token, patches], 1)
        for count, block in enumerate(self.blocks, 1):
            tokens = block(tokens)
            if count in self._ends:
                stage = self.get_submodule(self._ends[count])(tokens[:, 1:], sides)
                tokens = torch.cat([tokens[:, :1], stage.flatten(2).transpose(1, 2)], 1)
        return self.head(self.norm(tokens[:, 0]))

    def _initialise(self) -> None:
        """Weights, class token and positions ~ N(0, 0.02), cut at two deviations; biases 0 (as DeiT's)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.MultiheadAttention):
                nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
                nn.init.zeros_(module.in_proj_bias)
        for parameter in (self.class_token, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)


@MODELS.register("vit_tiny")
def vit_tiny(*, num_classes: int) -> ViT:
    """Vision transformer DeiT-Ti with patches of 4 pixels (Touvron et al., ICML 2021)."""
    return ViT(192, 12, num_classes=num_classes)
