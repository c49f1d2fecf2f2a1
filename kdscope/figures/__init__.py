"""A tidy table in, figures out: nothing is computed again, and no cache is opened.

Pixels, for which a table has no place, lie in a file beside it that its column `pictures` names.

`FIGURES` finds who draws each analysis by itself, in this package and under the entry-point group `kdscope.figures`.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from kdscope.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURES: Registry = Registry("figure", "kdscope.figures", "kdscope.figures")

MASKED = ("causal",)  # whose maps are drawn over the images too

__all__ = ["FIGURES", "draw"]


def draw(table: "pd.DataFrame | str | Path", out: str | Path, width: str = "two") -> list[Path]:
    """Draw the figures of a tidy table, or of the CSV that holds it, into `out` as PDF and PNG.

    Of some analyses a table for a paper is written as well (`kdscope.figures.summaries`), in Markdown and in LaTeX.
    Beside each figure lie its rows as a CSV, from which `draw` makes it again byte for byte, and its caption as text. A
    table with a column `figure` is for the figures that this names; of any other all are drawn, and a figure of an
    earlier call that it has no rows for is removed: it would pass for one of this table.

    Args:
        width: "two" columns of a page, or "one" (`kdscope.figures.widths`).

    Returns:
        The files, each whole or not at all; none where no figures are known for the table's analysis.

    Raises:
        KDScopeError: a file that is no table of an analysis, or lacks a column that its figures need.
    """
    from kdscope.figures.sheet import asked
    from kdscope.figures.style import read_table, remove, save
    from kdscope.figures.summaries import TABLES
    from kdscope.figures.widths import fit
    from kdscope.files import write_text

    folder = Path(table).parent if isinstance(table, str | Path) else Path(out)
    where = table if isinstance(table, str | Path) else "the table"
    table, out = read_table(table), Path(out)
    written: list[Path] = []
    for name in table["analysis"].unique():
        if name in FIGURES:
            rows = table[table["analysis"] == name]
            for stem, figure in chain(_figures(name, rows, where), _galleries(name, rows, folder, out, width)):
                if figure is not None:
                    written += save(fit(figure, width), out, stem)
                elif not asked(rows):
                    remove(out, stem)
            if name in TABLES and not asked(rows) and (shown := TABLES[name](rows)) is not None:
                write_text(out / f"{name}.md", shown.markdown())
                write_text(out / f"{name}.tex", shown.latex(f"tab:{name}"))
                written += [out / f"{name}.md", out / f"{name}.tex"]
    return written


def _galleries(
    name: str, rows: "pd.DataFrame", folder: Path, out: Path, width: str
) -> "Iterator[tuple[str, Figure | None]]":
    """The pictures that a table names, where they lie beside it; and over the images themselves, if these are known."""
    from kdscope.figures.gallery import CAPTIONS, gallery
    from kdscope.figures.pictures import read_pictures, write_pictures
    from kdscope.figures.sheet import drawn

    shown = rows[rows["pictures"].notna()] if "pictures" in rows else rows[:0]
    path = folder / Path(str(shown["pictures"].iloc[0])).name if len(shown) else None
    pictures = read_pictures(path) if path is not None and path.is_file() else None
    if pictures is not None and out.resolve() != folder.resolve():
        write_pictures(pictures, out / path.name)  # so that the tables there name what lies beside them
    for stem, over in (("gallery", False), *((("masks", True),) if name in MASKED else ())):
        known = pictures is not None and (pictures.images.size or not over)
        drawing = partial(gallery, pictures, over, width)
        caption = CAPTIONS[stem].format(p=pictures) if known else ""
        yield drawn(rows, f"{name}-{stem}", shown if known else rows[:0], drawing, caption)


def _figures(name: str, rows: "pd.DataFrame", where: str | Path) -> "Iterator[tuple[str, Figure | None]]":
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
