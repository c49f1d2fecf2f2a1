"""Which way of training gives the better student, and is the difference more than chance?

Accuracy of each method over its seeds, its difference to a training without a teacher and to plain distillation (paired
by seed and by image), how small a difference could have been seen, and what each took: epochs beside the main ones, and
time. A fair table is one of equal epochs, one teacher and one recipe; where that is not so, the report says it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.comparison_words import caveats, short, verdict
from kdscope.analyses.kin import by_group, identify, names_of
from kdscope.analyses.options import texts
from kdscope.errors import KDScopeError, unknown
from kdscope.measures import MEASURES
from kdscope.measures.crossed import Crossed, crossed_mean
from kdscope.measures.result import Result
from kdscope.measures.seeds import over_seeds
from kdscope.measures.significance import cohen_dz, holm, minimal_detectable_effect
from kdscope.sources import Subject

COLUMNS = (
    *("method", "architecture", "seed", "seeds", "sd", "p_value", "p_holm", "effect", "detectable", "test"),
    *("epochs", "extra_epochs", "extra", "seconds", "time", "confidence", "control"),
)
AGAINST = ("none", "kd")
TESTS = {
    True: "two-way analysis of variance over seeds and images (Dorfman, Berbaum & Metz 1992; Hillis 2007)",
    False: "paired t-test over images",
}


@dataclass(frozen=True)
class Arm:
    """One way of training: its runs by their seeds, and for each of them accuracy with one number an image."""

    name: str
    runs: dict[int | None, Subject]
    results: dict[int | None, Result]

    @property
    def first(self) -> Subject:
        return next(iter(self.runs.values()))


@dataclass(frozen=True)
class Contrast:
    """An arm less another on the same images: for each seed, and over all of them."""

    reference: Arm
    arm: Arm
    seeds: dict[int | None, Crossed]
    all: Crossed

    @property
    def effect(self) -> float:
        return cohen_dz(np.array([one.value for one in self.seeds.values()]))

    @property
    def detectable(self) -> float:
        """The smallest difference found in four of five such comparisons, from the error and the freedom of this."""
        pairs = self.all.freedom + 1 if math.isfinite(self.all.freedom) else 1e6
        return minimal_detectable_effect(pairs, self.all.error * math.sqrt(pairs))


@analysis(
    "comparison",
    summary="Which way of training gives the better student, and is the difference more than chance?",
    citation="Dorfman, Berbaum & Metz, Invest. Radiol. 1992; Hillis, Stat. Med. 2007; Holm 1979",
)
def comparison(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str = "test",
    view: str = "none",
    against: Sequence[str] | str | None = None,
    confidence: float = 0.95,
) -> Report:
    """Accuracy of each way of training, and its difference to those that it is compared with.

    Runs that differ in their seed alone are one way of training. Teachers of others are left out, and so is what is not
    of the architecture that most have.

    Args:
        splits: names, or one text with commas.
        view: the augmentation under which all are shown the same images.
        against: methods (or names of ways of training) that the others are compared with; by default `none` and `kd`
            as far as they are there, else the first.
        confidence: of all intervals; a difference counts where Holm's p is below 1 - confidence.

    Returns:
        A report. Rows of measure "accuracy" have the share of images, over all seeds (seed "all", interval for another
        training and other images; `sd` over seeds) and for each; epochs beside the main ones (`extra_epochs`, `extra`
        says of what), `seconds` (median) and `time` relative to kd (median over seeds). Rows of "accuracy-difference"
        have b less a on the same seeds and images, with `p_value`, `p_holm` (over all methods compared with a),
        `effect` (Cohen's d_z over seeds) and `detectable`, the difference that would be found four times in five.

    Raises:
        KDScopeError: fewer than two ways of training, a reference that is not there, caches of different images.
    """
    members, notes = compared(subjects)
    rows: list[dict[str, Any]] = []
    for split in texts(splits):
        arms = arms_of(members, split, view, confidence)
        kd = next((arm for arm in arms if arm.first.method == "kd"), None)
        shared = {"analysis": "comparison", "layer": "", "split": split, "view": view, "confidence": confidence}
        references = references_of(arms, against)
        floor = next((arm for arm in references if arm.first.method == "none"), None)
        for arm in arms:
            rows += [shared | row for row in _of_arm(arm, kd, floor, confidence)]
        done: set[frozenset[str]] = set()
        for reference in references:
            pairs = [arm for arm in arms if arm is not reference and frozenset((arm.name, reference.name)) not in done]
            done |= {frozenset((arm.name, reference.name)) for arm in pairs}
            contrasts = [_contrast(reference, arm, confidence) for arm in pairs]
            known = [contrast for contrast in contrasts if contrast is not None]
            for arm, contrast in zip(pairs, contrasts, strict=True):
                if contrast is None:
                    notes.append(f"{arm.name} and {reference.name} have no seed in common, and are not compared")
            adjusted = holm([contrast.all.p_value for contrast in known]) if known else []
            for contrast, p_holm in zip(known, adjusted, strict=True):
                rows += [shared | row for row in _of_contrast(contrast, float(p_holm))]
    table = tidy(rows, COLUMNS)
    return Report(table, short(table), (verdict(table), *caveats(table, members), *dict.fromkeys(notes)))


def compared(subjects: Sequence[Subject]) -> tuple[dict[str, list[Subject]], list[str]]:
    """The runs of each way of training by its name, and who was left out."""
    serving = {identify(teacher) for subject in subjects for teacher in subject.teachers}
    left = [subject for subject in subjects if identify(subject) not in serving]
    notes = [f"{s.name} was left out: it is a teacher of others" for s in subjects if identify(s) in serving]
    architectures = [subject.architecture for subject in left]
    student = max(architectures, key=architectures.count, default="")
    notes += [
        f"{s.name} was left out: it is a {s.architecture}, and most here are {student}"
        for s in left
        if s.architecture != student
    ]
    left = [subject for subject in left if subject.architecture == student]
    names, groups = names_of(left), by_group(left)
    if len(groups) < 2:
        raise KDScopeError(f"{len(groups)} way of training is there to compare; give runs of two or more")
    methods = [members[0].method for members in groups.values()]
    named = {}
    for group, members in groups.items():
        method = members[0].method
        named[method if method and methods.count(method) == 1 else names[group]] = members
    return named, notes


def arms_of(members: dict[str, list[Subject]], split: str, view: str, confidence: float) -> list[Arm]:
    """Each way of training with what its runs are right about, on the same images."""
    arms, first = [], None
    for name, subjects in members.items():
        runs = {subject.seed: subject for subject in subjects}
        results = {}
        for seed, subject in runs.items():
            cache = subject.cache(split, view)
            first = first or cache
            first.check_compatible(cache)
            measured = MEASURES["accuracy"]().update(cache.logits, cache.logits, cache.labels)
            results[seed] = measured.compute(confidence)
        arms.append(Arm(name, runs, results))
    return arms


def references_of(arms: Sequence[Arm], against: Sequence[str] | str | None) -> list[Arm]:
    """The arms that others are compared with, in the order in which they were asked for."""
    found = []
    for name in AGAINST if against is None else texts(against):
        fitting = [arm for arm in arms if name in (arm.name, names_of(arm.runs.values())[arm.first.group])]
        fitting = fitting or [arm for arm in arms if arm.first.method == name]
        if len(fitting) > 1:
            named = ", ".join(arm.name for arm in fitting)
            raise KDScopeError(f"several ways of training are by {name!r}: {named}; name one (option against)")
        if not fitting and against is not None:
            raise unknown("way of training", name, [arm.name for arm in arms], "option against")
        found += fitting
    return found or [arms[0]]


def _contrast(reference: Arm, arm: Arm, confidence: float) -> Contrast | None:
    """`arm` less `reference` at the seeds that both have; lone runs are paired whatever their seeds."""
    pairs = {seed: (seed, seed) for seed in arm.results if seed in reference.results}
    if not pairs and len(arm.results) == len(reference.results) == 1:
        pairs = {next(iter(arm.results)): (next(iter(arm.results)), next(iter(reference.results)))}
    if not pairs:
        return None
    differences = {
        seed: arm.results[own].per_sample - reference.results[other].per_sample for seed, (own, other) in pairs.items()
    }
    each = {seed: crossed_mean(values[None], confidence=confidence) for seed, values in differences.items()}
    return Contrast(reference, arm, each, crossed_mean(np.stack(list(differences.values())), confidence=confidence))


def _of_arm(arm: Arm, kd: Arm | None, floor: Arm | None, confidence: float) -> Iterator[dict[str, Any]]:
    """The rows of a way of training: all seeds, then each."""
    effort = {seed: run.effort.get("seconds", math.nan) for seed, run in arm.runs.items()}
    shared = [seed for seed in effort if kd is not None and seed in kd.runs]
    time = {seed: effort[seed] / kd.runs[seed].effort.get("seconds", math.nan) for seed in shared}
    below = np.mean([result.value for result in floor.results.values()]) if floor else None
    words = f"floor: {floor.name}" if floor else ""
    several = len(arm.results) > 1
    if several:
        values = [result.value for result in arm.results.values()]
        within = MEASURES["accuracy"].card.range
        result = over_seeds(list(arm.results.values()), confidence=confidence, within=within)
        result = result.with_frame(below, control=words)
        yield result.row(
            **_known(arm, arm.first), seed="all", seeds=len(values), sd=float(np.std(values, ddof=1)),
            seconds=float(np.median(list(effort.values()))),
            time=float(np.median(list(time.values()))) if time else math.nan, control=words,
        )  # fmt: skip
    for seed, result in arm.results.items():
        framed = result.with_frame(below, control=words)
        yield framed.row(
            **_known(arm, arm.runs[seed]), seed=_text(seed), seeds=1,
            seconds=effort[seed], time=time.get(seed, math.nan), control=words,
        )  # fmt: skip


def _of_contrast(contrast: Contrast, p_holm: float) -> Iterator[dict[str, Any]]:
    """The rows of a difference: all seeds, then each."""
    several, arm = len(contrast.seeds) > 1, contrast.arm
    found = {"all": contrast.all} if several else {}
    found |= {_text(seed): one for seed, one in contrast.seeds.items()}
    for seed, one in found.items():
        main = seed == "all" or not several
        yield _known(arm, arm.first) | {
            "measure": "accuracy-difference", "definition": "kdscope", "a": contrast.reference.name,
            "value": one.value, "ci_low": one.ci_low, "ci_high": one.ci_high, "n": len(_any(arm).per_sample),
            "seed": seed, "seeds": len(contrast.seeds) if seed == "all" else 1, "p_value": one.p_value,
            "p_holm": p_holm if main else math.nan, "effect": contrast.effect if main else math.nan,
            "detectable": contrast.detectable if main else math.nan, "test": TESTS[seed == "all"],
        }  # fmt: skip


def _known(arm: Arm, run: Subject) -> dict[str, Any]:
    """What is known of a run whatever is measured of it."""
    phases, chain = run.effort.get("phases", 0), run.effort.get("chain", 0)
    words = [f"{count} of {what}" for count, what in ((phases, "its phases"), (chain, "its chain")) if count]
    return {
        "a": "", "b": arm.name, "method": run.method or "", "architecture": run.architecture,
        "epochs": run.recipe.get("epochs", math.nan), "extra_epochs": phases + chain if run.effort else math.nan,
        "extra": ", ".join(words),
    }  # fmt: skip


def _any(arm: Arm) -> Result:
    return next(iter(arm.results.values()))


def _text(seed: int | None) -> str:
    return "" if seed is None else str(seed)
