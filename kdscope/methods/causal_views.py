"""Maps of a teacher for all views that an augmentation can make of the training images: made once, then looked up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdscope.data import Batch
from kdscope.data.orbit import count_views, nth_view
from kdscope.progress import bar

COMPLETE = 0.05  # a completeness error above this is reported


def all_views(images: Any, augment: str, maps_of: Callable[[Batch], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The maps [N, V, h, w] of N images in V views, on the host, and the errors [N V] of all.

    Args:
        images: a `kdscope.training.preparation.TrainingImages`.
        maps_of: from a batch to its maps [B, h, w] and their errors [B]. It is shown the very pixels of training.
    """
    batches, views, kept, errors = images.views(augment), count_views(augment), None, []
    total = len(images) * views
    with bar(f"maps of {views} views of each image", total) as advance:
        for part in torch.arange(total).split(images.batch_size):
            maps, error = maps_of(batches.shown(part // views, nth_view(augment, part % views)))
            kept = maps.new_empty(total, *maps.shape[1:], device="cpu") if kept is None else kept
            kept[part] = maps.cpu()
            errors.append(error)
            advance(len(part))
    return kept.unflatten(0, (len(images), views)), torch.cat(errors)


def completeness(error: Tensor) -> Tensor:
    """Of completeness errors [N]: their median, the share above 5 %, and N. An image whose score is flat counts above.

    >>> completeness(torch.tensor([0.0, 0.5, 0.0, float("nan")])).tolist()
    [0.0, 0.5, 4.0]
    """
    median = error.nan_to_num(torch.inf).median()
    above = 1 - (error <= COMPLETE).float().mean()
    return torch.stack([median, above, median.new_tensor(len(error))])
