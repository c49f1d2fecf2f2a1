"""Long-tailed versions of balanced datasets: class c keeps n_max R^(-c / (C - 1)) of its training images.

Y. Cui, M. Jia, T.-Y. Lin, Y. Song & S. Belongie, "Class-balanced loss based on effective number of samples", CVPR 2019,
section 5.1; the sizes are those of K. Cao et al., "Learning imbalanced datasets with label-distribution-aware margin
loss", NeurIPS 2019, rounded down: CIFAR-100 has 19,573, 12,608 and 10,847 images at R = 10, 50 and 100. The test part
stays balanced.
"""

from dataclasses import replace

import torch
from torch import Tensor

from kdscope.data.catalogue import DATASETS, Request
from kdscope.data.chance import bits
from kdscope.data.split import Dataset, moments
from kdscope.errors import KDScopeError


def class_counts(largest: int, classes: int, ratio: float) -> list[int]:
    """floor(largest * ratio^(-c / (classes - 1))) for c = 0 .. classes - 1: how many images each class keeps.

    >>> class_counts(500, 100, 100)[:4], class_counts(500, 100, 100)[-3:], sum(class_counts(500, 100, 100))
    ([500, 477, 455, 434], [5, 5, 5], 10847)
    """
    steps = max(1, classes - 1)
    # A product that is whole, such as 500 / 8^(1/3), may come out just below.
    return [int(largest * ratio ** (-c / steps) + 1e-9) for c in range(classes)]


def long_tailed(labels: Tensor, ratio: float) -> Tensor:
    """Which images a long-tailed version keeps: int64, ascending, positions in `labels` (int64 [N]).

    The first class stays as it is, the last keeps 1 / ratio of the largest's count; a class that has fewer than its
    share keeps all. Which images of a class stay is chance, the same for every seed of every run; those of a greater
    ratio are among those of a smaller one.

    Raises:
        KDScopeError: a class that would be left without an image.

    >>> labels = torch.arange(3).repeat(100)
    >>> torch.bincount(labels[long_tailed(labels, 100)]).tolist()
    [100, 10, 1]
    """
    sizes = torch.bincount(labels)
    largest = int(sizes.max())
    keep = torch.tensor(class_counts(largest, len(sizes), ratio))
    if keep[-1] < 1:
        raise KDScopeError(
            f"imbalance ratio {ratio:g} leaves class {len(sizes) - 1} without an image; the largest is {largest}"
        )
    order = bits(0, 0, torch.arange(len(labels)), "long-tail").argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, and by chance within each
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order[rank < keep.repeat_interleave(sizes)].sort().values


@DATASETS.register("cifar10-lt")
def cifar10_lt(request: Request) -> Dataset:
    """`cifar10-lt:R`: CIFAR-10 whose largest class has R times the training images of its smallest."""
    return _version(request, "cifar10", request.argument)


@DATASETS.register("cifar100-lt")
def cifar100_lt(request: Request) -> Dataset:
    """`cifar100-lt:R`: CIFAR-100 whose largest class has R times the training images of its smallest."""
    return _version(request, "cifar100", request.argument)


@DATASETS.register("long-tail")
def long_tail(request: Request) -> Dataset:
    """`long-tail:R:NAME`: the same of any dataset, such as long-tail:10:folder:PATH."""
    ratio, _, base = request.argument.partition(":")
    if not base:
        raise KDScopeError(
            f"dataset {request.name!r} is not understood; write long-tail:R:NAME such as long-tail:10:digits"
        )
    return _version(request, base, ratio)


def _version(request: Request, base: str, ratio: str) -> Dataset:
    if not (ratio.replace(".", "", 1).isdecimal() and float(ratio) >= 1):
        kind = request.name.partition(":")[0]
        rest = "" if kind != "long-tail" else f":{base}"
        raise KDScopeError(
            f"dataset {request.name!r}: the imbalance ratio is a number of at least 1; write {kind}:100{rest}"
        )
    name, _, argument = base.partition(":")
    whole = DATASETS[name](replace(request, name=base, argument=argument))
    train = whole.train.subset(long_tailed(whole.train.labels, float(ratio)))
    # Those of what is left; of files that are decoded when read, what the whole has.
    mean, std = (whole.mean, whole.std) if train.decodes else moments(train.images)
    return Dataset(request.name, train, whole.test, whole.validation, whole.classes, mean, std)
