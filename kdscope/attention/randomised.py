"""A network whose weights say nothing: the control of Adebayo et al., "Sanity Checks for Saliency Maps", 2018."""

import copy

import torch
from torch import nn


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in eval mode with all weights drawn again as its modules draw them, and statistics reset.

    Parameters that no `reset_parameters` reaches (class tokens, scales) have their values permuted. The model and the
    global random state stay as they are.

    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> other = randomised(net)
    >>> torch.equal(net[0].weight, other[0].weight), other.training
    (False, False)
    """
    other = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPU's as well
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            else:
                for weight in module.parameters(recurse=False):
                    weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view(weight.shape))
    weight = next(model.parameters(), None)
    return other.to(weight.device if weight is not None else "cpu").eval()
