"""One thing that is looked at before a detector is distilled."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Check:
    """Its name, whether it is as it should be (None: that cannot be told), and what was found.

    >>> str(Check("strides", True, "8, 16 in common"))
    'strides: 8, 16 in common'
    """

    name: str
    passed: bool | None
    found: str

    @property
    def failed(self) -> bool:
        """Whether it is known not to be as it should be."""
        return self.passed is False

    def __str__(self) -> str:
        return f"{self.name}: {self.found}"


@contextlib.contextmanager
def resting(*networks: nn.Module) -> Iterator[None]:
    """In eval mode meanwhile; afterwards each of their modules is in the mode that it was in."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
