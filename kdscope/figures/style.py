"""One style for all figures: colours that the colour-blind can tell apart, embedded fonts, one- and two-column widths.

Figures are made without pyplot, so nothing is shown, kept or shared between them, and no display is needed.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdscope.errors import KDScopeError
from kdscope.files import replacing, write_text

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.2  # inches
ROW = 0.26  # inches for a row of a panel
DPI = 300
# Else a figure of what is read is not that of what was written; later versions read numbers as they were.
EXACT = {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
BAND = "0.88"
SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,  # letters stay letters
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": DPI,
    "figure.dpi": 100,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """kdscope's style, inside the `with` only."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(SETTINGS)
        yield


def panels(
    rows: int, columns: int, width: float = TWO_COLUMNS, height: float = 2.4, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns panels, `width` x `height` inches in all."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).tolist()


def colours(names: Sequence[str]) -> dict[str, tuple]:
    """A colour for each name; beyond ten they come again, and the marker tells them apart."""
    palette = sns.color_palette("colorblind")
    return {name: palette[k % len(palette)] for k, name in enumerate(dict.fromkeys(names))}


def marks(names: Sequence[str], kinds: Sequence[str] = MARKERS) -> dict[str, str]:
    """A marker (or dash) for each name."""
    return {name: kinds[(k + k // 10) % len(kinds)] for k, name in enumerate(dict.fromkeys(names))}


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend under all panels, with as many columns as there is room for."""
    for columns in range(min(6, len(handles)), 0, -1):
        legend = figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= 0.97 * figure.bbox.width:
            return
        legend.remove()


def brief(name: str, most: int = 26) -> str:
    """A long name with its middle left out.

    >>> brief("resnet20-digits-augmented-strongly-seed0", 16)
    'resnet20…y-seed0'
    """
    head = math.ceil((most - 1) / 2)
    return name if len(name) <= most else f"{name[:head]}…{name[-(most - 1 - head) :]}"


def short_names(names: Iterable[str], most: int = 26) -> dict[str, str]:
    """A text of at most about `most` letters for each name, no two the same.

    Where one is too long, what all have in common at either end is left out first.

    >>> short_names(["cifar100-resnet20-by-kd-strong", "cifar100-resnet20-by-at-strong"], 12)
    {'cifar100-resnet20-by-kd-strong': '…kd…', 'cifar100-resnet20-by-at-strong': '…at…'}
    """
    names = list(dict.fromkeys(names))
    head = tail = 0
    if len(names) > 1 and any(len(name) > most for name in names):
        head = _whole_words(commonprefix(names))  # noqa: RUF071 (of letters: these are no paths)
        tail = _whole_words(commonprefix([name[head:][::-1] for name in names]))  # noqa: RUF071
    texts: dict[str, str] = {}
    for name in names:
        text = f"{'…' * (head > 0)}{name[head : len(name) - tail]}{'…' * (tail > 0)}"
        text = brief(text, most)
        texts[name] = text if text not in texts.values() else f"{text} #{len(texts) + 1}"
    return texts


def _whole_words(shared: str) -> int:
    """How many letters of what names share end with a separator."""
    return max(shared.rfind(mark) for mark in "-_ /.,") + 1


def tell(figure: Figure, rows: pd.DataFrame, caption: str) -> Figure:
    """Give a figure the rows that it shows and its caption: `save` writes them beside it."""
    figure.told = (rows, caption)
    return figure


def save(figure: Figure, out: Path, stem: str) -> list[Path]:
    """`STEM.pdf` and `STEM.png` (300 dpi) in `out`, each whole or not at all; the same figure gives the same bytes.

    With `STEM.csv`, from which it can be drawn again, and its caption `STEM.txt`, where the figure has them (`tell`).
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is settled: to settle it again for each file takes most of the time
    written = []
    for kind, metadata in (("pdf", {"CreationDate": None, "Creator": "kdscope"}), ("png", {"Software": "kdscope"})):
        path = out / f"{stem}.{kind}"
        with mpl.rc_context(SETTINGS), replacing(path) as draft:
            figure.savefig(draft, format=kind, dpi=DPI, metadata=metadata)
        written.append(path)
    if hasattr(figure, "told"):
        rows, caption = figure.told
        for kind, text in (("csv", rows.to_csv(index=False)), ("txt", f"{caption}\n")):
            write_text(out / f"{stem}.{kind}", text)
            written.append(out / f"{stem}.{kind}")
    return written


def remove(out: Path, stem: str) -> None:
    """The files that `save` writes, if they are there."""
    for kind in ("pdf", "png", "csv", "txt"):
        (out / f"{stem}.{kind}").unlink(missing_ok=True)


def read_table(table: pd.DataFrame | str | Path) -> pd.DataFrame:
    """A tidy table, from memory or from a CSV; seeds and layers are text in either.

    Raises:
        KDScopeError: a file that cannot be read, or that lacks the columns of a tidy table.
    """
    where = "the table"
    if not isinstance(table, pd.DataFrame):
        where = str(table)
        try:
            table = pd.read_csv(
                table, dtype={"seed": str, "layer": str}, keep_default_na=False, na_values=[""], encoding="utf-8",
                **EXACT,
            )  # fmt: skip
        except OSError as error:
            raise KDScopeError(f"{table}: {error.strerror or error}") from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise KDScopeError(f"{table} is not a CSV table: {' '.join(str(error).split())}") from error
    needed = ("analysis", "measure", "a", "b", "split", "value", "ci_low", "ci_high", "floor", "ceiling")
    absent = [name for name in needed if name not in table.columns]
    if absent:
        raise KDScopeError(
            f"{where} is not the table of an analysis (`kdscope analyze NAME`): it has no column {absent[0]!r}"
        )
    for name in ("value", "ci_low", "ci_high", "floor", "ceiling"):
        if not pd.api.types.is_numeric_dtype(table[name]):
            numbers = pd.to_numeric(table[name], errors="coerce")
            bad = table.index[numbers.isna() & table[name].notna()]
            if len(bad):
                raise KDScopeError(f"{where}, row {bad[0] + 2}: {name} is {table.loc[bad[0], name]!r}, not a number")
            table = table.assign(**{name: numbers})
    return table


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    ci_low: float
    ci_high: float


def interval(axes: Axes, row: Any, at: float, *, upright: bool = False, **options: Any) -> None:
    """A row of a table, or an `Estimate`, as a dot on the line of its interval."""
    ends = [[max(0.0, row.value - row.ci_low)], [max(0.0, row.ci_high - row.value)]]
    place = {"x": [at], "y": [row.value], "yerr": ends} if upright else {"x": [row.value], "y": [at], "xerr": ends}
    axes.errorbar(**place, **{"fmt": "o", "markersize": 4, "elinewidth": 1.0, "capsize": 0, **options})


def band(axes: Axes, row: pd.Series, at: float, colour: dict, filled: bool = True) -> None:
    """From the floor to the ceiling, as far as they are known; not `filled`, only these."""
    known = [value for value in (row.floor, row.ceiling) if not math.isnan(value)]
    if len(known) == 2 and filled:
        axes.barh(at, abs(row.ceiling - row.floor), left=min(known), height=0.62, color=BAND, linewidth=0, zorder=1)
    for side, value in (("floor", row.floor), ("ceiling", row.ceiling)):
        if not math.isnan(value):
            axes.plot([value] * 2, [at - 0.31, at + 0.31], color=colour[side], linewidth=1.5, zorder=2)
