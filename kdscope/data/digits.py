"""Handwritten digits: the 1,797 real scans (8 x 8, 17 grey levels) that ship inside scikit-learn.

E. Alpaydin & C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998 (its test
part).
"""

import torch

from kdscope.data.catalogue import DATASETS, Request, one_size, sizes
from kdscope.data.geometry import resize
from kdscope.data.split import Dataset, Split, moments, stratified
from kdscope.errors import KDScopeError


@DATASETS.register("digits")
def digits(request: Request) -> Dataset:
    """`digits` or `digits:SIZE`: 1,438 training and 359 test images of ten classes.

    Scaled (bicubic) to 16 px by default, so that the last map of a CIFAR network, a quarter as high, has 4 x 4 cells.
    The test part, a fifth of each class, is the same for every seed of every run.
    """
    from sklearn.datasets import load_digits

    size = one_size(request, *sizes(request, "SIZE"), default=16)
    if not 8 <= size <= 512:
        raise KDScopeError(f"dataset {request.name!r}: the size must be 8 to 512 px, not {size}")
    scans = load_digits()
    grey = torch.from_numpy(scans.images).mul(255 / 16).round().to(torch.uint8)
    images = resize(grey[:, None].expand(-1, 3, -1, -1).contiguous(), size)
    labels = torch.from_numpy(scans.target).long()
    held = stratified(labels, 0.2, seed=0)
    train = Split("train", images[~held], labels[~held])
    test = Split("test", images[held], labels[held])
    return Dataset(request.name, train, test, None, tuple(str(digit) for digit in range(10)), *moments(train.images))
