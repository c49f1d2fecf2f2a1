"""CKA that a run streamed while it trained (`kdscope train --probe cka`), read back from its own table."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from kdscope.analyses.cast import Pair, identify
from kdscope.analyses.feature_layers import Cell, Library
from kdscope.errors import KDScopeError
from kdscope.measures.cka import CARD
from kdscope.measures.result import Result
from kdscope.sources import Subject

TABLE = "cka.csv"


def kept_cka(
    pair: Pair, split: str, library: Library, confidence: float = 0.95
) -> Iterator[tuple[int, Cell, Result, dict[str, Any]]]:
    """Epoch, layers, result, and what is known of the layers, of a student and one of its own teachers.

    Nothing where the run kept no such table, or where the pair's teacher is not one that it learned from; no interval
    where one of another confidence was kept.

    Raises:
        KDScopeError: a table that is none.
    """
    table = _table(pair.b.subjects[0])
    teacher = _position(pair)
    if table is None or teacher is None:
        return
    own = table[(table["split"] == split) & (table["teacher"] == teacher)]
    for row in own[own["layer_a"].map(library.wanted) & own["layer_b"].map(library.wanted)].itertuples():
        ends = (row.ci_low, row.ci_high) if row.confidence == confidence else (math.nan, math.nan)
        result = Result(row.measure, row.value, None, row.n, *ends, source=CARD.citation, excluded=row.excluded)
        facts = {"reduction": row.reduction, "variance_a": row.variance_a, "variance_b": row.variance_b}
        yield row.epoch, (row.layer_a, row.layer_b), result, facts


def _table(student: Subject) -> pd.DataFrame | None:
    path = student.folder / TABLE if student.folder and not student.prefix else None
    if path is None or not path.is_file():
        return None
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        return table.astype({"epoch": int, "n": int, "teacher": int, "excluded": int, "value": float})
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise KDScopeError(f"{path} is not the table that a run writes: {' '.join(str(error).split())}") from error


def _position(pair: Pair) -> int | None:
    """Which of the student's own teachers the pair's is."""
    known = [identify(teacher) for teacher in pair.b.subjects[0].teachers]
    own = identify(pair.a.subjects[0])
    return known.index(own) if own in known else None
