"""What Guo et al. (arXiv 2405.00739) set against accuracy, of each student: as they measure it, and soundly.

By their protocol: their code's definitions, on training images as they were augmented for that student. By kdscope's:
its sound definitions, on clean test images. Networks are in evaluation mode in both; their code leaves teachers in
training mode. `kdscope.analyses.paper_trials` makes the paper's figures of this table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses import gallery
from kdscope.analyses.attention_pairs import SHOWN, guo_iou
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Party, Student, cast
from kdscope.analyses.map_library import MASK, MapLibrary
from kdscope.analyses.relations import accuracy_of
from kdscope.features.cache import FeatureCache
from kdscope.measures import MEASURES
from kdscope.measures.bins import reliability
from kdscope.measures.controls import derangement
from kdscope.measures.ensemble import combine_logits
from kdscope.measures.map_measures import AttentionIoU
from kdscope.measures.map_overlap import map_overlap
from kdscope.measures.pair import log_softmax
from kdscope.measures.result import Result
from kdscope.sources import Subject

PROTOCOLS = {"guo2024-code": "train", "kdscope": "test"}  # and the split of each
MEASURED = ("agreement", "kl-teacher-student", "mutual-information", "ece", "predictive-entropy")
FRAMED = ("agreement", "mutual-information")  # have the student without a teacher for a floor
COLUMNS = (
    *("protocol", "trained", "teachers", "method", "architecture", "seed"),
    *("control", "confidence", "bin_low", "bin_high", "bin_confidence", "pictures"),
)
BINS, SAMPLES = 10, 3  # of a reliability diagram of theirs; students in the gallery
GALLERY = "trials-gallery.npz"


@analysis(
    "trials",
    summary="What goes with the accuracy of students: attention, fidelity, information, by Guo et al. and soundly?",
    citation="Guo et al., arXiv 2405.00739",
    sources=("baseline",),
)
def trials(subjects: Sequence[Subject], *, baseline: Sequence[Subject] = (), confidence: float = 0.95) -> Report:
    """For each student its accuracy, and by either protocol fidelity, KL, mutual information, calibration error and
    entropy, accuracy gap, affinity of its augmentation, and overlap of its teachers' attention, as one tidy table.

    Args:
        baseline: students that were trained without a teacher; else those among the sources.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: protocol ("guo2024-code" or "kdscope"), trained (the
        augmentation that the student was trained with), teachers (how many), and rows of reliability diagrams (accuracy
        in a bin, with bin_low, bin_high and bin_confidence). Affinity by kdscope is that of a network without a teacher
        that was trained on clean images, where there is one among the sources.

    Raises:
        KDScopeError: nobody has a teacher, or caches of different images.
    """
    roles = cast(subjects, (), baseline)
    work = _Work(confidence, [*subjects, *baseline])
    rows = []
    for student in roles.students:
        b, a = roles.name(Party((student.subject,))), roles.name(student.taught_by()[-1])
        about = {"a": a, "b": b, "layer": "", "trained": student.subject.augment, "teachers": len(student.teachers)}
        about |= {"method": student.subject.method, "architecture": student.subject.architecture}
        about |= {"analysis": "trials", "seed": str(student.subject.seed), "confidence": confidence}
        rows += [about | row for row in work.of(student)]
    table = tidy(rows, COLUMNS)
    pictures = work.pictures(roles)
    if pictures is not None:
        table["pictures"] = GALLERY
    return Report(table, _short(table), roles.notes, {} if pictures is None else {GALLERY: pictures})


@dataclass
class _Work:
    """Measures students one by one; what several have in common is read and computed once."""

    confidence: float
    subjects: Sequence[Subject]
    libraries: dict[tuple[str, str], MapLibrary] = field(default_factory=dict)
    overlaps: dict[tuple, tuple[Result, float] | None] = field(default_factory=dict)

    def of(self, student: Student) -> Iterator[dict[str, Any]]:
        subject = student.subject
        trained = subject.augment or "none"
        clean = subject.cache("test")
        right = accuracy_of(clean)
        yield _plain("accuracy", "kdscope", right, "test", "none", len(clean.labels))
        for protocol, split in PROTOCOLS.items():
            view = trained if protocol != "kdscope" else "none"
            where = {"protocol": protocol, "split": split, "view": view}
            for result in self._of_logits(student, protocol, split, view):
                yield result.row() | {"control": result.control} | where
            seen = subject.cache("train", view)
            gap = accuracy_of(seen) - right
            yield _plain("accuracy-gap", protocol, gap, "train-test", view, len(seen.labels))
            affinity = self._affinity(subject, protocol, trained)
            if affinity is not None:
                yield affinity.row() | where | {"split": "test", "view": trained}
            found = self._overlap(student, protocol, split, view)
            if found is not None:
                result, floor = found
                framed = result.with_frame(floor, control="floor: other images of the class")
                yield framed.row() | where | {"control": framed.control}
            yield from (row | where for row in _diagram(subject.cache(split, view), protocol))

    def _of_logits(self, student: Student, protocol: str, split: str, view: str) -> Iterator[Result]:
        pupil, teachers = (student.subject.cache(split, view), [t.cache(split, view) for t in student.teachers])
        for teacher in teachers:
            teacher.check_compatible(pupil)
        alone = next((s for s in student.independent if _same_data(s, student.subject)), None)
        floor = None if alone is None else alone.cache(split, view)
        for name in MEASURED:
            kind = MEASURES[name]
            definition = protocol if protocol in kind.definitions else "kdscope"
            how = student.subject.ensemble if definition == "kdscope" else kind.definitions[definition].ensemble
            several = [teacher.logits for teacher in teachers]
            together = several[0] if len(several) == 1 else combine_logits(several, how)
            result = kind(definition).update(together, pupil.logits, pupil.labels).compute(self.confidence)
            if floor is not None and name in FRAMED:
                below = kind(definition).update(together, floor.logits, floor.labels).estimate()
                result = result.with_frame(below, control="floor: independent student")
            yield result

    def _affinity(self, subject: Subject, protocol: str, view: str) -> Result | None:
        """Of the student itself, or of a network that never saw the augmentation."""
        if view == "none":
            return None
        ruler: Subject | None = subject
        if protocol == "kdscope":
            known = (s for s in self.subjects if s.augment == "none" and not s.teachers and _same_data(s, subject))
            ruler = min(known, key=lambda s: s.seed != subject.seed, default=None)
        if ruler is None:
            return None
        clean, seen = ruler.cache("test"), ruler.cache("test", view)
        return MEASURES["affinity"](protocol).update(clean.logits, seen.logits, clean.labels).compute(self.confidence)

    def _overlap(self, student: Student, protocol: str, split: str, view: str) -> tuple[Result, float] | None:
        """Of all teachers' maps: the IoU of their code, or the mean above chance over pairs; and its floor."""
        parties = [Party((teacher,)) for teacher in student.teachers]
        if len(parties) < 2:
            return None
        key = (protocol, split, view, *(party.key for party in parties))
        if key not in self.overlaps:
            library = self.libraries.setdefault((split, view), MapLibrary(split, view))
            measure = _guo_overlap if protocol == "guo2024-code" else _sound_overlap
            self.overlaps[key] = measure(library, parties, self.confidence)
            library.forget()
        return self.overlaps[key]

    def pictures(self, roles: Cast) -> Any:
        """Maps of the teachers and students of a few trials, spread over those that have several teachers."""
        students = [student for student in roles.students if len(student.teachers) > 1]
        if not students:
            return None
        kind = students[0].subject
        students = [s for s in students if s.subject.seed == kind.seed and _same_data(s.subject, kind)]
        places = np.unique(np.linspace(0, len(students) - 1, SAMPLES).astype(int))
        chosen = [students[k] for k in places]
        parties = [Party((s,)) for student in chosen for s in (*student.teachers, student.subject)]
        parties = list({party.key: party for party in parties}.values())
        library = self.libraries.setdefault(("test", "none"), MapLibrary("test", "none"))
        method = _method(library, parties)
        if method is None:
            return None
        caches = [library.cache(party) for party in parties]
        maps = [library.maps(cache, library.last(cache, method)) for cache in caches]
        nothing = np.full(len(maps[0]), np.nan)
        values = {"overlap": np.stack([nothing, *(map_overlap(maps[0], own) for own in maps[1:])], axis=1)}
        library.forget()
        named = dict(zip(parties, maps, strict=True))
        return gallery.pictures(library.last(caches[0], method), roles, named, caches[0], MASK, values)


