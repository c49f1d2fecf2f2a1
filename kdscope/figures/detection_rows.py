"""What the figures of detectors share: which rows of a table they show, and panels with a line of text for each."""

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kdscope.detection.measures.cards import CARDS
from kdscope.errors import KDScopeError
from kdscope.figures.style import ROW, short_names

SIZES = ("all", "small", "medium", "large")


def one_each(rows: pd.DataFrame) -> pd.DataFrame:
    """All seeds of a way of training together where there are several, else the only one."""
    together = rows.groupby(["group", "a_group", "split", "pair"], dropna=False)["seed"]
    several = together.transform(lambda seeds: (seeds == "all").any())
    return rows[~several.astype(bool) | (rows["seed"] == "all")]


def last_split(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the split that was named last: with train and test, of test."""
    return rows[rows["split"] == rows["split"].iloc[-1]] if len(rows) else rows


def curves(
    rows: pd.DataFrame, x: str, keys: Sequence[str] = ("pair", "a", "b")
) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """The rows of each comparison along `x`, in their order; they have one value at each place.

    Raises:
        KDScopeError: several values, which must not be averaged: of an interval there is no mean.
    """
    for key, own in rows.groupby(list(keys), sort=False, dropna=False):
        if own[x].duplicated().any():
            raise KDScopeError(f"{' '.join(map(str, key))}: the table has several rows of one {x}")
        yield key, own.sort_values(x)


def titled(found: Sequence[tuple[tuple, pd.DataFrame]]) -> list[tuple[str, pd.DataFrame]]:
    """Curves with the names of their students, and of the teacher where there are several."""
    texts, teachers = labels_of([b for (_, _, b), _ in found]), {a for (_, a, _), _ in found}
    return [(texts[b] if len(teachers) == 1 else f"{texts[b]} and {a}", own) for (_, a, b), own in found]


def framed_right(row: pd.Series) -> bool:
    """Whether the ceiling of a row lies beyond its floor, on the side where its measure is more alike.

    >>> framed_right(pd.Series({"measure": "agree-f1", "floor": 0.5, "ceiling": 0.4}))
    False
    """
    lower = CARDS[row.measure].direction == "lower"
    return not (row.floor <= row.ceiling if lower else row.floor >= row.ceiling)


def labels_of(names: Sequence[str]) -> dict[str, str]:
    """A short text for each name."""
    return short_names(dict.fromkeys(names), 30)


def height(lines: int, down: int = 1) -> float:
    """Inches for panels with that many lines each."""
    return down * (0.75 + ROW * max(2, lines))


def lines(axes: Axes, texts: Sequence[str], title: str, label: str, ticks: int = 5) -> None:
    """A panel with a line for each text, the first at the top."""
    axes.set_yticks(range(len(texts)), texts)
    axes.set_ylim(len(texts) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axes.set_title(title)
    axes.set_xlabel(label)
