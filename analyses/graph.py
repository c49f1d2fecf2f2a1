"""Whom do the attention heads of MHGD look at: in the teacher on which they were trained, and in the student?

The graph of a batch is recomputed from each image's keys and queries (`kdscope.features.graph`). Beside the two stand
heads as they were drawn (untrained), students of the same architecture that had no teacher, and the null: queries that
belong to other images. A small loss of the heads does not make a graph relational: one in which each image attends to
itself estimates its vector as well as any, hence identity mass; labels alone give same-class mass.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import nearest_first
from kdscope.analyses.graph_numbers import SHUFFLED, WHOLE, Cell, Cells, measured, pictured
from kdscope.analyses.kin import by_group, identify, names_of
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.graph import IMAGES
from kdscope.figures.style import short_names
from kdscope.measures.graphs import SATURATED
from kdscope.measures.result import Result
from kdscope.measures.seeds import two_level_interval
from kdscope.measures.statistics import bootstrap_mean
from kdscope.sources import Subject

COLUMNS = (
    *("network", "head", "group", "method", "seed", "seeds", "heads", "batch", "batches", "control", "confidence"),
    *("row", "column", "class_a", "class_b"),
)
SOURCE = "Lee & Song, BMVC 2019"
Key = tuple[str, int]  # a group of students, and which of its teachers
RANGES = {  # of means over seeds; none is below 0, save correlations
    **dict.fromkeys(("same-class-mass", "identity-mass", "saturation"), (0.0, 1.0)),
    "head-correlation": (-1.0, 1.0),
}


@analysis(
    "graph",
    summary="Whom do the attention heads of MHGD look at, in teacher and student?",
    citation=SOURCE,
    sources=("baseline",),
)
def graph(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    view: str = "none",
    images: int = IMAGES,
    batch: int = 128,
    shown: int = 40,
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Same-class mass, identity mass, entropy, correlation of heads, divergence: of every graph, with its null.

    Args:
        splits: the one split to look at.
        view: the augmentation under which all are shown the same images.
        images: at most so many of the split, evenly spread.
        batch: images of a graph; the training's own is what its heads know.
        shown: images of a heat map at the most.
        baseline: students without a teacher, beside those among the sources that have the architecture.
        confidence: of all intervals, which are from drawing whole batches: the rows of a graph share a softmax. Of one
            batch alone, images are drawn.

    Returns:
        A report whose table has, besides the shared columns: network ("teacher", "student", "independent" or
        "untrained"), layer (the pair, FRONT-BACK), head ("all": the mean of them), batches, control. The measure
        "attention" are the cells of heat maps: multiples of an even share, row and column, classes.

    Raises:
        KDScopeError: no run of MHGD among the sources, several splits, too few images, layers that do not fit.
    """
    if "," in str(splits):
        raise KDScopeError(f"graphs are of one split, and {splits!r} names several")
    students = [s for s in subjects if s.attentions is not None or ("graph", splits, view) in s.others]
    if not students:
        named = ", ".join(f"{s.name} is by {s.method or 'an unknown method'}" for s in subjects)
        raise KDScopeError(f"graphs are of runs of --method mhgd, or of their caches of that kind; {named}")
    alone = [*baseline, *(s for s in subjects if s not in students and s.method == "none" and s.load is not None)]
    known = names_of([*students, *(t for s in students for t in s.teachers), *alone])
    shared = {"analysis": "graph", "definition": "kdscope", "split": splits, "view": view, "confidence": confidence}
    rows: list[dict[str, Any]] = []
    together: dict[Key, list[tuple[Cells, Cells, dict]]] = {}
    for group in by_group(students).values():
        for student in group:
            fitting = [other for other in alone if other.architecture == student.architecture]
            beside = nearest_first(student, fitting)[:1]
            for k, (cache, others) in enumerate(_caches(student, beside, splits, view, images)):
                found, null = measured(cache, others, batch)
                about = shared | _about(student, cache, known, k, batch)
                rows += _rows(found, null, about, len(cache.index), confidence)
                if (student.group, k) not in together:
                    rows += [about | cell for cell in pictured(cache, others, batch, shown)]
                together.setdefault((student.group, k), []).append((found, null, about))
    for (group, _), each in together.items():
        if len(each) > 1:
            rows += _over_seeds(each, known[group], confidence)
    table = tidy(rows, COLUMNS)
    return Report(table, _short(table), tuple(_notes(table, alone)))


def _caches(
    student: Subject, beside: Sequence[Subject], split: str, view: str, images: int
) -> Iterator[tuple[FeatureCache, Mapping[str, FeatureCache]]]:
    """For each teacher of a student its cache, and that of a network without a teacher under the same heads."""
    if student.attentions is None:
        yield student.others["graph", split, view], {}
        return
    for attention in student.attentions():
        asked = {"kind": "graph", "options": {"attention": attention, "images": images}}
        alone = {"independent": beside[0].cache(split, view, **asked)} if beside else {}
        yield student.cache(split, view, **asked), alone


