"""Which layers of teacher and student see the same likenesses between images, and is that more than training gives?

Kornblith et al., ICML 2019; Nguyen et al., ICLR 2021. Each layer of a student against each of its teacher: debiased
CKA (the biased one beside it), Procrustes, nearest neighbours, RSA; between a floor and a ceiling
(`kdscope.analyses.cast`); over seeds; over epochs, where a run kept probes. Images are paired by their index in the
split, never by the order of a loader.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import PAIRS, TAUGHT, Cast, Pair, cast, pairs
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.feature_layers import Cell, Library, matching
from kdscope.analyses.kept_cka import kept_cka
from kdscope.analyses.similarity_words import notes, short
from kdscope.errors import KDScopeError
from kdscope.measures.controls import derangement
from kdscope.measures.layers import NAMES, Layer, compare_layers
from kdscope.measures.result import Result
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "layer_a", "layer_b", "group", "a_group", "method", "architecture", "seed", "seeds", "epoch"),
    *("control", "reduction", "variance_a", "variance_b", "confidence", "excluded"),
)
Measured = dict[Cell, dict[tuple[str, str], Result]]
Sides = tuple[dict[str, Layer], dict[str, Layer]]
Facts = dict[tuple, dict[str, Any]]  # what is known of the layers of a cell besides the results


@analysis(
    "similarity",
    summary="Which layers of teacher and student see the same likenesses between images?",
    citation="Kornblith et al., ICML 2019; Nguyen et al., ICLR 2021",
    sources=("teacher", "baseline"),
)
def similarity(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str | None = None,
    view: str = "none",
    layers: Sequence[str] | str | None = None,
    measures: Sequence[str] | str = NAMES,
    images: int = 10_000,
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Each measure of each layer of a with each of b, for all pairs and controls, as one tidy table.

    Args:
        splits: names, or one text with commas; default: test, or what bare caches have in common.
        view: the augmentation under which all are shown the same images.
        layers: patterns of layers, as in "layer*,penultimate"; default: all that are cached, each set of features once.
        measures: of cka, procrustes, knn-jaccard, rsa.
        images: at most so many of a split, evenly strided.
        teacher, baseline: as for fidelity.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair, layer_a and layer_b, seed ("all": mean over seeds),
        epoch, control, reduction (how maps became vectors), variance_a and variance_b (share of a layer's variance on
        its first principal axis). The ceiling of a cell is that of the student's layer with itself over seeds.

    Raises:
        KDScopeError: no student or teacher, an unknown layer or measure, caches of different images, too few of them,
            NaN features (in how many images, of which layer).
    """
    roles = cast(subjects, teacher, baseline)
    every = [pair for pair in pairs(roles) if len(pair.a.subjects) == len(pair.b.subjects) == 1]
    # A second independent student in the student's place answers a question that is asked of logits only.
    every = [pair for pair in every if pair.pair in TAUGHT or pair.baseline is None]
    library = Library(matching(layers), images)
    names = [m.strip() for m in measures.split(",")] if isinstance(measures, str) else list(measures)
    rows: list[dict[str, Any]] = []
    for part in _splits(splits, roles):
        measured: dict[tuple, Measured] = {}
        facts: Facts = {}
        for pair in every:
            sides = _sides(pair, library, part, view)
            if sides is not None:
                measured[pair.key] = _measured(sides, names, confidence)
                facts |= _facts(sides, library, pair, None)
        found = list(_findings(every, measured, confidence))
        if view == "none":
            found += _over_epochs(every, library, part, names, confidence, facts)
        rows += [
            _row(roles, part, view, cell, finding, facts[finding.pair.key, finding.epoch, cell])
            for cell, finding in found
        ]
    table = _ordered(tidy([row | {"confidence": confidence} for row in rows], COLUMNS))
    return Report(table, short(table), (*roles.notes, *library.notes, *notes(table)))


def _splits(splits: Sequence[str] | str | None, roles: Cast) -> list[str]:
    if splits is not None:
        return [part.strip() for part in (splits.split(",") if isinstance(splits, str) else splits) if part.strip()]
    bare = [s for student in roles.students for s in (student.subject, *student.teachers) if s.load is None]
    for part in ("test", "validation", "train"):
        if all(part in {split for split, _ in subject.caches} for subject in bare):
            return [part]
    raise KDScopeError(f"the caches have no split in common: {', '.join(subject.name for subject in bare)}")


def _sides(pair: Pair, library: Library, split: str, view: str) -> Sides | None:
    """The layers of both on the same images; None where a control's network is not known."""
    a, b = (library.cache(party, split, view) for party in (pair.a, pair.b))
    if a is None or b is None:
        return None
    a.check_compatible(b)
    one, other = library.layers(a), library.layers(b)
    if pair.b.kind == "shuffled":
        order = derangement(len(next(iter(other.values()))))
        other = {name: Layer(layer.features[order], name) for name, layer in other.items()}
    return one, other


