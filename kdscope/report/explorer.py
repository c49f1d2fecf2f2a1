"""The explorer of a report: images of one split, and what teachers, students and students alone see in them.

Everything is read from caches; what is missing there is extracted first, if that is wanted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from kdscope.analyses.cast import Party, cast
from kdscope.analyses.kin import by_group, distinct, identify
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.thumbnails import THUMBNAIL
from kdscope.report.map_sets import map_sets
from kdscope.report.payload import Explorer, ExplorerModel, Pair
from kdscope.report.pixels import encode, sprite
from kdscope.run import Run
from kdscope.sources import Subject, of_run

say = logging.getLogger("kdscope").info

T = TypeVar("T")

MOST_IMAGES = 2000
MOST_MODELS = 8
TOP = 5
CELLS = ("both right", "inherited error", "own discovery", "lost", "different errors")
THRESHOLDS = (0.4, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)  # the first is that of Guo et al. (`map_threshold`)


@dataclass(frozen=True)
class Shown:
    """A network of the explorer: its name, role and subject, what it said, and the caches that hold its maps."""

    name: str
    role: str
    subject: Subject
    answers: FeatureCache
    maps: FeatureCache | None
    causal: FeatureCache | None


def explore(
    runs: Mapping[str, Run], *, split: str = "test", view: str = "none", extract: bool = True, device: str = "auto"
) -> tuple[Explorer | None, list[str]]:
    """The explorer of some runs, and what must be said of it; None where there are no runs.

    Args:
        runs: finished runs by the names that they are shown under.
        split, view: which images, and as what augmentation shows them.
        extract: whether what no cache holds is extracted now.

    Raises:
        KDScopeError: no cache is there, and none may be made.
    """
    if not runs:
        return None, []
    subjects, homes = subjects_of(runs, device)
    chosen, pairs = side_by_side(subjects)
    shown, notes = [], []
    for name, role, subject in chosen:
        found = first_found(
            lambda each, make: _open(each, split, view, make),
            homes,
            subject,
            extract,
            lambda found: found[1] is not None,
        )
        if found is None:
            notes.append(f"{name} is not in the explorer: no cache of {split} is there; `kdscope extract` makes one")
        elif shown and not same_images(shown[0].answers, found[0]):
            notes.append(f"{name} is not in the explorer: it was asked about other images than {shown[0].name}")
        else:
            shown.append(Shown(name, role, subject, *found))
    if not shown:
        raise KDScopeError(f"no network has a cache of {split}; write the report with --extract")
    there = {each.name for each in shown}
    pairs = [pair for pair in pairs if {pair.student, pair.teacher} <= there]
    pairs = [pair if pair.alone in there else replace(pair, alone=None) for pair in pairs]
    return _explorer(shown, pairs, split, view), notes


def subjects_of(runs: Mapping[str, Run], device: str) -> tuple[list[Subject], dict[str, list[Subject]]]:
    """The runs as subjects, they and their teachers under the names that the report gives them; and who has caches.

    The second is, by the hash of its weights, each network as a run and as the teacher of others: what an analysis of
    a student asked a teacher lies with the student.
    """
    found = [replace(of_run(run, device), name=name) for name, run in runs.items()]
    homes: dict[str, list[Subject]] = {}
    for subject in (*found, *(teacher for one in found for teacher in one.teachers)):
        if subject.weights:
            homes.setdefault(subject.weights, []).append(subject)
    # A teacher is the run that has its weights, also where a copy of it lies elsewhere.
    same = {subject.weights: subject for subject in reversed(found) if subject.weights}
    named = [replace(one, teachers=tuple(same.get(each.weights, each) for each in one.teachers)) for one in found]
    return named, homes


def first_found(
    look: Callable[[Subject, bool], T | None],
    homes: Mapping[str, list[Subject]],
    subject: Subject,
    extract: bool,
    whole: Callable[[T], bool] = lambda found: True,
) -> T | None:
    """What `look(subject, whether to extract)` finds at the first home of a network where it is `whole`.

    Else it is made if that is wanted, or what there is of it is taken.
    """
    there = [look(home, False) for home in homes.get(subject.weights or "", [subject])]
    there = sorted((found for found in there if found is not None), key=lambda found: not whole(found))
    if extract and not (there and whole(there[0])):
        return look(subject, True)
    return there[0] if there else None


def side_by_side(subjects: Sequence[Subject]) -> tuple[list[tuple[str, str, Subject]], list[Pair]]:
    """One seed of each kind of student, its teachers, and the student without one, teachers first; and who is whose."""
    if not any(subject.teachers for subject in subjects):
        first = [members[0] for members in by_group(subjects).values()][:MOST_MODELS]
        return [(subject.name, "alone", subject) for subject in first], []
    roles = cast(subjects)
    one = {student.subject.group: student for student in reversed(roles.students)}
    students = list(one.values())[::-1]
    kept: dict[tuple, tuple[str, str, Subject]] = {}
    pairs: list[Pair] = []
    for student in students:
        alone = student.independent[:1]
        members = [("teacher", each) for each in student.teachers] + [("student", student.subject)]
        members += [("alone", each) for each in alone]
        new = {identify(subject): (roles.name(Party((subject,))), role, subject) for role, subject in members}
        if len(kept | new) > MOST_MODELS and kept:
            continue
        kept = new | kept if student is students[0] else kept | new
        without = roles.name(Party(alone)) if alone else None
        named = roles.name(Party((student.subject,)))
        pairs += [Pair(named, roles.name(Party((each,))), without) for each in distinct(student.teachers)]
    order = ("teacher", "student", "alone")
    return sorted(kept.values(), key=lambda each: order.index(each[1])), pairs


def _open(
    subject: Subject, split: str, view: str, extract: bool
) -> tuple[FeatureCache, FeatureCache | None, FeatureCache | None] | None:
    """The caches of a network: of its answers, of its maps, and of its causal maps; None where there is none."""
    kept = {kind: subject.kept(split, view, kind=kind) for kind in ("maps", "causal", "features")}
    if not kept["maps"] and extract and subject.load is not None:
        kept["maps"] = [subject.cache(split, view, kind="maps")]
    answers = next((kept[kind][0] for kind in ("maps", "features") if kept[kind]), None)
    if answers is None:
        return None
    return answers, next(iter(kept["maps"]), None), next(iter(kept["causal"]), None)


def same_images(one: FeatureCache, other: FeatureCache) -> bool:
    """Whether two caches are of the same images and classes."""
    try:
        one.check_compatible(other)
    except KDScopeError:
        return False
    return len(one) == len(other)


def _explorer(shown: Sequence[Shown], pairs: Sequence[Pair], split: str, view: str) -> Explorer:
    first = shown[0].answers
    asked = [each.causal.index for each in shown if each.causal is not None]
    rows = draw(first.labels, MOST_IMAGES, np.isin(first.index, np.concatenate(asked)) if asked else None)
    images = _images(shown, rows, split)
    picture, side, columns = sprite(images)
    sets, order, said = map_sets({e.name: (e.maps, e.causal) for e in shown}, first.index[rows], rows)
    if len(rows) < len(first):
        said = [f"Drawn from {len(first)} with seed 0, each class as often as its share.", *said]
    networks = [_model(each, rows, sets[each.name]) for each in shown]
    return Explorer(
        split=split, view=view, classes=list(first.classes), count=len(rows), image_size=side, columns=columns,
        sprite=picture, labels=encode(first.labels[rows], "uint16"), index=encode(first.index[rows], "int32"),
        models=networks, pairs=list(pairs), cells=list(CELLS), map_kinds=order, iou_thresholds=list(THRESHOLDS),
        note=" ".join(said),
    )  # fmt: skip


def draw(labels: np.ndarray, most: int, first: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """At most `most` positions of images with labels [N], in their order, each class as often as its share allows.

    Args:
        first: bool [N], images that are taken before others of their class.

    >>> draw(np.array([0, 0, 0, 0, 1, 1]), 3).shape, draw(np.array([5, 5]), 3).tolist()
    ((3,), [0, 1])
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    chance = np.random.default_rng(seed).random(len(labels)) - (0 if first is None else first)
    within = np.lexsort((chance, labels))
    ordered = labels[within]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(labels)])
    place = np.arange(len(labels)) - np.repeat(starts, sizes)
    # The k-th of a class of size s stands at (k + 1/2) / s of all: cut there, every class keeps its share.
    depth = (place + 0.5) / np.repeat(sizes, sizes)
    return np.sort(within[np.argsort(depth, kind="stable")[:most]])


def _images(shown: Sequence[Shown], rows: np.ndarray, split: str) -> np.ndarray:
    """The images as they were shown: from a cache that keeps them, else from the data."""
    for each in shown:
        for cache in (each.maps, each.answers):
            if cache is not None and THUMBNAIL in cache.names:
                return cache.array(THUMBNAIL)[rows]
    import torch

    dataset = shown[0].subject.dataset
    part = dataset.split(split)
    return part.read(torch.as_tensor(shown[0].answers.index[rows])).numpy()


def _model(each: Shown, rows: np.ndarray, sets: dict) -> ExplorerModel:
    logits = each.answers.logits[rows].astype(np.float64)
    sure = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure /= sure.sum(axis=1, keepdims=True)
    count = min(TOP, logits.shape[1])
    top = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    by_rank = np.round(255 * np.take_along_axis(sure, top, axis=1))
    return ExplorerModel(
        name=each.name, role=each.role, prediction=encode(top[:, 0], "uint16"),
        confidence=encode(by_rank[:, 0], "uint8"), top=encode(top, "uint16"), top_confidence=encode(by_rank, "uint8"),
        top_count=count, maps=sets,
    )  # fmt: skip
