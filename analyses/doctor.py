"""Which numbers can be trusted? Tests of measures and networks on the user's own models, layers and images.

For each pair: gauge (a random vector added to both heads), null (shuffled images) and identity (a network against
itself) of every measure on logits, and of CKA of the layers (Adebayo et al. 2018 ask the same of saliency maps: would
the number notice?). For each network at hand: in-place safety, determinism, untouched statistics, finite features in
the range of float16, attention maps that do not move with the gauge (`kdscope.features.checkup`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.answers import splits_of
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Pair, Party, cast, identify, pairs
from kdscope.analyses.doctor_layers import layer_rows, unfit_layers
from kdscope.analyses.doctor_maps import map_rows
from kdscope.analyses.doctor_rules import CAUTION, REFUSE, TRUST, VERDICTS, of_measure, of_network, of_support
from kdscope.analyses.options import definitions
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.checkup import IMAGES, check_network
from kdscope.measures import MEASURES
from kdscope.measures.layers import strided
from kdscope.measures.logits import LogitMeasure
from kdscope.measures.trust import Heads, put_to_test
from kdscope.sources import Subject, resolve_device

COLUMNS = ("test", "found", "expected", "verdict", "reason", "pair")
LOOKED_AT = ("teacher-student", "ensemble-student", "teacher-teacher", "student-student")


@analysis(
    "doctor",
    summary="Which numbers can be trusted, on these networks, layers and images?",
    citation="none: gauge, null and identity tests; Adebayo et al., NeurIPS 2018, for the idea",
    sources=("teacher", "baseline"),
)
def doctor(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str | None = "test",
    view: str = "none",
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    images: int = 10_000,
    looked: int = IMAGES,
    maps: bool = False,
) -> Report:
    """All tests of each pair and of each network, as one tidy table.

    Args:
        splits: names, or one text with commas; view: the augmentation.
        definition: "guo2024-code" or another tests the measures of that definition too (and the map cam-sum).
        teacher, baseline: as for fidelity.
        images: at most so many of a split for measures, evenly strided.
        looked: how many a network is run on, for its own tests.
        maps: test the overlap of attention maps, too; maps that are not cached are extracted.

    Returns:
        A report whose table has for each test: `value`, the deviation (`support`: images for each cell or dimension);
        found and expected; verdict ("trust", "caution", "do not trust") and reason. The interval of a null is the range
        of the shuffles. What a network or a cache refuses is a row, not an error.

    Raises:
        KDScopeError: an unknown definition; bare caches without a split in common.
    """
    logit = [name for name in MEASURES if issubclass(MEASURES[name], LogitMeasure)]
    asked = definitions(definition, logit, "doctor")
    roles, found = _roles(subjects, teacher, baseline)
    rows: list[dict[str, Any]] = []
    for split in splits_of(splits, roles) if roles.students else splits_of(splits or "test", roles):
        sick: set[tuple] = set()
        for subject in _networks(roles, subjects):
            own = list(_of_network(subject, split, view, looked, "guo2024-code" in asked))
            rows += own
            if any(row["test"] == "cache" for row in own):
                sick.add(identify(subject))
        for pair in found:
            if not sick & {identify(s) for s in (*pair.a.subjects, *pair.b.subjects)}:
                rows += _of_pair(roles, pair, split, view, asked, images, maps)
    table = tidy([{"analysis": "doctor", "view": view, **row} for row in rows], COLUMNS)
    order = table["verdict"].map(VERDICTS.index)
    table = table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)
    return Report(table, _short(table), (*roles.notes, *_notes(table)))


def _roles(subjects: Sequence[Subject], teacher: Any, baseline: Any) -> tuple[Cast, list[Pair]]:
    """One network alone is nobody's student, and can be looked at all the same."""
    try:
        roles = cast(subjects, teacher, baseline)
    except KDScopeError:
        if len(subjects) != 1 or teacher or baseline:
            raise
        note = f"{subjects[0].name} has no teacher: no pair to test measures on; name one by --teacher SOURCE"
        return Cast((), tuple(subjects), (note,)), []
    return roles, [pair for pair in pairs(roles) if pair.pair in LOOKED_AT]


def _networks(roles: Cast, subjects: Sequence[Subject]) -> list[Subject]:
    """Each network once: students, their teachers, and what else was given."""
    every = [s for student in roles.students for s in (student.subject, *student.teachers)]
    return list({identify(subject): subject for subject in (*every, *subjects)}.values())


def _of_network(subject: Subject, split: str, view: str, looked: int, published: bool) -> Iterator[dict[str, Any]]:
    """What the network itself says, and whether its cache can be read."""
    shared = {"measure": "network", "a": subject.name, "b": subject.name, "split": split}
    if subject.load is not None:
        device = resolve_device(subject.device)
        try:
            found = check_network(subject.load(), subject.dataset, split, images=looked, device=device)
        except KDScopeError as error:
            yield shared | _refused("network", error)
        else:
            for layer, row in of_network(found):
                if published or not layer.startswith("cam-sum/"):
                    yield shared | row | {"layer": layer, "n": looked}
    try:
        cache = subject.cache(split, view)
        yield from (shared | row | {"n": len(cache.index)} for row in unfit_layers(cache))
        bad = int((~np.isfinite(cache.logits)).any(axis=1).sum())
    except KDScopeError as error:
        yield shared | _refused("cache", error)
        return
    if bad:
        said = f"{bad} of {len(cache.index)} images have logits that are NaN or infinite"
        yield shared | _refused("cache", KDScopeError(said)) | {"value": bad, "layer": "logits"}


