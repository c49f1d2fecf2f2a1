"""A tidy table in, figures out: nothing is computed again, and no cache is opened.

`FIGURES` finds who draws each analysis by itself, in this package and under the entry-point group `kdscope.figures`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kdscope.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

FIGURES: Registry = Registry("figure", "kdscope.figures", "kdscope.figures")

__all__ = ["FIGURES", "draw"]


def draw(table: "pd.DataFrame | str | Path", out: str | Path) -> list[Path]:
    """Draw all figures of a tidy table, or of the CSV that holds it, into `out` as PDF and PNG.

    A figure of an earlier call that this table has no rows for is removed: it would pass for one of this table.

    Returns:
        The files, each whole or not at all; none where no figures are known for the table's analysis.

    Raises:
        KDScopeError: a file that is no table of an analysis.
    """
    from kdscope.figures.style import read_table, remove, save

    table, out = read_table(table), Path(out)
    written: list[Path] = []
    for name in table["analysis"].unique():
        if name in FIGURES:
            for stem, figure in FIGURES[name](table[table["analysis"] == name]):
                if figure is None:
                    remove(out, stem)
                else:
                    written += save(figure, out, stem)
    return written
