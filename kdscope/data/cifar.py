"""CIFAR-10 and CIFAR-100: 60,000 images of 32 px (A. Krizhevsky, "Learning multiple layers of features", 2009)."""

from typing import Any

import torch

from kdscope.data.catalogue import DATASETS, Request, home
from kdscope.data.geometry import resize
from kdscope.data.split import Dataset, Split, moments
from kdscope.errors import KDScopeError


@DATASETS.register("cifar10")
def cifar10(request: Request) -> Dataset:
    """50,000 training and 10,000 test images of ten classes, through torchvision's loader."""
    from torchvision.datasets import CIFAR10

    return _cifar(request, CIFAR10)


@DATASETS.register("cifar100")
def cifar100(request: Request) -> Dataset:
    """50,000 training and 10,000 test images of a hundred classes, through torchvision's loader."""
    from torchvision.datasets import CIFAR100

    return _cifar(request, CIFAR100)


def _cifar(request: Request, loader: Any) -> Dataset:
    if request.argument:
        raise KDScopeError(f"dataset {request.name!r} is not understood; write {request.name.partition(':')[0]}")
    root = request.root or home("KDSCOPE_DATA")
    try:
        parts = {train: loader(root, train=train, download=request.download) for train in (True, False)}
    except RuntimeError:
        raise KDScopeError(
            f"{request.name} is not in {root} (looked for {loader.base_folder}); fetch it with --download, "
            f"set KDSCOPE_DATA to where it is, or give class folders as folder:PATH"
        ) from None
    except OSError as error:
        raise KDScopeError(f"{request.name} could not be fetched to {root}: {error}") from error
    splits = {}
    for train, part in parts.items():
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        name = "train" if train else "test"
        splits[name] = Split(name, resize(images, request.image_size or 32), torch.tensor(part.targets))
    classes = tuple(parts[True].classes)
    return Dataset(request.name, splits["train"], splits["test"], None, classes, *moments(splits["train"].images))
