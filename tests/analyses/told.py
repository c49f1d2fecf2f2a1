"""Subjects that need no training: what they say of each image is written down."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.sources import Subject

CLASSES = 4


@dataclass(eq=False)
class Sayings:
    """As much of a feature cache as an analysis reads."""

    logits: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    classes: tuple[str, ...]
    path: Path = Path("sayings.kdcache")

    def blocks(self, names, size):
        for start in range(0, len(self.labels), size):
            yield {name: getattr(self, name)[start : start + size] for name in names}

    def check_compatible(self, other):
        if not np.array_equal(self.index, other.index) or self.classes != other.classes:
            raise KDScopeError(f"{self.path} and {other.path} are not of the same images")


def sayings(top, labels, sure=3.0, index=None, classes=CLASSES, noise=0):
    """Logits whose largest is `sure`, at the class `top`, with small differences between the others."""
    top, labels = np.asarray(top), np.asarray(labels)
    logits = np.random.default_rng(noise).normal(scale=0.1, size=(len(top), classes)).astype(np.float32)
    logits[np.arange(len(top)), top] += sure
    index = np.arange(len(top)) if index is None else np.asarray(index)
    return Sayings(logits, labels, index, tuple("abcdefghijkl"[:classes]))


@dataclass(frozen=True, eq=False)
class Told(Subject):
    """A subject whose caches, random-init caches and probes are given."""

    untrained: dict = field(default_factory=dict)
    probes: dict = field(default_factory=dict)

    def random_init(self, split, view="none", view_seed=0):
        return self.untrained.get(split)

    def probe_epochs(self, split="test"):
        return sorted(epoch for epoch, part in self.probes if part == split)

    def probe(self, epoch, split):
        return self.probes[epoch, split]


def subject(
    name, said, *, group=None, seed=None, method=None, teachers=(), architecture="resnet8", view="none", **more
):
    """A subject that says `said` (a cache for each split)."""
    caches = {(split, "none"): cache for split, cache in said.items()}
    return Told(
        name=name, architecture=architecture, group=group or name, seed=seed, method=method, teachers=tuple(teachers),
        caches=caches, **more,
    )  # fmt: skip


def mostly(labels, right, seed):
    """Top classes that are right on about that share of images, by chance."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    wrong = (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(rng.random(len(labels)) < right, labels, wrong)


def follow(teacher, other, share, seed):
    """The teacher's answer on that share of images, another's on the rest."""
    return np.where(np.random.default_rng(seed).random(len(teacher)) < share, teacher, other)


SHARES = (0, 0.6, 0.3, 0.5)  # of images on which the student of each method repeats its teacher


def family(seeds=3, methods=("kd", "at"), n=200, splits=("train", "test"), probes=(), two_teachers=False):
    """A teacher (or two), students of some methods and one without a teacher, some seeds each."""
    labels = {split: np.random.default_rng(k).integers(0, CLASSES, n) for k, split in enumerate(splits)}
    tops, teachers = {}, []
    for t, kind in enumerate(("weak", "strong")[: 2 if two_teachers else 1]):
        own = {s: mostly(labels[s], 0.9, 50 + 10 * t + k) for k, s in enumerate(splits)}
        tops = tops or own
        said = {s: sayings(own[s], labels[s], noise=t) for s in splits}
        teachers.append(subject(f"teacher-{kind}", said, seed=0, method="none", architecture="resnet20"))
    untrained = {s: sayings(np.zeros(n, int), labels[s], sure=0.01, noise=99) for s in splits}
    made = []
    for seed in range(seeds):
        for m, method in enumerate(("none", *methods)):
            alone = {s: mostly(labels[s], 0.8, 100 + 10 * seed + k) for k, s in enumerate(splits)}
            own = {s: follow(tops[s], alone[s], SHARES[m % 4], 7 * m + seed) for s in splits}
            said = {s: sayings(own[s], labels[s], sure=2.0 + m, noise=seed) for s in splits}
            one = subject(
                f"{method}-seed{seed}",
                said,
                group=method,
                seed=seed,
                method=method,
                untrained=untrained,
                teachers=[] if method == "none" else teachers,
                probes=_probes(own, labels, probes),
            )
            made.append(one)
    return made


def _probes(own, labels, epochs):
    """Every other image, while the student came nearer to what it says in the end."""
    probes = {}
    for epoch in epochs:
        for split, top in own.items():
            so_far = follow(top, mostly(labels[split], 0.3, epoch), epoch / max(epochs), epoch)
            seen = np.arange(0, len(top), 2)
            probes[epoch, split] = sayings(so_far[seen], labels[split][seen], index=seen)
    return probes
