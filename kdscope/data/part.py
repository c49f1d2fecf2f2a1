"""Disjoint parts of a training set, to ask whether it matters on which images a network learns.

S. Stanton et al., "Does knowledge distillation really work?", NeurIPS 2021, figure 4: the teacher knows one half of the
images, and students distil on that half, on the other, or on both.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from kdscope.data.catalogue import DATASETS, Request
from kdscope.data.chance import bits
from kdscope.data.split import Dataset
from kdscope.errors import KDScopeError


def part_of(labels: Tensor, part: int, parts: int) -> Tensor:
    """Positions in `labels` (int64 [N]) of part 1 .. `parts`: int64, ascending. Each class is dealt out evenly.

    Which image goes where is chance, the same for every seed of every run.

    >>> labels = torch.arange(2).repeat(50)
    >>> torch.bincount(labels[part_of(labels, 2, 4)]).tolist()
    [13, 13]
    """
    order = bits(0, 0, torch.arange(len(labels)), "part").argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, and by chance within each
    sizes = torch.bincount(labels)
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order[rank % parts == part - 1].sort().values


@DATASETS.register("part")
def part(request: Request) -> Dataset:
    """`part:K/N:NAME`: the K-th of N disjoint parts of another dataset's training images, such as part:1/2:cifar100.

    Normalised as the whole; the test part is that of the whole.
    """
    share, _, base = request.argument.partition(":")
    numbers = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", share)
    if not base or numbers is None or int(numbers[1]) > int(numbers[2]):
        raise KDScopeError(f"dataset {request.name!r} is not understood; write part:K/N:NAME such as part:1/2:digits")
    name, _, argument = base.partition(":")
    whole = DATASETS[name](replace(request, name=base, argument=argument))
    rows = part_of(whole.train.labels, int(numbers[1]), int(numbers[2]))
    if not len(rows):
        raise KDScopeError(f"dataset {request.name!r} has no image; {base} has {len(whole.train)}")
    train = whole.train.subset(rows)
    return Dataset(request.name, train, whole.test, whole.validation, whole.classes, whole.mean, whole.std)
