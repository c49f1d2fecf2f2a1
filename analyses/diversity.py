"""How different are the teachers, what does their ensemble gain, how sure is each network, and how strong is a view?

Guo et al., arXiv 2405.00739 (entropy, H.1; affinity, eq. 5); Gontijo-Lopes et al., ICLR 2021 (affinity and diversity of
augmentations). Teachers of one student beside two seeds of one teacher; ensembles of teachers and of seeds; and every
network on clean and on augmented views of the same images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdscope.analyses.answers import SINGLE, ask, parties, splits_of, teacher_of
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Pair, Party, cast, pairs
from kdscope.analyses.compare import Finding, over_groups
from kdscope.analyses.diversity_words import short, verdicts
from kdscope.analyses.options import definitions, texts
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures import MEASURES
from kdscope.measures.agreement import expected_agreement
from kdscope.measures.diversity import FAMILY, Ratio
from kdscope.measures.result import Result
from kdscope.measures.statistics import paired_bootstrap
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "shown", "trained", "group", "method", "architecture", "seed", "seeds"),
    *("gap", "gap_low", "gap_high", "control", "confidence", "excluded"),
)
COMPARED = ("teacher-teacher", "student-student", "ceiling:teacher-seeds", "ceiling:student-seeds")
ALIKE = {"teacher-teacher": "ceiling:teacher-seeds", "student-student": "ceiling:student-seeds"}


@analysis(
    "diversity",
    summary="How different are teachers, what does their ensemble gain, and how strong are augmentations?",
    citation="Guo et al., arXiv 2405.00739; Gontijo-Lopes et al., ICLR 2021",
    sources=("teacher", "baseline"),
)
def diversity(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str | None = "test",
    view: str = "none",
    views: Sequence[str] | str = "weak,strong",
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Disagreement, ensemble gain and entropy under one view; affinity and diversity of other views.

    Args:
        splits: names, or one text with commas. The diversity of a view is always that on train.
        view: the augmentation under which disagreement, gain and entropy are measured.
        views: augmentations that are compared with the clean images; an empty text for none.
        definition: "guo2024-code" adds the affinity of each network by itself, however it was trained. By the sound
            definition only a network that was trained on clean images measures it (or, where that is not known, any).
        teacher, baseline: as for fidelity.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair ("network", "ensemble", "seeds" (an ensemble of
        these), "view", or a pair of `kdscope.analyses.cast`), role, shown (the augmentation of a row of pair "view"),
        trained (that of the network's training), seed ("all": mean over `seeds` trainings, of ratios the geometric
        one), control (what floor and ceiling are), and gap: of an entropy, the student's less its teacher's, paired
        by image.

    Raises:
        KDScopeError: no student or no teacher among the sources, an unknown definition, caches of different images.
    """
    roles = cast(subjects, teacher, baseline)
    asked = definitions(definition, ["affinity"], "diversity")
    shown = texts(views)
    rows: list[dict[str, Any]] = []
    listed = {party.key: role for role, party in parties(roles)}
    notes = list(roles.notes)

    def enter(found: Iterable[Finding], split: str, seen: str = "") -> None:
        found = list(found)
        named = [(str(f.pair.b.seed), f) for f in found] + [("all", f) for f in _over_seeds(found, confidence)]
        rows.extend(_row(roles, listed, split, view, seen, seed, f) | {"confidence": confidence} for seed, f in named)

    parts = splits_of(splits, roles)
    for part in parts:
        enter(_disagreements(roles, part, view, confidence), part)
        enter(_gains(roles, part, view, confidence), part)
        enter(_entropies(roles, part, view, confidence), part)
    for seen in shown:
        for part in parts:
            enter(_of_view(roles, part, seen, ["accuracy-shift", "affinity"], asked, confidence), part, seen)
        enter(_of_view(roles, "train", seen, ["view-diversity"], asked, confidence), "train", seen)
    table = tidy(rows, COLUMNS)
    return Report(table, short(table), (*notes, *verdicts(table, shown, "guo2024-code" in asked)))


def _disagreements(roles: Cast, split: str, view: str, confidence: float) -> list[Finding]:
    """Pairs of teachers and of students; the floor is what two seeds differ by, or what the accuracies force."""
    found = []
    for pair in pairs(roles):
        if pair.pair not in COMPARED:
            continue
        a, b = (_caches(party, split, view)[0] for party in (pair.a, pair.b))
        a.check_compatible(b)
        one, other, labels = a.logits, b.logits, a.labels
        result = MEASURES["disagreement"]().update(one, other).compute(confidence)
        tops = one.argmax(axis=1), other.argmax(axis=1)
        chance = 1 - expected_agreement(*tops, len(a.classes), labels)
        forced = abs(float(np.mean(tops[0] == labels) - np.mean(tops[1] == labels)))
        words = "floor: difference of the accuracies; ceiling: independent given the class"
        found.append(Finding(pair, result.with_frame(forced, chance, words)))
    return [_beside_seeds(finding, found) for finding in found]


def _beside_seeds(finding: Finding, found: Sequence[Finding]) -> Finding:
    pair = finding.pair
    again = [
        f.result.value
        for f in found
        if f.pair.pair == ALIKE.get(pair.pair) and f.pair.b.groups in (pair.a.groups, pair.b.groups)
    ]
    if not again:
        return finding
    words = "floor: two seeds of one of them; ceiling: independent given the class"
    return replace(finding, result=finding.result.with_frame(floor=float(np.mean(again)), control=words))


