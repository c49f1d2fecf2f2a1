import math

import pytest

from kdscope.measures.result import COLUMNS, Result


def result(**fields):
    return Result("agreement", 0.8, None, 100, 0.71, 0.87, **fields)


def test_a_row_has_the_shared_columns_in_their_order():
    row = result().row(view="none", analysis="fidelity", a="t", b="s", layer="", split="test", epoch=3)
    assert tuple(row) == (*COLUMNS, "epoch")
    assert (row["value"], row["n"], row["definition"], row["epoch"]) == (0.8, 100, "kdscope", 3)
    assert math.isnan(row["floor"])
    assert result().with_frame(0.1, 0.9).row()["ceiling"] == 0.9


def test_a_frame_keeps_what_it_is_not_given():
    framed = result().with_frame(floor=0.5, control="shuffled images")
    assert (framed.floor, framed.ceiling, framed.control) == (0.5, None, "shuffled images")
    assert framed.with_frame(ceiling=0.9).floor == 0.5
    assert framed.with_frame(ceiling=0.9).control == "shuffled images"
    assert result().floor is None


@pytest.mark.parametrize(
    ("floor", "ceiling", "position"),
    [(0.5, 0.9, 0.75), (1.2, 0.4, 0.5), (0.8, 1.0, 0.0), (None, 0.9, None), (0.9, 0.9, None), (0.1, math.nan, None)],
)
def test_position(floor, ceiling, position):
    got = result().with_frame(floor, ceiling).position
    assert got == (position if position is None else pytest.approx(position))
