"""What a measure returns: never a bare number, but one with its interval, sample, definition and frame."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

COLUMNS = (
    *("analysis", "measure", "definition", "a", "b", "layer", "split", "view"),
    *("value", "ci_low", "ci_high", "floor", "ceiling", "n"),
)


@dataclass(frozen=True)
class Result:
    """One number about one pair of networks.

    Attributes:
        measure: name of the measure, as in `kdscope.measures.MEASURES`.
        value: the number, in the unit of the measure's card; NaN exactly where n is 0 (say, agreement where the teacher
            is wrong, and it never is).
        per_sample: float64 [N], one number an image in the order in which the images came, NaN where an image does not
            count; None where the measure is no mean over images (Cohen's kappa).
        draws: float64 [R], what the number was in resampled sets of images, the same sets for all networks; only of
            measures that are no mean over images, whose differences are paired by them.
        n: how many images count.
        ci_low, ci_high: confidence interval; NaN where it cannot be known (n < 2 for a mean that is no proportion).
        floor, ceiling: what the measure is worth where nothing was transferred, and where nothing more could be; None
            until `with_frame` sets them.
        control: in words, what floor and ceiling were measured on.
        definition, source: which definition, and who gave it.
        excluded: how many images do not count.
    """

    measure: str
    value: float
    per_sample: np.ndarray | None
    n: int
    ci_low: float
    ci_high: float
    floor: float | None = None
    ceiling: float | None = None
    control: str = ""
    definition: str = "kdscope"
    source: str = ""
    excluded: int = 0
    draws: np.ndarray | None = None

    def with_frame(
        self, floor: float | None = None, ceiling: float | None = None, control: str | None = None
    ) -> "Result":
        """The same result between a floor and a ceiling; what is not given stays as it was.

        >>> r = Result("agreement", 0.8, None, 100, 0.71, 0.87).with_frame(0.5, 0.9, "another seed")
        >>> round(r.position, 3), r.control
        (0.75, 'another seed')
        """
        return replace(
            self,
            floor=self.floor if floor is None else float(floor),
            ceiling=self.ceiling if ceiling is None else float(ceiling),
            control=self.control if control is None else control,
        )

    @property
    def position(self) -> float | None:
        """(value - floor) / (ceiling - floor): 0 at the floor, 1 at the ceiling, whichever is the larger number.

        None where one of them is unknown or where they are equal, for then there is no room between them.
        """
        if self.floor is None or self.ceiling is None or not math.isfinite(self.ceiling - self.floor):
            return None
        return None if self.ceiling == self.floor else (self.value - self.floor) / (self.ceiling - self.floor)

    def row(self, **columns: Any) -> dict[str, Any]:
        """One row of a tidy table: the columns that all analyses share, in their order, then what else is given.

        >>> Result("kappa", 0.5, None, 10, 0.1, 0.9).row(analysis="fidelity", a="teacher", b="student", seed=1)
        {'analysis': 'fidelity', 'measure': 'kappa', 'definition': 'kdscope', 'a': 'teacher', 'b': 'student',
         'value': 0.5, 'ci_low': 0.1, 'ci_high': 0.9, 'floor': nan, 'ceiling': nan, 'n': 10, 'seed': 1}
        """
        own = {"measure": self.measure, "definition": self.definition, "value": self.value, "n": self.n}
        own |= {"ci_low": self.ci_low, "ci_high": self.ci_high}
        own |= {"floor": math.nan if self.floor is None else self.floor}
        own |= {"ceiling": math.nan if self.ceiling is None else self.ceiling}
        cells = own | columns
        return {name: cells[name] for name in COLUMNS if name in cells} | {
            name: cell for name, cell in cells.items() if name not in COLUMNS
        }
