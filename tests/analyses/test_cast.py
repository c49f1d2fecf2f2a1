"""Roles and pairs: who is compared with whom, and what is a floor or a ceiling of what."""

import dataclasses
from pathlib import Path

import pytest
from told import family, sayings, subject

from kdscope.analyses.cast import Party, cast, pairs
from kdscope.errors import KDScopeError


def named(roles, kind):
    return {(roles.name(p.a), roles.name(p.b)) for p in pairs(roles) if p.pair == kind}


def bare(name):
    return subject(name, {"test": sayings([0, 1], [0, 1])})


def test_a_family_of_seeds_and_methods():
    roles = cast(family(seeds=3, methods=("kd", "at")))
    assert named(roles, "teacher-student") == {
        ("teacher-weak", f"{method}-seed{seed}") for method in ("kd", "at") for seed in range(3)
    }
    assert named(roles, "floor:independent-student") == {("teacher-weak", f"none-seed{seed}") for seed in range(3)}
    assert named(roles, "floor:random-init") == {("teacher-weak", "resnet8 (random init)")}
    assert ("teacher-weak", "kd-seed1 (shuffled images)") in named(roles, "floor:shuffled")
    assert named(roles, "ceiling:student-seeds") == {
        (f"{m}-seed{a}", f"{m}-seed{b}") for m in ("kd", "at") for a, b in ((0, 1), (1, 2), (0, 2))
    }
    assert named(roles, "student-student") == {("kd-seed0", "at-seed0")}
    assert not named(roles, "ceiling:teacher-seeds")
    assert roles.notes == ()


def test_the_baseline_is_the_independent_student_of_the_same_seed():
    roles = cast(family(seeds=3, methods=("kd",)))
    assert [(s.subject.name, s.independent[0].name) for s in roles.students] == [
        (f"kd-seed{seed}", f"none-seed{seed}") for seed in range(3)
    ]


def test_the_floor_has_the_epochs_of_the_student_whatever_came_first():
    found = family(seeds=2, methods=("kd",))
    of = {"kd": {"epochs": 46}, "none": {"epochs": 46}}
    found = [dataclasses.replace(one, recipe=of.get(one.method, {})) for one in found]
    alone = [one for one in found if one.method == "none"]
    longer = [
        dataclasses.replace(one, name=f"a-longer-seed{one.seed}", group="a-longer", recipe={"epochs": 70})
        for one in alone
    ]
    for sources in ([*longer, *found], [*found, *longer], [*reversed(found), *reversed(longer)]):
        roles = cast(sources)
        by_name = {student.subject.name: student for student in roles.students}
        for seed in (0, 1):
            names = [one.name for one in by_name[f"kd-seed{seed}"].independent]
            own, other = (f"none-seed{k}" for k in (seed, 1 - seed))
            assert names == [own, other, f"a-longer-seed{seed}", f"a-longer-seed{1 - seed}"]
        floors = {pair.baseline.subjects[0].name for pair in pairs(roles) if pair.pair == "teacher-student"}
        assert floors == {"none-seed0", "none-seed1"}
        # The other way of training is beside them, as nobody's floor.
        assert ("teacher-weak", "a-longer-seed0") in named(roles, "floor:independent-student")


def test_of_equal_epochs_the_nearer_recipe_is_the_floor():
    found = family(seeds=1, methods=("kd",))
    recipe = {"epochs": 2, "data.augment": "none", "teacher": "abc"}
    kd, alone = (dataclasses.replace(one, recipe=recipe) for one in (found[1], found[0]))
    flipped = dataclasses.replace(alone, name="a", group="a", recipe=recipe | {"data.augment": "flip"})
    for sources in ([flipped, alone, kd], [kd, alone, flipped]):
        assert cast(sources).students[0].independent[0].name == alone.name


def test_a_student_of_another_architecture_is_no_floor():
    found = family(seeds=1, methods=("kd",))
    other = dataclasses.replace(found[0], architecture="vgg8")
    roles = cast([other, found[1]])
    assert not roles.students[0].independent
    assert "none-seed0 was left out" in roles.notes[0]
    assert cast([found[1]], baselines=[other]).students[0].independent == (other,)


