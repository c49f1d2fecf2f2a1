"""What the figures of detectors share: which rows of a table they show, and panels with a line of text for each."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kdscope.figures.style import ROW, short_names

ALONE = "floor:independent-student"
SIZES = ("all", "small", "medium", "large")


def one_each(rows: pd.DataFrame) -> pd.DataFrame:
    """All seeds of a way of training together where there are several, else the only one."""
    together = rows.groupby(["group", "a_group", "split", "pair"], dropna=False)["seed"]
    several = together.transform(lambda seeds: (seeds == "all").any())
    return rows[~several.astype(bool) | (rows["seed"] == "all")]


def last_split(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the split that was named last: with train and test, of test."""
    return rows[rows["split"] == rows["split"].iloc[-1]] if len(rows) else rows


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