def _gains(roles: Cast, split: str, view: str, confidence: float) -> Iterator[Finding]:
    """Ensembles of the teachers of a student, and of the seeds of each group."""
    found = parties(roles)
    groups: dict[tuple, list[Subject]] = {}
    for role, party in found:
        if role in SINGLE:
            groups.setdefault((role, party.subjects[0].group), []).append(party.subjects[0])
    joined = [("ensemble", party) for role, party in found if role == "ensemble"]
    joined += [("seeds", Party(tuple(members))) for members in groups.values() if len(members) > 1]
    for kind, party in joined:
        caches = _caches(party, split, view)
        members, together = [cache.logits for cache in caches], ask(party, kind, split, view)
        for name in ("ensemble-gain", "ensemble-gain-best"):
            state = MEASURES[name]().update(together.logits, members, together.labels)
            words = "floor: members that agree; ceiling: an oracle that picks a member that is right"
            result = state.compute(confidence).with_frame(0.0, state.ceiling(), words)
            yield Finding(Pair(kind, party, party), result)


def _entropies(roles: Cast, split: str, view: str, confidence: float) -> Iterator[Finding]:
    """Each network and ensemble; a student's beside its teacher's."""
    above = {Party((s.subject,)).key: teacher_of(s) for s in roles.students}
    results: dict[tuple, Result] = {}
    for role, party in parties(roles):
        said = ask(party, role, split, view)
        if said is None:
            continue
        result = MEASURES["predictive-entropy"]().update(said.logits, said.logits).compute(confidence)
        results[party.key] = result
        teacher = above.get(party.key) if role == "student" else None
        other = results.get(teacher.key) if teacher else None
        gap = None
        if other is not None and len(other.per_sample) == result.n:
            value, low, high = paired_bootstrap(result.per_sample, other.per_sample, confidence=confidence)
            gap = replace(
                result, value=value, ci_low=low, ci_high=high, per_sample=result.per_sample - other.per_sample
            )
        framed = result.with_frame(0.0, float(np.log(said.logits.shape[1])), "floor: certain; ceiling: ln C, no idea")
        yield Finding(Pair("network", teacher or party, party), framed, gap)


def _of_view(
    roles: Cast, split: str, shown: str, names: Sequence[str], asked: Sequence[str], confidence: float
) -> Iterator[Finding]:
    """Measures of the augmented beside the clean images, of each trained network that can be asked."""
    for role, party in parties(roles):
        subject = party.subjects[0]
        held = subject.load is not None or {(split, "none"), (split, shown)} <= set(subject.caches)
        if role not in SINGLE or not held:
            continue
        clean, seen = subject.cache(split), subject.cache(split, shown)
        if not np.array_equal(clean.labels, seen.labels):
            raise KDScopeError(f"{clean.path} and {seen.path} are not of the same images: their labels differ")
        for name in names:
            for definition in asked if name == "affinity" else ["kdscope"]:
                if name == "affinity" and definition == "kdscope" and subject.augment not in ("none", None):
                    continue
                state = MEASURES[name](definition).update(clean.logits, seen.logits, clean.labels)
                same = (0.0 if name == "accuracy-shift" else 1.0, None, "floor: a view that changes nothing")
                yield Finding(Pair("view", party, party), state.compute(confidence).with_frame(*same))


def _caches(party: Party, split: str, view: str) -> list[FeatureCache]:
    return [subject.cache(split, view) for subject in party.subjects]


def _row(
    roles: Cast, listed: dict[tuple, str], split: str, view: str, shown: str, seed: str, finding: Finding
) -> dict[str, Any]:
    pair, result, gap = finding.pair, finding.result, finding.gain
    name = roles.group_name if seed == "all" else roles.name
    b = pair.b.subjects[0]
    called = f"{roles.group_name(Party((b,)))} ({len(pair.b.subjects)} seeds)" if pair.pair == "seeds" else name(pair.b)
    row = result.row(
        analysis=FAMILY, a="" if pair.a.key == pair.b.key else name(pair.a), b=called, layer="", split=split,
        view=shown or view, pair=pair.pair, role=listed.get(pair.b.key, ""), shown=shown, trained=b.augment or "",
        group=roles.group_name(Party((b,))), method=b.method, architecture=b.architecture,
        seed="" if seed == "None" else seed, seeds=finding.seeds, gap=gap and gap.value, gap_low=gap and gap.ci_low,
        gap_high=gap and gap.ci_high, control=result.control, excluded=result.excluded,
    )  # fmt: skip
    # A t interval over few seeds knows nothing of the range.
    return row | {end: np.clip(row[end], *MEASURES[result.measure].card.range) for end in ("ci_low", "ci_high")}


def _over_seeds(found: Sequence[Finding], confidence: float) -> list[Finding]:
    """As `over_groups`, but ratios by their logarithms: their geometric mean, with an interval that stays above 0."""
    ratios = [f for f in found if issubclass(MEASURES[f.result.measure], Ratio)]
    plain = [f for f in found if not issubclass(MEASURES[f.result.measure], Ratio)]
    together = over_groups([_scaled(f, np.log) for f in ratios], confidence, scaled=True)
    return [*over_groups(plain, confidence), *(_scaled(f, np.exp) for f in together)]


def _scaled(finding: Finding, scale: Callable[[float], float]) -> Finding:
    with np.errstate(divide="ignore"):
        ends = {end: float(scale(getattr(finding.result, end))) for end in ("value", "ci_low", "ci_high", "floor")}
    return replace(finding, result=replace(finding.result, **ends))
