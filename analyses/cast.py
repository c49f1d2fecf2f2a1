"""Who is who among the subjects of an analysis, and which of them are compared: pairs, floors and ceilings.

Two networks that never met agree on most images, too. So every teacher-student pair comes with pairs that say what its
numbers would be if nothing had been transferred (floors), and what the same training gives when it is merely repeated
(ceilings: usual levels, not limits).

    teacher-student, ensemble-student    a student, and whom it learned from
    teacher-teacher                      two teachers of one student
    student-student                      two students that were trained in different ways (one seed of each)
    floor:independent-student            the teacher, and a student trained without it
    floor:random-init                    the teacher, and the student's architecture before training
    floor:shuffled                       the teacher, and the student on other images
    ceiling:student-seeds                two seeds of one student
    ceiling:teacher-seeds                two seeds of one teacher
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kdscope.analyses.kin import by_group, by_seed, distinct, identify, names_of
from kdscope.errors import KDScopeError
from kdscope.sources import Subject

ALONE = "floor:independent-student"
PAIRS = (
    *("teacher-student", "ensemble-student", "teacher-teacher", "student-student"),
    *(ALONE, "floor:random-init", "floor:shuffled"),
    *("ceiling:student-seeds", "ceiling:teacher-seeds"),
)
TAUGHT = ("teacher-student", "ensemble-student")


@dataclass(frozen=True)
class Party:
    """One side of a pair: a network, several as an ensemble, or a network as it is in a control.

    Attributes:
        subjects: one, or the members of the ensemble.
        kind: "trained", "random-init" or "shuffled".
        ensemble: how its members are combined, where there are several.
    """

    subjects: tuple[Subject, ...]
    kind: str = "trained"
    ensemble: str = "mean-probability"

    @property
    def seed(self) -> int | None:
        seeds = {subject.seed for subject in self.subjects}
        return seeds.pop() if len(seeds) == 1 else None

    @property
    def key(self) -> tuple:
        """The same for the same party, however it was found."""
        return (self.kind, self.ensemble, *map(identify, self.subjects))

    @property
    def groups(self) -> tuple:
        """The same for parties that differ in their seeds alone."""
        return (self.kind, *(subject.group for subject in self.subjects))


@dataclass(frozen=True)
class Student:
    """A student, its teachers, and students of its architecture that had none, in the order of `nearest_first`."""

    subject: Subject
    teachers: tuple[Subject, ...]
    independent: tuple[Subject, ...] = ()

    def taught_by(self) -> list[Party]:
        """Each teacher, then all of them together if there are several."""
        alone = [Party((teacher,)) for teacher in self.teachers]
        together = Party(self.teachers, ensemble=self.subject.ensemble)
        return [*alone, together] if len(alone) > 1 else alone


@dataclass(frozen=True)
class Pair:
    """A comparison to make, of b with a; `baseline` is the student that had no teacher, where there is one."""

    pair: str
    a: Party
    b: Party
    baseline: Party | None = None

    @property
    def key(self) -> tuple:
        return (self.pair, self.a.key, self.b.key, self.baseline and self.baseline.key)


@dataclass(frozen=True)
class Cast:
    """The roles. `others` neither taught nor were taught; `notes`: what was taken for what, and what was left out."""

    students: tuple[Student, ...]
    others: tuple[Subject, ...] = ()
    notes: tuple[str, ...] = ()
    _names: dict = field(default_factory=dict)

    def name(self, party: Party) -> str:
        """A name for tables: unique among the cast, whatever the subjects call themselves."""
        return _spoken(party, [self._names[identify(subject)] for subject in party.subjects])

    def group_name(self, party: Party) -> str:
        """A name for all the seeds of a party."""
        return _spoken(party, [self._names[subject.group] for subject in party.subjects])


def cast(found: Sequence[Subject], teachers: Sequence[Subject] = (), baselines: Sequence[Subject] = ()) -> Cast:
    """Give each subject its role.

    Args:
        found: the sources. Those that were taught are students. Those trained without a teacher are independent
            students beside each student of their architecture. Where none was taught, the first is the teacher of the
            others.
        teachers: teachers of all students instead of their own.
        baselines: independent students instead of those among `found`.

    Raises:
        KDScopeError: nobody is left to be a student, or there is no teacher.
    """
    known: dict[tuple, Subject] = {}

    def same(subject: Subject) -> Subject:
        return known.setdefault(identify(subject), subject)

    found = distinct(map(same, found))
    teachers, baselines = distinct(map(same, teachers)), distinct(map(same, baselines))
    notes: list[str] = []
    aside = {identify(subject) for subject in (*teachers, *baselines)}
    free = [subject for subject in found if identify(subject) not in aside]
    taught = [subject for subject in free if subject.teachers and subject.method != "none"]
    taught = taught or [subject for subject in free if subject.teachers]
    if teachers:
        taught = taught or free
    elif not taught:
        if len(free) < 2:
            named = f"{free[0].name} has" if free else "there is"
            raise KDScopeError(
                f"{named} no teacher to be compared with; give more sources, or name one by --teacher SOURCE"
            )
        teachers, taught = free[:1], free[1:]
        notes.append(
            f"no source has a teacher of its own: {free[0].name}, the first, is taken for the teacher of the others"
        )
    if not taught:
        raise KDScopeError("every source is a teacher or a baseline; give a student as well")
    lessons = [(subject, tuple(teachers or map(same, subject.teachers))) for subject in taught]
    serving = {identify(teacher) for _, own in lessons for teacher in own} | {identify(subject) for subject in taught}
    copies = _copies((*free, *baselines), [teacher for _, own in lessons for teacher in own], serving)
    for subject in copies:
        notes.append(
            f"{subject.name} was left out: its weights are those of a teacher (one recipe, one seed), so that it is no "
            "student trained without that teacher; give one of another seed"
        )
    serving_or_copy = serving | {identify(subject) for subject in copies}
    others = tuple(subject for subject in free if identify(subject) not in serving_or_copy)
    alone = [subject for subject in others if subject.method == "none"]
    baselines = [subject for subject in baselines if subject not in copies]
    students = tuple(Student(subject, own, _independent(subject, baselines, alone)) for subject, own in lessons)
    used = serving | {identify(i) for student in students for i in student.independent}
    kin = {teacher.group for _, own in lessons for teacher in own}
    for subject in others:
        if subject.group not in kin and identify(subject) not in used:
            notes.append(f"{subject.name} was left out: it has no teacher, and no student here has its architecture")
    return Cast(students, others, tuple(notes), names_of(known.values()))


def _copies(subjects: Sequence[Subject], teachers: Sequence[Subject], serving: set) -> list[Subject]:
    """Those that say what a teacher says because they are that teacher, trained once more from the same seed."""
    weights = {teacher.weights for teacher in teachers} - {None}
    return distinct(s for s in subjects if s.weights in weights and identify(s) not in serving)


def pairs(cast: Cast) -> list[Pair]:
    """All comparisons, each once."""
    made = [*_taught(cast), *_among_teachers(cast), *_among_students(cast)]
    return list({pair.key: pair for pair in made}.values())


def _taught(cast: Cast) -> Iterable[Pair]:
    """Each student and whom it learned from, with the floors of each."""
    untrained = {s.subject.architecture: Party((s.subject,), "random-init") for s in reversed(cast.students)}
    for student in cast.students:
        pupil = Party((student.subject,))
        independent = [Party((subject,)) for subject in student.independent]
        baseline = independent[0] if independent else None
        for teacher in student.taught_by():
            kind = "ensemble-student" if len(teacher.subjects) > 1 else "teacher-student"
            yield Pair(kind, teacher, pupil, baseline)
            if baseline is not None:
                # A second one in the student's place: what the decomposition finds where there was no teacher.
                yield Pair(ALONE, teacher, baseline)
                again = [i for i in independent[1:] if i.groups == baseline.groups][:1]
                yield from (Pair(ALONE, teacher, i, baseline) for i in again)
            # Other ways of training without a teacher, such as for longer, are shown beside it.
            others = {i.groups: i for i in reversed(independent) if i.groups != baseline.groups}
            yield from (Pair(ALONE, teacher, i) for i in others.values())
            yield Pair("floor:random-init", teacher, untrained[student.subject.architecture])
            yield Pair("floor:shuffled", teacher, Party((student.subject,), "shuffled"))


def _among_teachers(cast: Cast) -> Iterable[Pair]:
    teachers = distinct(teacher for student in cast.students for teacher in student.teachers)
    for student in cast.students:
        for a, b in itertools.combinations(student.teachers, 2):
            yield Pair("teacher-teacher", Party((a,)), Party((b,)))
    kin = {teacher.group for teacher in teachers}
    for a, b in _reruns([*teachers, *(subject for subject in cast.others if subject.group in kin)]):
        yield Pair("ceiling:teacher-seeds", Party((a,)), Party((b,)))


def _among_students(cast: Cast) -> Iterable[Pair]:
    students = [student.subject for student in cast.students]
    for a, b in _reruns(students):
        yield Pair("ceiling:student-seeds", Party((a,)), Party((b,)))
    first = [members[0] for members in by_group(students).values()]
    for a, b in itertools.combinations(first, 2):
        yield Pair("student-student", Party((a,)), Party((b,)))


def _reruns(subjects: Iterable[Subject]) -> Iterable[tuple[Subject, Subject]]:
    """Neighbours in the ring of the seeds of each group: as many pairs as seeds, not all of them."""
    for members in by_group(distinct(subjects)).values():
        # A teacher whose students had different data is there once for each of these: it is no rerun of itself.
        members = list({subject.weights or identify(subject): subject for subject in reversed(members)}.values())[::-1]
        if len(members) > 1:
            yield from itertools.pairwise(members)
        if len(members) > 2:
            yield members[0], members[-1]


def _independent(student: Subject, baselines: Sequence[Subject], alone: Sequence[Subject]) -> tuple[Subject, ...]:
    fitting = list(baselines) or [subject for subject in alone if subject.architecture == student.architecture]
    return tuple(nearest_first(student, fitting))


def nearest_first(student: Subject, alone: Iterable[Subject]) -> list[Subject]:
    """Students without a teacher in the order in which they serve as the floor of one: whatever order they came in.

    Those of the nearest number of epochs first, then of the nearest recipe; of each way of training all seeds together,
    the student's own first.
    """
    return sorted(alone, key=lambda one: (*_distance(student, one), one.seed != student.seed, *by_seed(one), one.name))


def _distance(student: Subject, other: Subject) -> tuple:
    mine, theirs = student.recipe, other.recipe
    both = [recipe.get("epochs") for recipe in (mine, theirs)]
    epochs = math.inf if None in both else abs(both[0] - both[1])
    differing = sum(mine.get(key) != theirs.get(key) for key in {*mine, *theirs} - {"epochs", "teacher"})
    return epochs, differing, other.group


def _spoken(party: Party, names: Sequence[str]) -> str:
    if party.kind == "random-init":
        return f"{party.subjects[0].architecture} (random init)"
    name = names[0] if len(names) == 1 else f"ensemble ({', '.join(names)})"
    return f"{name} (shuffled images)" if party.kind == "shuffled" else name