def _refused(test: str, error: KDScopeError) -> dict[str, Any]:
    return {"test": test, "verdict": REFUSE, "reason": " ".join(str(error).split())}


def _of_pair(
    roles: Cast, pair: Pair, split: str, view: str, asked: Sequence[str], images: int, maps: bool
) -> Iterator[dict[str, Any]]:
    shared = {"a": roles.name(pair.a), "b": roles.name(pair.b), "split": split, "pair": pair.pair}
    try:
        sides, labels, baseline = _said(pair, split, view)
    except KDScopeError as error:
        yield shared | {"measure": "pair"} | _refused("same images", error)
        return
    classes = len(sides[0][0].classes)
    rows = strided(len(labels), images)
    teacher, student = (tuple(cache.logits[rows] for cache in side) for side in sides)
    shared["n"] = len(rows)
    heads = Heads(teacher, student, labels[rows], None if baseline is None else baseline.logits[rows])
    for named in asked:
        for tried in put_to_test(_measures(named, baseline is not None), heads):
            own = {"measure": tried.card.name, "definition": named}
            yield from (shared | own | row for row in of_measure(tried))
    support = {"measure": "mutual-information", "definition": "kdscope"}
    yield shared | support | of_support(len(labels), classes)
    if all(len(side) == 1 for side in sides):
        yield from (shared | row for row in layer_rows(sides[0][0], sides[1][0], images))
        if maps:
            yield from (shared | row for row in map_rows(pair, split, view))


def _said(pair: Pair, split: str, view: str) -> tuple[tuple[list[FeatureCache], ...], np.ndarray, FeatureCache | None]:
    def caches(party: Party) -> list[FeatureCache]:
        return [member.cache(split, view) for member in party.subjects]

    sides, baseline = (caches(pair.a), caches(pair.b)), None
    if pair.baseline is not None:
        (baseline,) = caches(pair.baseline)
    first, *others = (*sides[0], *sides[1], *([baseline] if baseline is not None else []))
    for other in others:
        first.check_compatible(other)
    return sides, first.labels, baseline


def _measures(definition: str, baseline: bool) -> list[LogitMeasure]:
    chosen = []
    for name in MEASURES:
        kind = MEASURES[name]
        able = issubclass(kind, LogitMeasure) and definition in kind.definitions
        if able and (baseline or "baseline_logits" not in kind.card.needs):
            chosen.append(kind(definition))
    return chosen


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """What is not to be trusted, the worst first, one line for one reason; then how many tests went well."""
    lines = []
    ill = table[table["verdict"] != TRUST].copy()
    ill["who"] = [row.b if row.a == row.b else f"{row.b} by {row.a}" for row in ill.itertuples()]
    for (verdict, test, reason), group in ill.groupby(["verdict", "test", "reason"], sort=False):
        worst = group["value"].abs().min() if test == "support" else group["value"].abs().max()
        lines.append(
            {
                "verdict": verdict,
                "test": test,
                "value": "" if np.isnan(worst) else f"{worst:.2g}",
                "what": _listed(map(_thing, group.itertuples()), 3),
                "why": f"{reason} ({_listed(group['who'], 2)})",
            }
        )
    for test, group in table[table["verdict"] == TRUST].groupby("test", sort=False):
        count = f"{len(group)} of {(table['test'] == test).sum()}"
        lines.append({"verdict": TRUST, "test": test, "value": "", "what": count, "why": ""})
    return pd.DataFrame(lines, columns=["verdict", "test", "value", "what", "why"])


def _listed(names: Iterable[str], most: int) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" + {len(names) - most} more" if len(names) > most else "")


def _thing(row: Any) -> str:
    if isinstance(row.layer, str) and row.layer:
        return row.layer if row.measure == "network" else f"{row.measure} {row.layer}"
    published = isinstance(row.definition, str) and row.definition != "kdscope"
    return f"{row.measure} ({row.definition})" if published else row.measure


def _notes(table: pd.DataFrame) -> list[str]:
    counts = {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}
    said = [f"{len(table)} tests: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())]
    tried = table[table["test"] == "gauge"]
    names = [
        row.layer.partition("/")[0] if row.measure == "network" else row.measure
        for row in tried[tried["verdict"] == REFUSE].itertuples()
    ]
    if names:
        said.append(f"moved by the gauge: {', '.join(dict.fromkeys(names))}")
    elif len(tried):
        said.append("no number moves with the gauge of the heads")
    if len(tried) and not counts[REFUSE]:
        cautions = ", with the cautions above" if counts[CAUTION] else ""
        said.append(f"nothing here forbids trusting the numbers of these networks{cautions}")
    return said
