"""What a term must know of the whole batch where several processes train together, each with a share of it."""

import torch
from torch import Tensor, distributed


def several() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def of_all_ranks(rows: Tensor) -> Tensor:
    """Rows [B, ...] of all ranks, which have as many each, in the order of the ranks; without gradients.

    >>> of_all_ranks(torch.ones(2, 3)).shape  # in one process, its own
    torch.Size([2, 3])
    """
    if not several():
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
