"""Figures of mutual information and of calibration: from the table alone, the same bytes, nothing outside."""

import pandas as pd
import pytest
from told import family

from kdscope.analyses.base import run_analysis
from kdscope.figures import FIGURES, draw


@pytest.mark.parametrize(
    ("name", "stems"),
    [
        ("mutual-information", {f"mutual-information-{stem}" for stem in ("frame", "accuracy", "estimators")}),
        ("calibration", {"calibration-reliability", "calibration-error"}),
    ],
)
def test_drawn_from_the_csv(name, stems, tmp_path):
    report = run_analysis(name, family(seeds=2, methods=("kd",), n=120), tmp_path / "a")
    assert {path.stem for path in report.figures} == stems
    again = [path for path in draw(report.csv, tmp_path / "b") if path.suffix in (".pdf", ".png")]
    for mine, other in zip(report.figures, again, strict=True):
        assert mine.read_bytes() == other.read_bytes()


def test_the_diagram_shows_each_student_beside_its_teacher():
    table = run_analysis("calibration", family(seeds=1, methods=("kd", "at"), n=120), draws=5).table
    figures = dict(FIGURES["calibration"](table))
    assert len(figures["calibration-reliability"].axes) == 8
    title = figures["calibration-reliability"].axes[0].get_title()
    ece = table[(table["measure"] == "ece") & (table["role"] == "teacher") & (table["temperature"] == "1")].iloc[0]
    assert f"ECE {ece.value:.3f}" in title


def test_estimators_without_a_red_flag_have_no_title():
    table = run_analysis("mutual-information", family(seeds=1, methods=("kd",), n=400)).table
    figures = dict(FIGURES["mutual-information"](table))
    assert figures["mutual-information-estimators"].axes[0].get_title(loc="right") == ""
    few = table.assign(flag="few images", per_cell=1.5)
    figures = dict(FIGURES["mutual-information"](pd.DataFrame(few)))
    assert "only 1.5" in figures["mutual-information-estimators"].axes[0].get_title(loc="right")
