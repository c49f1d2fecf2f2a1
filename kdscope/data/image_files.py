"""Images that stay files: each is decoded when it is asked for, so a set of any size costs neither memory nor disk.

ImageNet decoded at 224 px would be 193 GB. A split of such images streams: the workers of a DataLoader read whole
batches, each image decoded once an epoch, and what comes after that is the same as for images in memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdscope.data.decoding import read_image


class ImageFiles:
    """What a `Split` stores instead of a tensor: uint8 [N, 3, size, size], read by indexing with int64 [B].

    The names are one run of bytes: a million Python strings would be copied into every worker, a page at a time, by the
    mere counting of references.

    Args:
        root: folder of all.
        files: their paths below it.
        size: side of the square that is cut out of the centre.
        short: what the short side is scaled to before (bicubic), at least `size` [`size`].

    >>> images = ImageFiles(Path("/data"), ["a/1.jpg", "b/22.jpg"], 224)
    >>> images.shape, images.path(1)
    ((2, 3, 224, 224), '/data/b/22.jpg')
    """

    dtype = torch.uint8

    def __init__(self, root: Path, files: Sequence[str], size: int, short: int | None = None):
        self.root, self.size, self.short = root, size, short
        names = [os.fsencode(file) for file in files]
        self.ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self.names = b"".join(names)
        self.shape = (len(names), 3, size, size)

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, position: int) -> str:
        """Of the image at `position`."""
        start = self.ends[position - 1] if position else 0
        return f"{self.root}/{os.fsdecode(self.names[start : self.ends[position]])}"

    def __getitem__(self, index: Tensor) -> Tensor:
        """Decode those at `index` (int64 [B]): uint8 [B, 3, size, size].

        Raises:
            KDScopeError: an image that cannot be read (its path).
        """
        images = np.empty((len(index), *self.shape[1:]), dtype=np.uint8)
        for row, position in enumerate(index.tolist()):
            images[row] = read_image(self.path(position), self.size, self.short)
        return torch.from_numpy(images)
