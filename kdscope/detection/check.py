"""One thing that is looked at before a detector is distilled."""

from dataclasses import dataclass


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
