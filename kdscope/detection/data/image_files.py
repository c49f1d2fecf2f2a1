"""Images of any sizes that stay files, each decoded when it is asked for."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdscope.data.decoding import image_size, rgb
from kdscope.errors import KDScopeError

LOOKED_AT = 64  # files whose size is looked at before anything is decoded


class DetectionImages:
    """What a `DetectionSplit` stores instead of a tensor: read by indexing with int64 [B], a list of uint8 [3, H, W].

    The names are one array of bytes: a hundred thousand Python strings would be copied into every worker, a page at a
    time, by the mere counting of references.

    Args:
        root: folder of all.
        files: their paths below it.
        sizes: int64 [N, 2], the (height, width) that each must have, since its boxes are in these pixels.

    >>> images = DetectionImages(Path("/data"), ["1.jpg", "b/22.jpg"], torch.tensor([[480, 640], [375, 500]]))
    >>> len(images), images.path(1), images.subset(torch.tensor([1])).sizes.tolist()
    (2, '/data/b/22.jpg', [[375, 500]])
    """

    def __init__(self, root: Path, files: Sequence[str] | np.ndarray, sizes: Tensor):
        self.root, self.sizes = root, sizes
        self.names = np.array([os.fsencode(name) for name in files], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> str:
        """Of the image at `position`."""
        return f"{self.root}/{os.fsdecode(bytes(self.names[position]))}"

    def subset(self, index: Tensor) -> "DetectionImages":
        """Those at `index` (int64 [B]), in that order."""
        return DetectionImages(self.root, self.names[index.numpy()], self.sizes[index])

    def __getitem__(self, index: Tensor) -> list[Tensor]:
        """Decode those at `index`.

        Raises:
            KDScopeError: an image that cannot be read, or has another size than its boxes are for (its path).
        """
        return [self._read(position) for position in index.tolist()]

    def check(self, count: int = LOOKED_AT) -> None:
        """Look at the sizes of `count` files, evenly spread: annotations of images that were resized since are found
        before a run begins, at the cost of a few headers. All are looked at when they are decoded.

        Raises:
            KDScopeError: as reading does.
        """
        for position in torch.linspace(0, len(self) - 1, min(count, len(self))).long().tolist():
            self._has(position, image_size(self.path(position)))

    def _read(self, position: int) -> Tensor:
        pixels = np.array(rgb(self.path(position))).transpose(2, 0, 1)
        self._has(position, pixels.shape[1:])
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def _has(self, position: int, found: tuple[int, int]) -> None:
        height, width = self.sizes[position].tolist()
        if tuple(found) != (height, width):
            raise KDScopeError(
                f"{self.path(position)} has {found[1]} x {found[0]} pixels and its annotations are for "
                f"{width} x {height}"
            )
