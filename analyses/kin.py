"""Which subjects are the same network, which are seeds of one another, and what each is called in a table."""

import itertools
import re
from collections.abc import Hashable, Iterable, Sequence
from os.path import commonprefix

from kdscope.sources import Subject


def identify(subject: Subject) -> tuple:
    """The same for the same network, whether it was found as a source or as somebody's teacher."""
    return (subject.name, subject.group, subject.seed, None if subject.prefix else subject.folder)


def by_group(subjects: Iterable[Subject]) -> dict[str, list[Subject]]:
    """Members of each group by their seeds, groups in the order in which they came."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.group, []).append(subject)
    return {group: sorted(members, key=by_seed) for group, members in groups.items()}


def by_seed(subject: Subject) -> tuple:
    return (subject.seed is None, subject.seed or 0)


def distinct(subjects: Iterable[Subject]) -> list[Subject]:
    return list({identify(subject): subject for subject in subjects}.values())


def names_of(subjects: Iterable[Subject]) -> dict:
    """A name for each subject, by `identify`, and for each group of them; another network has another name."""
    subjects = distinct(subjects)
    groups = by_group(subjects)
    wanted = [(identify(subject), _with_place(subject, subjects), _network(subject)) for subject in subjects]
    wanted += [(group, _stem(members), group) for group, members in groups.items()]
    names: dict = {}
    for part in (wanted[: len(subjects)], wanted[len(subjects) :]):
        taken: dict = {}
        for key, name, network in part:
            numbered = (name if k == 1 else f"{name} #{k}" for k in itertools.count(1))
            names[key] = next(n for n in numbered if taken.setdefault(n, network) == network)
    return names


def _network(subject: Subject) -> Hashable:
    """The same for one network that was asked about several data sets."""
    return subject.weights or identify(subject)


def _with_place(subject: Subject, subjects: Sequence[Subject]) -> str:
    """The name, with the folder before it where another network has the same."""
    alike = {_network(other) for other in subjects if other.name == subject.name}
    if len(alike) == 1 or subject.folder is None:
        return subject.name
    return "/".join(subject.folder.parts[-3:-1]) if len(subject.folder.parts) > 2 else subject.name


def _stem(members: Sequence[Subject]) -> str:
    """What the names of a group have in common, without a dangling "-seed": kd-seed0, kd-seed1 -> kd."""
    if len(members) == 1:
        return members[0].name
    shared = commonprefix([subject.name for subject in members])  # noqa: RUF071 (of letters: these are no paths)
    shared = re.sub(r"[-_. ]*(seed|s)?[-_=. ]*\d*$", "", shared, flags=re.IGNORECASE)
    return shared or f"{members[0].method or 'trained'} {members[0].architecture}"
