"""Accuracy and cross-entropy of a network on a split."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kdscope.data import Batches


@torch.inference_mode()
def count_right(model: nn.Module, batches: Batches) -> Tensor:
    """[right answers, summed cross-entropy in nats, images] over the batches of one rank, float64 on the device.

    The model is put into eval mode for this and back afterwards.
    """
    mode = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=batches.device)
    for batch in batches.epoch():
        logits = model(batch.image).float()
        sums[0] += (logits.argmax(1) == batch.label).sum()
        sums[1] += cross_entropy(logits, batch.label, reduction="sum")
        sums[2] += len(batch.label)
    model.train(mode)
    return sums