def _guo_overlap(library: MapLibrary, parties: Sequence[Party], confidence: float) -> tuple[Result, float] | None:
    found = guo_iou(library, parties, confidence)
    return None if found is None else (found[-1], guo_iou(library, parties, confidence, shuffled=True)[-1].value)


def _sound_overlap(library: MapLibrary, parties: Sequence[Party], confidence: float) -> tuple[Result, float] | None:
    method = _method(library, parties)
    if method is None:
        return None
    caches = [library.cache(party) for party in parties]
    names = [library.last(cache, method) for cache in caches]
    grid = tuple(min(sides) for sides in zip(*map(library.grid, caches, names), strict=True))
    maps = [library.maps(cache, name, grid) for cache, name in zip(caches, names, strict=True)]
    order = derangement(len(maps[0]), within=caches[0].labels)
    each, other = ([map_overlap(a, b[rows]) for a, b in combinations(maps, 2)] for rows in (slice(None), order))
    mean = AttentionIoU()
    mean.keep(np.mean(each, axis=0))
    return mean.compute(confidence), float(np.nanmean(other))


def _method(library: MapLibrary, parties: Sequence[Party]) -> str | None:
    """The best kind of map that all networks have."""
    held = [{name.partition("/")[0] for name in library.names(library.cache(party))} for party in parties]
    return next((name for name in SHOWN if all(name in own for own in held)), None)


def _diagram(cache: FeatureCache, protocol: str) -> Iterator[dict[str, Any]]:
    probabilities = np.exp(log_softmax(np.asarray(cache.logits, dtype=np.float64)))
    found = reliability(probabilities.max(axis=1), cache.logits.argmax(axis=1) == cache.labels, BINS)
    for low, high, n, said, right in zip(*(found[k] for k in ("low", "high", "n", "confidence", "right")), strict=True):
        row = {"measure": "reliability", "definition": protocol, "value": right, "n": n}
        yield row | {"bin_low": low, "bin_high": high, "bin_confidence": said}


def _plain(measure: str, protocol: str, value: float, split: str, view: str, n: int) -> dict[str, Any]:
    row = {"measure": measure, "definition": "kdscope", "protocol": protocol, "value": value}
    return row | {"split": split, "view": view, "n": n}


def _same_data(a: Subject, b: Subject) -> bool:
    return a.dataset is None or b.dataset is None or a.dataset.fingerprint == b.dataset.fingerprint


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each student: what the two protocols say."""
    rows = table[table["measure"] != "reliability"]
    named = rows["measure"].where(rows["protocol"] == "kdscope", rows["measure"] + " (Guo)")
    shown = rows.assign(named=named).pivot_table("value", "b", "named", sort=False)
    return shown.reset_index().round(3)
