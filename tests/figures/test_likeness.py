"""Figures of calibration, similarity and diversity from their tables alone."""

import pytest
from told import family

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES, draw
from kdscope.figures.similarity import _number
from kdscope.figures.style import read_table


@pytest.fixture(scope="module")
def calibrated():
    return run_analysis("calibration", family(seeds=2, methods=("kd", "at"), n=80), draws=5).table


def test_each_network_has_its_reliability_once(calibrated):
    figures = dict(FIGURES["calibration"](calibrated))
    titles = [axes.get_title().split("\n")[0] for axes in figures["calibration-reliability"].axes if axes.get_title()]
    assert titles == [f"{name}, {t}" for name in ("teacher-weak", "kd-seed0", "at-seed0") for t in ("T = 1", "best T")]


def test_errors_of_seeds_are_one_row_with_a_tick_each(calibrated):
    axes = dict(FIGURES["calibration"](calibrated))["calibration-error"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "at", "kd", "teacher-weak"]
    rows = calibrated[(calibrated["measure"] == "ece") & (calibrated["role"] != "random-init")]
    ticks = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|")
    assert ticks == pytest.approx(
        sorted(
            rows.loc[rows["group"].isin(("at", "kd", "none")) & (rows["seeds"] == 1) & (rows["seed"] != "all"), "value"]
        )
    )
    assert axes.get_xlim()[0] < 0  # a dot at 0 is whole


def test_diversity_of_views_has_plain_numbers_on_its_axis():
    table = run_analysis("diversity", family(seeds=2, methods=("kd",), n=60), views="").table
    assert {stem for stem, figure in FIGURES["diversity"](table) if figure} == {"diversity-networks"}


@pytest.mark.parametrize(
    ("value", "text"), [(0.741, ".74"), (1.0, "1.00"), (-0.0004, ".00"), (-0.023, "−.02"), (float("nan"), "–")]
)
def test_numbers_in_cells(value, text):
    assert _number(value) == text


def test_a_table_that_somebody_edited_is_one_line(calibrated, tmp_path):
    broken = calibrated.astype({"value": object})
    broken.loc[3, "value"] = "about .5"
    broken.to_csv(tmp_path / "broken.csv", index=False)
    with pytest.raises(KDScopeError, match=r"broken\.csv, row 5: value is 'about \.5', not a number"):
        read_table(tmp_path / "broken.csv")
    calibrated.drop(columns="null").to_csv(tmp_path / "cut.csv", index=False)
    with pytest.raises(KDScopeError, match=r"cut\.csv: the figures of calibration need column 'null'"):
        draw(tmp_path / "cut.csv", tmp_path / "out")


def test_the_entropy_of_an_undecided_network_is_a_whole_dot():
    table = run_analysis("diversity", family(seeds=2, methods=("kd",), n=60), views="").table
    table.loc[table["measure"] == "predictive-entropy", ["value", "ci_low", "ci_high"]] = 1.386
    axes = dict(FIGURES["diversity"](table))["diversity-networks"].axes[-1]
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] > 1.386 * 1.03
