"""What analyses of single networks ask: the networks of a cast, each once, and what each says of a whole split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdscope.analyses.cast import Cast, Party, Student, pairs
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.measures.ensemble import combine_logits
from kdscope.sources import Subject

SPLITS = ("train", "test")
ROLES = ("teacher", "ensemble", "student", "independent-student", "random-init")
SINGLE = ("teacher", "student", "independent-student")  # trained, and no ensemble


@dataclass(frozen=True)
class Answers:
    """Logits [N, C] (of an ensemble: log-probabilities) and labels [N] of one party, and its role (`ROLES`)."""

    party: Party
    role: str
    logits: np.ndarray
    labels: np.ndarray


def splits_of(splits: Sequence[str] | str | None, roles: Cast) -> list[str]:
    """The splits to look at; by default train and test as far as bare caches have them.

    Raises:
        KDScopeError: bare caches that have no split in common.
    """
    if splits is not None:
        named = [part.strip() for part in (splits.split(",") if isinstance(splits, str) else splits)]
        if not any(named):
            raise KDScopeError(f"no split is named by {splits!r}; give test, or train,test")
        return [part for part in named if part]
    bare = [s for student in roles.students for s in (student.subject, *student.teachers) if s.load is None]
    held = [part for part in SPLITS if all(part in {split for split, _ in subject.caches} for subject in bare)]
    if not held:
        names = ", ".join(f"{s.name}: {', '.join(sorted({split for split, _ in s.caches}))}" for s in bare)
        raise KDScopeError(f"the caches have no split in common ({names})")
    return held


def parties(roles: Cast) -> list[tuple[str, Party]]:
    """Role and party of each network of a cast once, in the order of `ROLES`; controls before training come last."""
    found: dict[tuple, tuple[str, Party]] = {}
    for pair in pairs(roles):
        for party, role in ((pair.a, "teacher"), (pair.b, _role(pair.pair, pair.b))):
            role = "ensemble" if len(party.subjects) > 1 else role
            known = found.get(party.key)
            if party.kind != "shuffled" and (known is None or ROLES.index(role) < ROLES.index(known[0])):
                found[party.key] = (role, party)
    students = {Party((student.subject,)).key for student in roles.students}
    listed = [("student" if party.key in students else role, party) for role, party in found.values()]
    return sorted(listed, key=lambda item: ROLES.index(item[0]))


def _role(pair: str, party: Party) -> str:
    if party.kind == "random-init":
        return "random-init"
    return {"floor:independent-student": "independent-student"}.get(pair, "student" if "student" in pair else "teacher")


def ask(party: Party, role: str, split: str, view: str = "none") -> Answers | None:
    """What a party says of a split; None for a network before training that is not known.

    Raises:
        KDScopeError: members of an ensemble whose caches are of different images.
    """
    subject: Subject = party.subjects[0]
    if party.kind == "random-init":
        cache = subject.random_init(split, view)
        return None if cache is None else Answers(party, role, cache.logits, cache.labels)
    caches: list[FeatureCache] = [member.cache(split, view) for member in party.subjects]
    for other in caches[1:]:
        caches[0].check_compatible(other)
    logits = [cache.logits for cache in caches]
    joined = logits[0] if len(logits) == 1 else combine_logits(logits, party.ensemble)
    return Answers(party, role, joined, caches[0].labels)


def teacher_of(student: Student) -> Party:
    """Whom a student is compared with: its teacher, or all of them together."""
    return student.taught_by()[-1]
