"""A tidy table in, figures out: nothing is computed again, and no cache is opened.

Pixels, for which a table has no place, lie in a file beside it that its column `pictures` names.

`FIGURES` finds who draws each analysis by itself, in this package and under the entry-point group `kdscope.figures`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdscope.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURES: Registry = Registry("figure", "kdscope.figures", "kdscope.figures")

MASKED = ("causal",)  # whose maps are drawn over the images too

__all__ = ["FIGURES", "draw"]


def draw(table: "pd.DataFrame | str | Path", out: str | Path) -> list[Path]:
    """Draw all figures of a tidy table, or of the CSV that holds it, into `out` as PDF and PNG.

    A figure of an earlier call that this table has no rows for is removed: it would pass for one of this table.

    Returns:
        The files, each whole or not at all; none where no figures are known for the table's analysis.

    Raises:
        KDScopeError: a file that is no table of an analysis, or lacks a column that its figures need.
    """
    from kdscope.figures.style import read_table, remove, save

    folder = Path(table).parent if isinstance(table, str | Path) else Path(out)
    where = table if isinstance(table, str | Path) else "the table"
    table, out = read_table(table), Path(out)
    written: list[Path] = []
    for name in table["analysis"].unique():
        if name in FIGURES:
            rows = table[table["analysis"] == name]
            for stem, figure in _figures(name, rows, where, folder):
                if figure is None:
                    remove(out, stem)
                else:
                    written += save(figure, out, stem)
    return written


def _gallery(rows: "pd.DataFrame", folder: Path, over: bool = False) -> "Figure | None":
    """The pictures that a table names, where they lie beside it; over the images themselves, if these are known."""
    named = rows["pictures"].dropna().unique() if "pictures" in rows else []
    path = folder / Path(str(named[0])).name if len(named) else None
    if path is None or not path.is_file():
        return None
    from kdscope.figures.gallery import gallery
    from kdscope.figures.pictures import read_pictures

    pictures = read_pictures(path)
    return None if over and not pictures.images.size else gallery(pictures, over)


def _figures(name: str, rows: "pd.DataFrame", where: str | Path, folder: Path) -> "Iterator[tuple[str, Figure | None]]":
    """One after the other, as they are drawn: each is saved while the style that it was made in still holds."""
    from kdscope.errors import KDScopeError

    try:
        yield from FIGURES[name](rows)
    except KeyError as error:
        raise KDScopeError(f"{where}: the figures of {name} need {error.args[0]!r}, which is not there") from error
    except AttributeError as error:
        if type(error.obj).__name__ not in ("Pandas", "Series"):  # rows of a table
            raise
        raise KDScopeError(f"{where}: the figures of {name} need column {error.name!r}, which is not there") from error
    yield f"{name}-gallery", _gallery(rows, folder)
    if name in MASKED:
        yield f"{name}-masks", _gallery(rows, folder, over=True)
