"""Measures against accuracy: a point is a run, also where it has several teachers."""

from pathlib import Path

import pandas as pd
import pytest

from kdscope.analyses.attention_words import notes
from kdscope.measures.correlation import correlate
from kdscope.report.charts.scatter import against_accuracy
from kdscope.report.found import Asked, Found

OVERLAP = {  # of each run with its teachers
    "kd-seed0": {"t": 0.1}, "kd-seed1": {"t": 0.4},
    "both-seed0": {"t": 0.2, "u": 0.4}, "both-seed1": {"t": 0.5, "u": 0.0},
}  # fmt: skip
ACCURACY = {"kd-seed0": 0.5, "kd-seed1": 0.7, "both-seed0": 0.6, "both-seed1": 0.9}


@pytest.fixture
def table():
    rows = [
        {"a": a, "b": b, "seed": b[-1], "group": b[:-6], "value": value, "accuracy": ACCURACY[b]}
        for b, by in OVERLAP.items()
        for a, value in by.items()
    ]
    same = {"measure": "attention-iou", "definition": "kdscope", "pair": "teacher-student", "split": "test"}
    same |= {"map": "cam", "layer": "layer3", "area": None, "epoch": None, "ci_low": 0.0, "ci_high": 1.0, "n": 9}
    same |= {"excluded": 0, "gain": None, "gain_low": None, "control": ""}
    return pd.DataFrame([row | same for row in rows])


def test_a_student_of_several_teachers_is_their_mean_in_the_chart_and_in_words(table):
    rows = [{"name": b, "group": b[:-6], "test_accuracy": str(share)} for b, share in ACCURACY.items()]
    found = Found(Path("."), rows=rows, analyses=(Asked("attention-iou", "maps", "a.csv", table),))
    (drawn,) = against_accuracy(found)
    expected = correlate([0.1, 0.4, 0.3, 0.25], [50, 70, 60, 90], ["kd", "kd", "both", "both"])
    assert str(expected) in drawn.caption
    assert any(str(expected) in line for line in notes(table, False))
    points = {row["b"]: row for row in drawn.table.rows}
    assert [points[b]["value"] for b in ACCURACY] == pytest.approx([0.1, 0.4, 0.3, 0.25])
    assert (points["both-seed0"]["a"], points["both-seed0"]["ci_low"]) == ("t, u", None)
    assert (points["kd-seed0"]["a"], points["kd-seed0"]["ci_low"]) == ("t", 0.0)


def test_the_figure_for_papers_takes_the_mean_over_teachers_and_not_over_layers(table):
    from kdscope.figures.attention_iou import attention_iou

    shallow = table.assign(layer="layer1", value=0.95)
    both = pd.concat([shallow, table], ignore_index=True).assign(view="none", seeds=1, area=float("nan"))
    both = both.assign(a_group=both["a"], floor=float("nan"), ceiling=float("nan"), epoch=float("nan"))
    figure = next(figure for stem, figure in attention_iou(both) if stem == "attention-iou-accuracy")
    assert str(correlate([0.1, 0.4, 0.3, 0.25], [50, 70, 60, 90], ["kd", "kd", "both", "both"])).split(";")[0] in (
        figure.axes[0].get_title(loc="left")
    )