def _measured(sides: Sides, names: Sequence[str], confidence: float) -> Measured:
    found = compare_layers(*sides, names, confidence)
    return {cell: {(r.measure, r.definition): r for r in results} for cell, results in found.items()}


def _facts(sides: Sides, library: Library, pair: Pair, epoch: int | None) -> Facts:
    a, b = sides
    return {
        (pair.key, epoch, (one, other)): {
            "reduction": " ~ ".join(dict.fromkeys((library.reductions[one], library.reductions[other]))),
            "variance_a": a[one].top,
            "variance_b": b[other].top,
        }
        for one in a
        for other in b
    }


def _findings(
    every: Sequence[Pair], measured: dict[tuple, Measured], confidence: float
) -> Iterator[tuple[Cell, Finding]]:
    """What was found in each cell: taught pairs in their frames, all others as they are, and seeds together."""
    cells = list(dict.fromkeys(cell for found in measured.values() for cell in found))
    for cell in cells:
        here = {key: found[_counterpart(key[0], cell)] for key, found in measured.items() if _has(key[0], found, cell)}
        framed = [f for f in in_frames(every, here, confidence) if f.pair.pair in TAUGHT]
        plain = [
            Finding(pair, result)
            for pair in every
            if pair.pair not in TAUGHT
            for result in measured.get(pair.key, {}).get(cell, {}).values()
        ]
        for finding in (*framed, *plain, *over_groups([*framed, *plain], confidence)):
            yield cell, finding


def _counterpart(kind: str, cell: Cell) -> Cell:
    """The cell of a control that a cell is compared with: a layer of two seeds is compared with itself."""
    return {"ceiling:student-seeds": (cell[1],) * 2, "ceiling:teacher-seeds": (cell[0],) * 2}.get(kind, cell)


def _has(kind: str, found: Measured, cell: Cell) -> bool:
    return _counterpart(kind, cell) in found


def _over_epochs(
    every: Sequence[Pair], library: Library, split: str, names: Sequence[str], confidence: float, facts: Facts
) -> list[tuple[Cell, Finding]]:
    """Taught and independent students on their probe sets, at each epoch that was kept, and seeds together.

    A run that kept no caches of its probes may have kept CKA itself, debiased.
    """
    by_cell: dict[Cell, list[Finding]] = {}
    for pair in every:
        if pair.pair not in (*TAUGHT, "floor:independent-student"):
            continue
        student, index, teacher = pair.b.subjects[0], None, {}
        epochs = student.probe_epochs(split)
        kept = kept_cka(pair, split, library, confidence) if "cka" in names and not epochs else ()
        for epoch, cell, result, known in kept:
            facts[pair.key, epoch, cell] = known
            by_cell.setdefault(cell, []).append(Finding(pair, result, epoch=epoch))
        for epoch in epochs:
            probe = student.probe(epoch, split)
            if index is None or not np.array_equal(index, probe.index):
                index = probe.index
                teacher = library.layers_at(pair.a.subjects[0].cache(split), probe)
            sides = teacher, library.layers(probe)
            facts |= _facts(sides, library, pair, epoch)
            for cell, results in _measured(sides, names, confidence).items():
                by_cell.setdefault(cell, []).extend(Finding(pair, r, epoch=epoch) for r in results.values())
    return [(cell, finding) for cell, found in by_cell.items() for finding in (*found, *over_groups(found, confidence))]


def _row(roles: Cast, split: str, view: str, cell: Cell, finding: Finding, facts: dict[str, Any]) -> dict[str, Any]:
    pair, result = finding.pair, finding.result
    together = finding.seeds > 1
    name = roles.group_name if together else roles.name
    b = pair.b.subjects[0]
    return result.row(
        analysis="similarity", a=name(pair.a), b=name(pair.b), layer=" ~ ".join(dict.fromkeys(cell)), split=split,
        view=view, layer_a=cell[0], layer_b=cell[1], pair=pair.pair, group=roles.group_name(pair.b),
        a_group=roles.group_name(pair.a), method=b.method, architecture=b.architecture,
        seed="all" if together else "" if pair.b.seed is None else str(pair.b.seed), seeds=finding.seeds,
        epoch=finding.epoch, control=result.control, excluded=result.excluded, **facts,
    )  # fmt: skip


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Split by split, the pairs in the order of `PAIRS`, all seeds together before each alone, epochs last."""
    keys = {
        "pair": lambda column: column.map(PAIRS.index),
        "epoch": lambda column: column.fillna(-1),
        "seed": lambda column: column.map(lambda seed: (-1, "") if seed == "all" else (0, seed.zfill(9))),
    }
    names = ["split", "pair", "epoch", "group", "a_group", "seed", "b", "a"]
    order = pd.DataFrame({name: keys.get(name, lambda column: column)(table[name]) for name in names})
    table = table.loc[order.sort_values(names, kind="stable").index].reset_index(drop=True)
    table["epoch"] = table["epoch"].astype("Int64")
    return table
