"""Which images of a split belong to this process: the same rule for every task."""

from torch import Tensor

from kdscope.errors import KDScopeError


class Shares:
    """What batches of a `split` have in common that know their `batch_size` (of all ranks), `rank` and `world_size`."""

    def _inside(self, index: Tensor) -> Tensor:
        """The same on the host, all in the split."""
        index = index.cpu()
        outside = (index < 0) | (index >= len(self.split))
        if outside.any():
            raise KDScopeError(
                f"index {int(index[outside][0])} is outside split {self.split.name!r} of {len(self.split)} images"
            )
        return index

    def _run(self) -> range:
        """Without shuffling: the images of this rank."""
        count, world = len(self.split), self.world_size
        return range(count * self.rank // world, count * (self.rank + 1) // world)

    def _step(self) -> int:
        return -(-self.batch_size // self.world_size)
