"""Which of a transformer's tokens are patches, and where they lie: a grid after a few leading tokens."""

import math
from typing import Any

from torch import Tensor

from kdscope.errors import KDScopeError

MOST_LEADING = 8  # class, distillation and register tokens


def leading_tokens(count: int) -> int:
    """How many of `count` tokens come before the patches: the fewest (at most 8) that leave a square grid; else 0.

    A grid has at least 2x2 patches.

    >>> leading_tokens(197), leading_tokens(196), leading_tokens(201), leading_tokens(3)
    (1, 0, 5, 0)
    """
    for leading in range(MOST_LEADING + 1):
        if count - leading >= 4 and math.isqrt(count - leading) ** 2 == count - leading:
            return leading
    return 0


def patches(tokens: Tensor) -> Tensor:
    """The patch tokens of [B, T, D] as a map [B, D, side, side], row by row.

    Raises:
        KDScopeError: if T is no square, nor a square with up to eight leading tokens.
    """
    count = tokens.shape[1]
    leading = leading_tokens(count)
    side = math.isqrt(count - leading)
    if side * side != count - leading:
        raise KDScopeError(f"{count} tokens are no square grid of patches; keep them with the reduction 'full'")
    return tokens[:, leading:].transpose(1, 2).unflatten(2, (side, side))


def token_grid(model: Any, count: int) -> tuple[int, int, int]:
    """How many of `count` tokens lead, and the rows and columns of the patches after them.

    What the network says of itself comes first: `num_prefix_tokens` and `patch_embed.grid_size` (timm),
    `class_token` (torchvision). Otherwise the patches are the square that `leading_tokens` finds.

    Raises:
        KDScopeError: if no grid fits.

    >>> token_grid(None, 50)
    (1, 7, 7)
    """
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    leading = getattr(model, "num_prefix_tokens", None)
    if leading is None and hasattr(model, "class_token"):
        leading = 1
    if grid is not None and leading is not None and leading + grid[0] * grid[1] == count:
        return int(leading), int(grid[0]), int(grid[1])
    leading = leading_tokens(count) if leading is None else int(leading)
    side = math.isqrt(max(0, count - leading))
    if side < 2 or side * side != count - leading:
        raise KDScopeError(f"{count} tokens, {leading} of them leading, are no square grid of patches")
    return leading, side, side
