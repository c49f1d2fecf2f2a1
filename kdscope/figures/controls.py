"""The figure of `kdscope analyze controls`: each arm less the student alone, and less the method."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from kdscope.figures import FIGURES
from kdscope.figures.comparison import differences


@FIGURES.register("controls")
def controls(table: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    """The differences of `comparison`, with the student alone and the method as what the arms are compared with."""
    yield from differences(table, "controls")
