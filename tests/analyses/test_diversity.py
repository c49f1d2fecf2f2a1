"""The analysis of diversity on subjects whose every answer is written down."""

import dataclasses

import numpy as np
import pytest
from told import family, mostly, sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES, draw
from kdscope.measures.result import COLUMNS


def one(table, **columns):
    for name, value in columns.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def with_views(found, augment):
    """The subjects, also asked about weak images: they are right less often there."""

    def seen(one):
        caches = dict(one.caches)
        for split, _ in one.caches:
            clean = one.caches[split, "none"]
            caches[split, "weak"] = sayings(mostly(clean.labels, 0.6, 3), clean.labels)
        return dataclasses.replace(one, caches=caches, teachers=tuple(map(seen, one.teachers)), augment=augment)

    return [seen(one) for one in found]


@pytest.fixture(scope="module")
def report():
    found = with_views(family(seeds=2, methods=("kd",), n=200, two_teachers=True), "none")
    return run_analysis("diversity", found, views="weak", definition="guo2024-code")


def test_the_table(report):
    table = report.table
    assert tuple(table.columns[: len(COLUMNS)]) == COLUMNS
    assert set(table["measure"]) == {
        *("disagreement", "ensemble-gain", "ensemble-gain-best", "predictive-entropy"),
        *("accuracy-shift", "affinity", "view-diversity"),
    }
    assert ((table["ci_low"] <= table["value"] + 1e-9) & (table["value"] <= table["ci_high"] + 1e-9)).all()
    assert not table.duplicated(["measure", "definition", "pair", "a", "b", "split", "view", "seed"]).any()
    assert (table["n"] == 200).all()


def test_teachers_disagree_beside_seeds_and_their_ensemble_gains():
    found = family(seeds=1, methods=("kd",), n=300, two_teachers=True)
    table = run_analysis("diversity", found, views="").table
    weak, strong = next(s for s in found if s.teachers).teachers
    a, b = weak.cache("test"), strong.cache("test")
    row = one(table, pair="teacher-teacher")
    right = [cache.logits.argmax(axis=1) == cache.labels for cache in (a, b)]
    assert row.value == np.mean(a.logits.argmax(axis=1) != b.logits.argmax(axis=1))
    assert row.floor == pytest.approx(abs(right[0].mean() - right[1].mean()))
    assert row.floor <= row.value <= row.ceiling + 0.1
    mean, best = (one(table, measure=name, pair="ensemble") for name in ("ensemble-gain", "ensemble-gain-best"))
    gap = abs(right[0].mean() - right[1].mean()) / 2
    assert mean.value - best.value == pytest.approx(gap)
    assert mean.ceiling == pytest.approx((right[0] | right[1]).mean() - np.mean(right))


def test_entropies_are_between_certain_and_no_idea_and_paired_with_the_teachers(report):
    rows = report.table[report.table["measure"] == "predictive-entropy"]
    assert rows["ceiling"].unique() == pytest.approx([np.log(4)])
    alone = rows[rows["seed"] != "all"]
    student = alone[alone["role"] == "student"].iloc[0]
    teacher = one(alone, b=student.a)
    assert student.gap == pytest.approx(student.value - teacher.value)
    assert student.gap_low <= student.gap <= student.gap_high


def test_over_seeds(report):
    rows = report.table[(report.table["measure"] == "affinity") & (report.table["group"] == "kd")]
    rows = rows[rows["definition"] == "kdscope"]
    together, alone = rows[rows["seed"] == "all"].iloc[0], rows[rows["seed"] != "all"]
    assert together.seeds == len(alone) == 2
    assert together.value == pytest.approx(np.exp(np.log(alone["value"].astype(float)).mean()))
    assert 0 < together.ci_low < together.value < together.ci_high
    assert "kd (2 seeds)" in set(report.table.loc[report.table["pair"] == "seeds", "b"])


def test_affinity_is_measured_by_who_was_trained_on_clean_images():
    found = with_views(family(seeds=1, methods=("kd",), n=200), "weak")
    report = run_analysis("diversity", found, views="weak", definition="guo2024-code")
    rows = report.table[report.table["measure"] == "affinity"]
    assert set(rows["definition"]) == {"guo2024-code"}
    assert any("no network here was trained on clean images" in note for note in report.notes)
    student = next(s for s in found if s.teachers)
    clean, seen = student.cache("test"), student.cache("test", "weak")
    accuracies = [np.mean(cache.logits.argmax(axis=1) == cache.labels) for cache in (clean, seen)]
    assert one(rows, b=student.name).value == pytest.approx(accuracies[1] / accuracies[0])
    shift = one(report.table, measure="accuracy-shift", b=student.name)
    assert shift.value == pytest.approx(accuracies[1] - accuracies[0])


def test_what_cannot_be_asked_is_said():
    found = family(seeds=1, methods=("kd",), n=100)
    report = run_analysis("diversity", found)
    assert any("no cache holds the views weak, strong" in note for note in report.notes)
    assert any("no student here has two teachers" in note for note in report.notes)
    with pytest.raises(KDScopeError, match=r"unknown definition 'guo'.*nearest: guo2024-code"):
        run_analysis("diversity", found, definition="guo")
    labels = np.arange(8) % 4
    said = {(s, v): sayings(labels, labels) for s in ("train", "test") for v in ("none", "weak")}
    said["test", "weak"] = sayings(labels[::-1], labels[::-1])
    odd = [dataclasses.replace(subject(name, {}), caches=said) for name in "ts"]
    with pytest.raises(KDScopeError, match="their labels differ"):
        run_analysis("diversity", odd, views="weak")


def test_figures_are_drawn_from_the_csv(report, tmp_path):
    report.table.to_csv(tmp_path / "t.csv", index=False)
    first, again = draw(tmp_path / "t.csv", tmp_path / "a"), draw(tmp_path / "t.csv", tmp_path / "b")
    assert {path.stem for path in first} == {"diversity-networks", "diversity-views"}
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, again, strict=True))
    no_views = report.table[report.table["pair"] != "view"]
    assert {path.stem for path in draw(no_views, tmp_path / "a")} == {"diversity-networks"}
    assert not (tmp_path / "a" / "diversity-views.png").exists()


def test_a_lone_pair_has_no_empty_panels():
    table = run_analysis("diversity", family(seeds=1, methods=("kd",), n=50)).table
    figures = dict(FIGURES["diversity"](table))
    assert [axes.get_xlabel() for axes in figures["diversity-networks"].axes] == ["Entropy (nats)"]
    assert figures["diversity-views"] is None
