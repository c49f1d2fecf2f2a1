"""Where a vision transformer looks: the attention of its class token, and attention rolled out over all blocks.

Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020; Caron et al., ICCV 2021 for the class token.
Attention weights are caught from torch's `MultiheadAttention` (torchvision), which is asked to give them, and from
modules with a joint `qkv` layer (timm), where they are computed again from its output.
"""

from typing import Any

import torch
from torch import Tensor, nn

from kdscope.attention.tokens import token_grid
from kdscope.errors import KDScopeError


def cls_attention(weights: Tensor, leading: int, grid: tuple[int, int]) -> Tensor:
    """What the class token takes from each patch in one block, mean over heads.

    Args:
        weights: attention [B, heads, T, T], rows sum to 1; the class token is the first.
        leading: tokens before the patches, at least 1; grid: rows and columns of the patches.

    Returns:
        Map [B, rows, columns], non-negative.

    Raises:
        KDScopeError: a network without a class token.

    >>> cls_attention(torch.full((1, 2, 5, 5), 0.2), 1, (2, 2)).shape
    torch.Size([1, 2, 2])
    """
    if leading < 1:
        raise KDScopeError("this transformer has no class token, and so no attention of one; ask for rollout")
    return weights[:, :, 0, leading:].mean(1).unflatten(1, grid)


def rollout(weights: list[Tensor], leading: int, grid: tuple[int, int]) -> Tensor:
    """Attention through all blocks: the product of (A + I) / 2, A the mean over heads (Abnar & Zuidema, eq. 1).

    Args:
        weights: [B, heads, T, T] of each block, from the first to the last; leading, grid: as in `cls_attention`.

    Returns:
        Map [B, rows, columns]: the class token's row, or the mean of all rows where there is no class token.

    >>> a = torch.eye(5).expand(1, 2, 5, 5)
    >>> rollout([a, a], 1, (2, 2)).flatten().tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    flow = None
    for block in weights:
        mixed = block.float().mean(1)
        mixed = (mixed + torch.eye(mixed.shape[-1], device=mixed.device)) / 2
        mixed = mixed / mixed.sum(-1, keepdim=True)
        flow = mixed if flow is None else mixed @ flow
    rows = flow[:, 0] if leading else flow.mean(1)
    return rows[:, leading:].unflatten(1, grid)


class AttentionWeights:
    """Catches the attention weights of each block while a transformer runs; a context manager that removes its hooks.

    Attributes:
        blocks: names of the attention modules, in the order in which the network holds them.
        weights: of the last forward pass, [B, heads, T, T] each.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.blocks = [name for name, module in model.named_modules() if _attends(module)]
        self.weights: list[Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> "AttentionWeights":
        self._handles.append(self.model.register_forward_pre_hook(lambda *_: self.weights.clear()))
        for name in self.blocks:
            module = self.model.get_submodule(name)
            if isinstance(module, nn.MultiheadAttention):
                self._handles.append(module.register_forward_pre_hook(_asked, with_kwargs=True))
                self._handles.append(module.register_forward_hook(lambda m, i, output: self.weights.append(output[1])))
            else:
                self._handles.append(module.qkv.register_forward_hook(self._from_qkv(module)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self.weights = []

    def grid(self) -> tuple[int, tuple[int, int]]:
        """Leading tokens, and the rows and columns of the patches, of the last forward pass."""
        leading, rows, columns = token_grid(self.model, self.weights[-1].shape[-1])
        return leading, (rows, columns)

    def _from_qkv(self, attention: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            batch, tokens, _ = output.shape
            q, k, _ = output.reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k = getattr(attention, "q_norm", nn.Identity())(q), getattr(attention, "k_norm", nn.Identity())(k)
            self.weights.append((q * attention.scale @ k.transpose(-2, -1)).float().softmax(-1))

        return hook


def is_transformer(model: nn.Module) -> bool:
    """Whether the network has attention blocks over tokens whose weights can be caught."""
    return any(map(_attends, model.modules()))


def _attends(module: nn.Module) -> bool:
    joint = isinstance(getattr(module, "qkv", None), nn.Linear) and hasattr(module, "num_heads")
    plain = joint and hasattr(module, "scale") and not hasattr(module, "relative_position_bias_table")
    return isinstance(module, nn.MultiheadAttention) or (plain and "rope" not in type(module).__name__.lower())


def _asked(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    return inputs, {**options, "need_weights": True, "average_attn_weights": False}
