"""Which figures of a table are drawn, and what each tells beside it: the rows that it shows, and its caption.

The rows are those of the table itself, so the CSV beside a figure is a tidy table too. Its column `figure` names the
one figure that it is for: `kdscope figures STEM.csv` draws that one again, byte for byte.
"""

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.figure import Figure

from kdscope.figures.style import tell


def asked(table: pd.DataFrame) -> list[str]:
    """The figures that a table is for; none are named where it is for all.

    >>> asked(pd.DataFrame({"value": [1.0, 2.0], "figure": ["fidelity-frame"] * 2}))
    ['fidelity-frame']
    """
    return list(dict.fromkeys(table["figure"].dropna())) if "figure" in table else []


def drawn(
    table: pd.DataFrame, stem: str, rows: pd.DataFrame, draw: Callable[[], Figure], caption: str
) -> tuple[str, Figure | None]:
    """A figure by its file's name, and with what stands beside it; None where it has no rows, or is not asked for.

    Args:
        table: as it was given. rows: what `draw` shows of it, or is made from that, under the same index.
        caption: what is to be seen; which images, seeds and intervals (`facts`) is added.
    """
    wanted = asked(table)
    if not len(rows) or (wanted and stem not in wanted):
        return stem, None
    shown = table.loc[table.index.isin(rows.index)]
    return stem, tell(draw(), shown.assign(figure=stem), f"{caption} {facts(shown)}".strip())


def endings(table: pd.DataFrame) -> dict[str, str]:
    """For each split how the names of its figures end: with it, where there are several, or were.

    >>> endings(pd.DataFrame({"split": ["train", "test"]}))
    {'train': '-train', 'test': '-test'}
    >>> endings(pd.DataFrame({"split": ["test"]}))
    {'test': ''}
    """
    splits = list(dict.fromkeys(table["split"]))
    several = len(splits) > 1 or any(stem.endswith(f"-{splits[0]}") for stem in asked(table) if splits)
    return {split: f"-{split}" if several else "" for split in splits}


def facts(rows: pd.DataFrame) -> str:
    """Which images, trainings and intervals the rows are of, as sentences.

    >>> facts(pd.DataFrame({"split": ["test"], "n": [359.0], "seeds": [3], "view": ["none"], "confidence": [0.95]}))
    'On test, 359 images; 3 seeds. Intervals: 95%.'
    >>> facts(pd.DataFrame({"n": [9, 9], "seeds": [1, 1], "seed": ["0", "1"]}))  # a point for each training
    '9 images, 2 seeds.'
    """
    said = [f"on {_listed(list(dict.fromkeys(rows['split'].dropna().astype(str))))}"] if "split" in rows else []
    for name, one, many in (("n", "image", "images"), ("seeds", "seed", "seeds")):
        numbers = pd.to_numeric(rows[name], errors="coerce").dropna() if name in rows else pd.Series(dtype=float)
        # Of seeds the most: rows of single ones stand beside those of all. Of images the most: some measures leave out.
        most = numbers.max() if len(numbers) else 0
        if most == 1 and name == "seeds" and "seed" in rows:
            most = rows.loc[rows["seed"] != "all", "seed"].nunique()  # a row of all may know of one or none
        if most > 0:
            said.append(f"{most:.0f} {one if most == 1 else many}")
    views = [view for view in rows["view"].dropna().unique() if view != "none"] if "view" in rows else []
    said[:2] = [", ".join(said[:2])]
    words = "; ".join([*said, *(f"shown under {view}" for view in views)])
    sure = rows["confidence"].dropna().unique() if "confidence" in rows else []
    return " ".join(
        [f"{words[:1].upper()}{words[1:]}."] * bool(words)
        + [f"Intervals: {_listed([f'{s:.0%}' for s in sure])}."] * bool(len(sure))
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
