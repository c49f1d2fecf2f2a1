"""The analysis `comparison` on subjects whose answers are written down."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from told import CLASSES, sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.analyses.comparison_words import verdict
from kdscope.errors import KDScopeError
from kdscope.measures.crossed import crossed_mean
from kdscope.measures.significance import cohen_dz, holm

IMAGES = 300
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
RECIPE = {"epochs": 12, "optim.lr": 0.05, "headline": "last epoch"}


def run(method, seed, share, **more):
    """A subject that is right on about that share of images, mostly the same for all."""
    own = np.random.default_rng([len(method), ord(method[0]), seed]).normal(size=IMAGES)
    hard = norm.cdf((2 * np.random.default_rng(7).normal(size=IMAGES) + own) / 5**0.5)
    top = np.where(hard < share, LABELS, (LABELS + 1) % CLASSES)
    more = {"recipe": RECIPE, "effort": {"phases": 0, "chain": 0, "seconds": 10.0 + (seed or 0)}} | more
    name = f"{method}-seed{seed}"
    return subject(name, {"test": sayings(top, LABELS)}, group=method, seed=seed, method=method, **more)


SHARES = {"none": 0.6, "kd": 0.61, "at": 0.8, "rkd": 0.4}


@pytest.fixture(scope="module")
def report():
    return run_analysis("comparison", [run(m, s, share) for m, share in SHARES.items() for s in range(3)])


def right(method):
    return np.stack(
        [run(method, s, SHARES[method]).caches["test", "none"].logits.argmax(1) == LABELS for s in range(3)]
    )


def test_the_table_against_the_arrays(report):
    rows = report.table[report.table["seed"] == "all"].set_index(["measure", "a", "b"])
    for method in SHARES:
        row = rows.loc["accuracy", "", method]
        assert row.value == pytest.approx(right(method).mean())
        assert row.sd == pytest.approx(right(method).mean(1).std(ddof=1))
        assert row.floor == pytest.approx(right("none").mean())
        assert (row.seeds, row.n, row.seconds, row.time) == (3, IMAGES, 11.0, 1.0)
    for a, others in {"none": ["kd", "at", "rkd"], "kd": ["at", "rkd"]}.items():
        differences = [right(b).astype(float) - right(a) for b in others]
        found = [crossed_mean(difference) for difference in differences]
        adjusted = holm([one.p_value for one in found])
        for b, difference, one, p in zip(others, differences, found, adjusted, strict=True):
            row = rows.loc["accuracy-difference", a, b]
            assert (row.value, row.ci_low, row.ci_high) == pytest.approx((one.value, one.ci_low, one.ci_high))
            assert (row.p_value, row.p_holm) == pytest.approx((one.p_value, p))
            assert row.effect == pytest.approx(cohen_dz(difference.mean(1)))
            assert row.detectable > 2 * one.error
    assert ("accuracy-difference", "kd", "none") not in rows.index


def test_rows_of_single_seeds_add_up(report):
    table = report.table[(report.table["measure"] == "accuracy-difference") & (report.table["b"] == "at")]
    for _, rows in table.groupby("a"):
        whole = rows[rows["seed"] == "all"].iloc[0]
        alone = rows[rows["seed"] != "all"]
        assert alone["seed"].tolist() == ["0", "1", "2"]
        assert whole.value == pytest.approx(alone["value"].mean())


def test_what_is_said(report):
    assert report.notes[0].startswith(
        "over 3 seeds, at is better than kd and none, rkd is worse than kd and none "
        "and no other method differs from them beyond chance; a difference below "
    )
    assert any("accuracy is that of the last epoch" in note for note in report.notes)
    assert len(report.summary) == 6  # none and kd a line each, the others two
    assert "not one recipe" not in " ".join(report.notes)


def test_chance_is_called_chance():
    found = run_analysis("comparison", [run(method, seed, 0.6) for method in ("none", "kd", "at") for seed in (0, 1)])
    said = found.notes[0]
    assert "over 2 seeds, no method differs from kd or none beyond chance; " in said
    assert said == verdict(found.table)
    assert any(note.startswith("two seeds") for note in found.notes)


def test_what_is_not_fair_is_said():
    longer = {"recipe": RECIPE | {"epochs": 30}, "effort": {"phases": 4, "chain": 12, "seconds": 40.0}}
    found = run_analysis("comparison", [run("none", 0, 0.6), run("kd", 0, 0.6), run("takd", 0, 0.7, **longer)])
    notes = " ".join(found.notes)
    assert "not one recipe: epochs is none 12, kd 12, takd 30" in notes
    assert "takd 4 of its phases, 12 of its chain" in notes
    assert "one seed: intervals and p are over images" in notes
    row = found.table[(found.table["measure"] == "accuracy") & (found.table["b"] == "takd")].iloc[0]
    assert (row.extra_epochs, row.time) == (16, 4.0)


def test_only_the_seeds_that_both_have_are_paired():
    found = run_analysis(
        "comparison", [run("none", s, 0.6) for s in (0, 1, 2)] + [run("at", s, 0.7) for s in (1, 2, 5)]
    )
    row = found.table[(found.table["measure"] == "accuracy-difference") & (found.table["seed"] == "all")].iloc[0]
    assert row.seeds == 2
    apart = run_analysis("comparison", [run("none", s, 0.6) for s in (0, 1)] + [run("at", s, 0.7) for s in (2, 3)])
    assert "no seed in common" in " ".join(apart.notes)
    assert apart.notes[0] == "nothing could be compared"


def test_teachers_and_other_networks_are_left_out():
    teacher = run("none", 9, 0.9, architecture="resnet20")
    other = run("vid", 0, 0.9, architecture="vgg8")
    arms = [run("kd", 0, 0.6, teachers=[teacher]), run("at", 0, 0.7, teachers=[teacher])]
    found = run_analysis("comparison", [teacher, other, *arms])
    assert set(found.table["b"]) == {"kd", "at"}
    notes = " ".join(found.notes)
    assert "none-seed9 was left out: it is a teacher of others" in notes
    assert "vid-seed0 was left out: it is a vgg8, and most here are resnet8" in notes
    with pytest.raises(KDScopeError, match="1 way of training"):
        run_analysis("comparison", arms[:1])


def test_bare_caches_are_paired_by_image_alone():
    one, two = (
        subject(name, {"test": sayings((LABELS + (k > 0) * (np.arange(IMAGES) % 3 == 0)) % CLASSES, LABELS)})
        for k, name in enumerate("ab")
    )
    found = run_analysis("comparison", [one, two])
    row = found.table[found.table["measure"] == "accuracy-difference"].iloc[0]
    assert (row.a, row.b, row.value) == ("a", "b", pytest.approx(-1 / 3))
    assert math.isnan(row.effect)
    assert row.test == "paired t-test over images"


def test_the_reference_can_be_chosen():
    runs = [run(m, 0, 0.6) for m in ("none", "kd", "at")]
    found = run_analysis("comparison", runs, against="at")
    assert set(found.table.loc[found.table["measure"] == "accuracy-difference", "a"]) == {"at"}
    with pytest.raises(KDScopeError, match="unknown way of training 'att' in option against; nearest: at"):
        run_analysis("comparison", runs, against="att")
    twice = [run("kd", 0, 0.6), subject("other", {"test": sayings(LABELS, LABELS)}, method="kd", seed=0)]
    with pytest.raises(KDScopeError, match="several ways of training are by 'kd': kd-seed0, other"):
        run_analysis("comparison", twice, against="kd")


def test_the_figure_shows_the_table(report):
    from kdscope.figures.comparison import comparison, forest

    ((name, figure),) = comparison(report.table)
    assert name == "comparison-differences"
    left, right_panel = figure.axes
    rows = report.table[(report.table["measure"] == "accuracy-difference") & (report.table["seed"] == "all")]
    lines = {a: rows[rows["a"] == a].set_index("b") for a in ("none", "kd")}
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels == ["rkd", "kd", "at"]
    for axes, a in ((left, "none"), (right_panel, "kd")):
        dots = {round(line.get_ydata()[0]): line for line in axes.lines if line.get_marker() == "o"}
        assert {labels[at] for at in dots} == set(lines[a].index)
        for at, line in dots.items():
            row = lines[a].loc[labels[at]]
            assert line.get_xdata()[0] == pytest.approx(100 * row.value)
            assert (line.get_markerfacecolor() != "white") == (row.p_holm < 0.05)
    assert forest(report.table[report.table["measure"] == "accuracy-difference"]).axes