def test_several_teachers_and_their_ensemble():
    roles = cast(family(seeds=1, methods=("kd",), two_teachers=True))
    assert named(roles, "ensemble-student") == {("ensemble (teacher-weak, teacher-strong)", "kd-seed0")}
    assert named(roles, "teacher-teacher") == {("teacher-weak", "teacher-strong")}
    assert len(named(roles, "teacher-student")) == 2


def test_two_seeds_of_a_teacher():
    teachers = [subject(f"t{k}", {}, group="t", seed=k, method="none") for k in (0, 1)]
    students = [subject(f"s{k}", {}, group="s", seed=k, method="kd", teachers=[teachers[k]]) for k in (0, 1)]
    roles = cast(students)
    assert named(roles, "ceiling:teacher-seeds") == {("t0", "t1")}
    # A further seed among the sources serves too, though nobody learned from it.
    roles = cast([students[0], teachers[1]])
    assert named(roles, "ceiling:teacher-seeds") == {("t0", "t1")}
    assert roles.notes == ()


def test_a_teacher_that_was_asked_about_two_data_sets_is_no_second_seed_of_itself():
    teachers = [subject(f"t{k}", {}, group="t", seed=k, method="none", weights=f"w{k}") for k in (0, 1)]
    again = dataclasses.replace(teachers[0], prefix="teacher-0-", folder=Path("runs/s0/features"))
    pupils = [subject(f"s{k}", {}, group=f"s{k}", method="kd", teachers=[t]) for k, t in enumerate((again, *teachers))]
    assert len(named(cast(pupils), "teacher-student")) == 3
    assert not named(cast(pupils[:2]), "ceiling:teacher-seeds")
    assert len(named(cast(pupils), "ceiling:teacher-seeds")) == 1
    assert named(cast(pupils), "teacher-student") == {("t0", "s0"), ("t0", "s1"), ("t1", "s2")}


def test_where_none_was_taught_the_first_is_the_teacher():
    roles = cast([bare("x"), bare("y"), bare("z")])
    assert named(roles, "teacher-student") == {("x", "y"), ("x", "z")}
    assert "x, the first," in roles.notes[0]


def test_a_teacher_that_is_named_replaces_the_own_one():
    found = family(seeds=1, methods=("kd",))
    roles = cast(found, teachers=[bare("other")])
    assert named(roles, "teacher-student") == {("other", "kd-seed0")}


def test_a_run_without_teacher_among_runs_that_have_one_is_not_a_student():
    found = family(seeds=1, methods=("kd",))
    teacher = found[1].teachers[0]
    roles = cast([teacher, *found])
    assert [s.subject.name for s in roles.students] == ["kd-seed0"]
    assert roles.notes == ()


def test_one_source_without_a_teacher_is_refused():
    with pytest.raises(KDScopeError, match="x has no teacher to be compared with"):
        cast([bare("x")])
    with pytest.raises(KDScopeError, match="give a student"):
        cast([bare("x")], teachers=[bare("x")])


def test_names_are_unique_and_groups_are_called_by_what_they_share():
    found = family(seeds=2, methods=("kd",))
    twin = dataclasses.replace(found[1], group="elsewhere")
    roles = cast([*found, twin])
    names = [roles.name(Party((s.subject,))) for s in roles.students]
    assert sorted(names) == ["kd-seed0", "kd-seed0 #2", "kd-seed1"]
    assert roles.group_name(Party((found[1],))) == "kd"


def test_a_teacher_trained_again_from_its_seed_is_no_independent_student():
    found = [one for one in family(seeds=2, methods=("kd",)) if one.architecture == "resnet8"]
    found = {one.name: dataclasses.replace(one, weights=one.name) for one in found}
    teacher = dataclasses.replace(found["kd-seed0"].teachers[0], weights="none-seed0")
    taught = [dataclasses.replace(found[name], teachers=(teacher,)) for name in ("kd-seed0", "kd-seed1")]
    roles = cast([*taught, found["none-seed0"], found["none-seed1"]])
    assert [[one.name for one in student.independent] for student in roles.students] == [["none-seed1"]] * 2
    assert "none-seed0 was left out: its weights are those of a teacher" in roles.notes[0]
    assert "none-seed0" not in {subject.name for subject in roles.others}
    lone = cast(taught, baselines=[found["none-seed0"]])
    assert all(not student.independent for student in lone.students)
