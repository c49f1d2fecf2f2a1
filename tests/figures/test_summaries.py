"""The table of an analysis for a paper: its rows, marks and signs are those of the tidy table."""

from pathlib import Path

import pytest
from told import family

from kdscope.analyses.base import run_analysis
from kdscope.figures import draw
from kdscope.figures.style import read_table
from kdscope.figures.summaries import TABLES

HERE = Path(__file__).with_name("tables")


def lines(table):
    return [line.strip("| ").split(" | ") for line in table.markdown().splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", ["fidelity", "mutual-information", "attention-iou"])
def test_a_row_for_each_student_and_the_value_of_the_table(name):
    table = read_table(HERE / f"{name}.csv")
    shown = TABLES[name](table)
    assert len(shown.rows) > 0
    for row in shown.rows:
        own = table[
            (table["b"] == row.words[0]) & (table["a"] == row.words[1]) & table["pair"].str.startswith("teacher")
        ]
        for number in row.numbers.values():
            assert (own["value"] == number.value).any()
            assert number.low <= number.value <= number.high


def test_what_is_nearer_than_the_floor_is_signed():
    table = read_table(HERE / "fidelity.csv")
    shown = TABLES["fidelity"](table)
    rows = table[(table["split"] == "test") & table["epoch"].isna()].set_index(["a", "b", "measure"])
    for row in shown.rows:
        for measure, title in (("agreement", "agreement"), ("kl-teacher-student", "KL (nats)")):
            gain = rows.loc[(row.words[1], row.words[0], measure), "gain_low"].max()
            assert (row.numbers[title].signs == "*") == (gain > 0)


def test_methods_beside_those_they_are_compared_with(tmp_path):
    table = run_analysis("comparison", family(seeds=3, methods=("kd", "at"), n=60, splits=("test",))).table
    shown = TABLES["comparison"](table)
    assert [column.title for column in shown.columns] == ["accuracy (%)", "less none (points)", "less kd (points)"]
    found = table[(table["seed"] == "all") & (table["b"] == "at")].set_index(["measure", "a"])
    (at,) = [row for row in shown.rows if row.words[0] == "at"]
    assert at.words == ("at", "3")
    row = found.loc[("accuracy-difference", "kd")]
    number = at.numbers["less kd (points)"]
    assert (number.value, number.low) == pytest.approx((100 * row.value, 100 * row.ci_low))
    assert number.signs == ("*" if row.p_holm < 0.05 else "")
    assert [cells[0] for cells in lines(shown)[2:]] == ["none", "kd", "at"]
    files = draw(table, tmp_path)
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8") == shown.markdown()
    assert (tmp_path / "comparison.tex") in files


def test_nothing_to_show_is_no_table():
    table = read_table(HERE / "fidelity.csv")
    assert TABLES["fidelity"](table[table["pair"] == "floor:independent-student"]) is None
