"""Fidelity on networks whose every answer is written down."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from told import family, sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.decomposition import ORIGINS
from kdscope.measures.result import COLUMNS

LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
TEACHER = np.array([0, 1, 2, 3, 0, 1, 2, 3, 1, 2])  # wrong on the last two
STUDENT = np.array([0, 1, 2, 3, 0, 1, 2, 0, 1, 1])  # follows on all but 7 and 9
ALONE = np.array([0, 1, 2, 3, 0, 1, 3, 3, 0, 1])  # wrong on 6


def said(top, **options):
    return {"test": sayings(top, LABELS, **options)}


@pytest.fixture
def trio():
    teacher = subject("t", said(TEACHER), architecture="resnet20", method="none")
    untrained = said(np.zeros(10, int), sure=0.5)
    student = subject("s", said(STUDENT), method="kd", seed=0, teachers=[teacher], untrained=untrained)
    alone = subject("alone", said(ALONE), method="none", seed=0)
    return teacher, student, alone


def asked(subjects, **options):
    return run_analysis("fidelity", subjects, **{"splits": "test", **options}).table


def cell(table, measure, pair="teacher-student", **columns):
    rows = table[(table["measure"] == measure) & (table["pair"] == pair)]
    for name, value in columns.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def test_written_answers_give_written_numbers(trio):
    _, student, alone = trio
    table = asked([student, alone])
    agreement = cell(table, "agreement")
    assert (agreement.a, agreement.b, agreement.value, agreement.n) == ("t", "s", 0.8, 10)
    assert agreement.floor == 0.7  # t and alone differ on 6, 8 and 9
    assert agreement.gain == pytest.approx(0.1)
    assert agreement.control == "floor: independent student"
    assert cell(table, "agreement-teacher-right").value == 7 / 8
    assert cell(table, "agreement-teacher-wrong").value == 1 / 2
    accuracy = cell(table, "accuracy")
    assert (accuracy.value, accuracy.floor) == (0.8, 0.9)
    assert accuracy.gain == pytest.approx(-0.1)
    assert cell(table, "agreement", "floor:independent-student").value == 0.7
    assert cell(table, "agreement", "floor:random-init").value == 0.2
    assert cell(table, "accuracy", "floor:random-init").b == "resnet8 (random init)"
    shuffled = cell(table, "agreement", "floor:shuffled")
    assert (shuffled.b, shuffled.n) == ("s (shuffled images)", 10)


def test_the_decomposition_accounts_for_the_whole_change(trio):
    _, student, alone = trio
    table = asked([student, alone])
    share = {name: cell(table, name).value for name in ORIGINS}
    assert share == {"inherited-truths": 0.1, "inherited-errors": 0.1, "own-discoveries": 0.0, "forgotten": 0.1}
    net = share["inherited-truths"] + share["own-discoveries"] - share["inherited-errors"] - share["forgotten"]
    assert net == pytest.approx(cell(table, "accuracy").gain)
    same = 1 - sum(share.values())
    assert same == pytest.approx(np.mean((STUDENT == LABELS) == (ALONE == LABELS)))


def test_without_an_independent_student_the_floor_is_chance_and_says_so(trio):
    _teacher, student, _ = trio
    report = run_analysis("fidelity", [student], splits="test")
    row = cell(report.table, "agreement")
    assert (row.floor, row.control) == (0.2, "floor: random init")
    assert np.isnan(row.ceiling)
    assert not set(ORIGINS) & set(report.table["measure"])
    assert any("the floor here is chance" in note for note in report.notes)
    assert any("no ceiling is known" in note for note in report.notes)
    plain = dataclasses.replace(student, untrained={})
    assert cell(asked([plain]), "agreement").control == "floor: shuffled images"


def test_the_ceiling_is_the_mean_agreement_of_the_students_seeds(trio):
    _teacher, student, alone = trio
    again = dataclasses.replace(student, name="s2", seed=1, group="s", caches={("test", "none"): said(ALONE)["test"]})
    table = asked([student, again, alone])
    assert cell(table, "agreement", "ceiling:student-seeds").value == np.mean(STUDENT == ALONE)
    row = cell(table, "agreement", seed="0")
    assert row.ceiling == np.mean(STUDENT == ALONE)
    assert row.control == "floor: independent student; ceiling: seeds of the student"
    assert np.isnan(cell(table, "accuracy", seed="0").ceiling)


def test_seeds_together_have_the_mean_and_a_wider_interval():
    table = asked(family(seeds=3, methods=("kd",)))
    for measure in ("agreement", "kl-teacher-student", "kappa"):
        alone = [cell(table, measure, seed=str(seed)) for seed in range(3)]
        together = cell(table, measure, seed="all")
        assert together.value == pytest.approx(np.mean([row.value for row in alone]))
        assert together.floor == pytest.approx(np.mean([row.floor for row in alone]))
        assert (together.seeds, together.b) == (3, "kd")
        assert together.ci_low < together.value < together.ci_high
    # Seeds that differ much: their spread is in the interval, which that over images of one seed has not.
    _teacher, student, _ = _far_apart()
    table = asked(student)
    together = cell(table, "agreement", seed="all")
    one = cell(table, "agreement", seed="0")
    assert together.ci_high - together.ci_low > 1.5 * (one.ci_high - one.ci_low)


def _far_apart(n=400):
    labels = np.zeros(n, int)
    teacher = subject("t", {"test": sayings(labels, labels)})
    shares = (0.95, 0.7, 0.5)
    students = [
        subject(
            f"s{k}",
            {"test": sayings((np.arange(n) >= share * n).astype(int), labels)},
            group="s",
            seed=k,
            method="kd",
            teachers=[teacher],
        )
        for k, share in enumerate(shares)
    ]
    return teacher, students, labels


def test_one_seed_has_no_rows_over_seeds_and_says_so(trio):
    _, student, alone = trio
    report = run_analysis("fidelity", [student, alone], splits="test")
    assert "all" not in set(report.table["seed"])
    assert any("students of one seed" in note for note in report.notes)


def test_gains_of_seeds_that_share_a_student_alone_say_so():
    every = family(seeds=3, methods=("kd",), splits=("test",))
    shared = [one for one in every if one.method != "none" or one.seed == 0]
    (note,) = [note for note in run_analysis("fidelity", shared).notes if "gains are over" in note]
    assert note == "kd: gains are over one student alone (none-seed0), another training of which is not in the interval"
    assert not [note for note in run_analysis("fidelity", every).notes if "gains " in note]


def test_the_ensemble_is_combined_as_the_run_says():
    labels = np.array([0, 0])
    one = subject("one", {"test": dataclasses.replace(sayings([0, 0], labels, classes=3), logits=_rows([5, 0, 0]))})
    two = subject("two", {"test": dataclasses.replace(sayings([0, 0], labels, classes=3), logits=_rows([-6, 0.5, 0]))})
    pupil = {"test": dataclasses.replace(sayings([0, 0], labels, classes=3), logits=_rows([0, 3, 0]))}
    for ensemble, agrees in (("mean-probability", 0), ("mean-loss", 0), ("mean-logit", 1)):
        student = subject("s", pupil, method="kd", teachers=[one, two], ensemble=ensemble)
        assert cell(asked([student]), "agreement", "ensemble-student").value == agrees
    # The released code of Guo et al. takes the mean of the logits, whatever the run does.
    student = subject("s", pupil, method="kd", teachers=[one, two])
    table = asked([student], definition="guo2024-code")
    assert cell(table, "agreement", "ensemble-student", definition="guo2024-code").value == 1
    assert cell(table, "agreement", "ensemble-student", definition="kdscope").value == 0


def _rows(row):
    return np.array([row, row], dtype=np.float32)


def test_definitions_stand_beside_the_sound_one(trio):
    _, student, alone = trio
    table = asked([student, alone], definition="guo2024-code")
    sound = cell(table, "kl-teacher-student", definition="kdscope")
    code = cell(table, "kl-teacher-student", definition="guo2024-code")
    backwards = cell(table, "kl-student-teacher", definition="kdscope")
    assert code.value == pytest.approx(10 * backwards.value)
    assert sound.value != pytest.approx(code.value)
    assert code.floor == pytest.approx(10 * cell(table, "kl-student-teacher", "floor:independent-student").value)
    with pytest.raises(KDScopeError, match=r"unknown definition 'guo'.*nearest: guo2024-code"):
        asked([student], definition="guo")


def test_probes_are_compared_with_the_teacher_on_their_own_images():
    found = family(seeds=2, methods=("kd",), probes=(1, 4), n=100)
    table = asked(found)
    epochs = table[table["epoch"].notna() & (table["pair"] == "teacher-student")]
    assert set(epochs["epoch"]) == {1, 4}
    assert set(epochs["n"][epochs["measure"] == "agreement"]) == {50}
    teacher = found[1].teachers[0].cache("test").logits.argmax(1)
    probe = found[1].probe(4, "test")
    row = cell(epochs, "agreement", seed="0", epoch=4)
    assert row.value == np.mean(teacher[probe.index] == probe.logits.argmax(1))
    assert cell(epochs, "agreement", seed="all", epoch=4).seeds == 2
    assert len(table[table["epoch"].isna() & (table["pair"] == "teacher-student")])


def test_a_split_of_which_no_probe_was_kept_has_no_epochs():
    found = family(seeds=1, methods=("kd",), splits=("train", "validation"), probes=(1, 4), n=100)
    for one in found:
        for epoch in (1, 4):
            one.probes.pop((epoch, "validation"), None)
    table = asked(found, splits="train,validation")
    assert set(table[table["epoch"].notna()]["split"]) == {"train"}
    assert set(table["split"]) == {"train", "validation"}


def test_answers_that_are_no_numbers_are_named_by_their_cache(trio):
    _, student, alone = trio
    cache = student.cache("test")
    sick = dataclasses.replace(cache, logits=cache.logits.copy(), path=Path("runs/kd/features/test-none.kdcache"))
    sick.logits[3:5] = np.nan
    student.caches["test", "none"] = sick
    with pytest.raises(KDScopeError, match=r"^runs/kd/features/test-none.kdcache: student logits are NaN .* row 3$"):
        asked([student, alone])


def test_probes_with_other_labels_are_refused():
    found = family(seeds=1, methods=("kd",), probes=(1,), n=100)
    probe = found[1].probes[1, "test"]
    found[1].probes[1, "test"] = dataclasses.replace(probe, labels=(probe.labels + 1) % 4)
    with pytest.raises(KDScopeError, match="their labels differ"):
        asked(found)


def test_caches_of_other_images_or_classes_are_refused(trio):
    _, student, _ = trio
    moved = subject("moved", said(ALONE, index=np.arange(10) + 1), method="none")
    with pytest.raises(KDScopeError, match="not of the same images"):
        asked([student], baseline=[moved])


def test_bare_caches_are_looked_at_where_both_have_a_split(trio):
    labels = np.zeros(4, int)
    a = subject("a", {"train": sayings(labels, labels), "test": sayings(labels, labels)})
    b = subject("b", {"test": sayings(labels, labels)})
    table = run_analysis("fidelity", [a, b]).table
    assert set(table["split"]) == {"test"}
    with pytest.raises(KDScopeError, match="b has no cache of split 'train'"):
        run_analysis("fidelity", [a, b], splits="train,test")
    with pytest.raises(KDScopeError, match="no split in common"):
        run_analysis("fidelity", [subject("c", {"train": sayings(labels, labels)}), b])


def test_the_tables_columns_and_order():
    table = run_analysis("fidelity", family(seeds=2, n=60)).table
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS
    assert list(dict.fromkeys(table["split"])) == ["train", "test"]
    assert set(table["analysis"]) == {"fidelity"}
    for name in ("a", "b", "measure", "definition", "pair"):
        assert table[name].notna().all()
    assert not table.duplicated(["measure", "definition", "a", "b", "split", "pair", "seed", "epoch", "baseline"]).any()
    known = table[table["n"] > 0]
    outside = known[(known["value"] < known["ci_low"] - 1e-9) | (known["value"] > known["ci_high"] + 1e-9)]
    assert outside.empty
    for row in table.itertuples():
        low, high = MEASURES[row.measure].card.range
        assert np.isnan(row.value) or low - 1e-9 <= row.value <= high + 1e-9


def test_what_is_said_does_not_oversell(trio):
    _, student, alone = trio
    notes = run_analysis("fidelity", [student, alone], splits="test").notes
    assert notes[0].startswith("s, by t, on test: agreement 0.800 [")
    assert "an independent student reaches 0.700" in notes[0]
    assert "not more than that" in notes[0]  # 0.1 on ten images is nothing
    assert "accuracy 0.800, without this teacher 0.900" in notes[1]
    assert "did not help" in notes[1]


def test_no_split_at_all_is_refused():
    with pytest.raises(KDScopeError, match="no split is named by ','; give test"):
        run_analysis("fidelity", family(seeds=1, n=20), splits=",")


def test_whether_it_goes_with_accuracy_is_said_with_what_holds_within_groups():
    table = run_analysis("fidelity", family(seeds=3, methods=("kd", "at", "rkd"), n=60), splits="test")
    (said,) = (note for note in table.notes if "against accuracy" in note)
    rows = table.table[(table.table["pair"] == "teacher-student") & (table.table["seed"] != "all")]
    by = {name: rows[rows["measure"] == name].set_index("b")["value"] for name in ("agreement", "accuracy")}
    r = by["agreement"].corr(by["accuracy"])
    assert said.startswith(f"agreement against accuracy over runs, on test: r = {r:.2f}, ")
    assert "n = 9; group-centred r = " in said
    assert said.count("within ") == 1
    few = run_analysis("fidelity", family(seeds=2, methods=("kd",), n=60), splits="test")
    assert not any("against accuracy" in note for note in few.notes)