def _about(student: Subject, cache: FeatureCache, known: Mapping, k: int, batch: int) -> dict[str, Any]:
    teacher = known[identify(student.teachers[k])] if len(student.teachers) > k else "teacher"
    size = min(batch, len(cache.index))
    return {
        "a": teacher, "b": known[identify(student)], "group": known[student.group], "method": student.method,
        "seed": "" if student.seed is None else str(student.seed), "seeds": 1, "batch": size,
        "heads": cache.identity["attention"]["heads"], "batches": len(cache.index) // size,
    }  # fmt: skip


def _rows(
    found: Cells, null: Cells, about: Mapping[str, Any], images: int, confidence: float
) -> Iterator[dict[str, Any]]:
    for cell, values in found.items():
        low, high = bootstrap_mean(values, confidence=confidence) if not np.isnan(values).any() else (math.nan,) * 2
        yield _row(cell, values.mean(), (low, high), null[cell].mean(), about, images)


def _row(
    cell: Cell, value: float, ends: tuple[float, float], null: float, about: Mapping[str, Any], images: int
) -> dict[str, Any]:
    measure, network, pair, head = cell
    floor = null if measure in SHUFFLED else None
    ceiling = math.log(about["batch"]) if measure == "row-entropy" else None
    control = "floor: queries of other images" if floor is not None else "ceiling: every image alike" if ceiling else ""
    result = Result(measure, float(value), None, images, *ends, floor, ceiling, control, source=SOURCE)
    return result.row(**about, layer=pair, network=network, head=head, control=control)


def _over_seeds(each: Sequence[tuple[Cells, Cells, dict]], group: str, confidence: float) -> Iterator[dict[str, Any]]:
    """The mean over the seeds of a group; the interval is for another training and other images."""
    first, _, about = each[0]
    about = about | {"b": group, "seed": "all", "seeds": len(each)}
    for cell in first:
        values = [found[cell] for found, _, _ in each if cell in found]
        if len(values) < len(each) or len({len(v) for v in values}) > 1:
            continue
        ends = two_level_interval(np.stack(values), confidence=confidence)
        ends = np.clip(ends, *RANGES.get(cell[0], (0.0, np.inf)))
        null = np.mean([null[cell].mean() for _, null, _ in each])
        yield _row(cell, np.mean(values), ends, null, about, about["batch"] * about["batches"])


TITLES = {
    "same-class-mass": ("class %", 100, ".1f"),
    "identity-mass": ("itself %", 100, ".1f"),
    "row-entropy": ("entropy", 1, ".2f"),
    "head-correlation": ("heads", 1, ".2f"),
    "graph-divergence": ("KL", 1, ".2f"),
    "saturation": ("sat. %", 100, ".0f"),
}


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each student, pair of layers and network: all seeds together where there are several."""
    rows = table[(table["head"] == WHOLE) & table["measure"].isin(TITLES)]
    several = rows.groupby("group")["seeds"].transform("max") > 1
    rows = rows[~several | (rows["seed"] == "all")]
    short = short_names(rows["b"], 12)
    lines, known = [], list(TITLES.items())
    for (b, layer, network), own in rows.groupby(["b", "layer", "network"], sort=False):
        cells = {row.measure: row for row in own.itertuples()}
        line = {"student": short[b], "layers": layer, "graph of": network}
        line |= {title: _cell(cells.get(m), factor, form, m != "identity-mass") for m, (title, factor, form) in known}
        lines.append(line)
    return pd.DataFrame(lines)


def _cell(row: Any, factor: float, form: str, null: bool) -> str:
    """The value, and where there is one the null in brackets."""
    if row is None or math.isnan(row.value):
        return "-"
    beside = f" ({factor * row.floor:{form}})" if null and not math.isnan(row.floor) else ""
    return f"{factor * row.value:{form}}".replace("-0.00", "0.00") + beside


def _notes(table: pd.DataFrame, alone: Sequence[Subject]) -> Iterator[str]:
    first = table.iloc[0]
    yield (
        "class and itself: of an image's attention, how much goes to its class and to itself; in brackets the null, "
        f"queries of other images. Entropy in nat, at most {math.log(first['batch']):.2f} for batches of "
        f"{first['batch']:.0f}; heads: mean correlation of two of them; KL: to the teacher's graph, nat; sat.: "
        f"scores with |tanh| > {SATURATED}"
    )
    if first["batches"] < 2:
        yield "one batch alone: intervals are from drawing its images, whose rows share a softmax; take them as rough"
    elif first["batches"] < 8:
        yield f"intervals are from {first['batches']:.0f} batches; take them as rough"
    if not alone:
        yield "no student without a teacher is among the sources: how much of the divergence is the method's is open"
    stuck = table[(table["measure"] == "saturation") & (table["network"] == "student")]["value"].max()
    if stuck > 0.9:
        yield (
            f"of a student's scores up to {stuck:.0%} are saturated: its vectors lie far from the teacher's, by whose "
            "spread the heads are normalised, and hardly any gradient of the graph gets through"
        )
    itself = table[(table["measure"] == "identity-mass") & (table["network"] == "teacher") & (table["head"] == WHOLE)]
    other = table[(table["measure"] == "same-class-mass") & (table["network"] == "teacher") & (table["head"] == WHOLE)]
    share = float(itself["value"].mean() / other["value"].mean())
    yield f"of the attention within a class, the teacher's images give {share:.0%} to themselves"
