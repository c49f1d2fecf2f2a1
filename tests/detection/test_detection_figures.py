"""Figures of detectors show the values of their table: what is drawn is held against its rows."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from kdscope.detection.measures.cards import label_of
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES
from kdscope.figures.detection import agreement, of_rows, over_iou
from kdscope.figures.detection_attention import REGIONS, errors, levels
from kdscope.figures.detection_outcomes import outcomes
from kdscope.figures.detection_rows import curves
from kdscope.figures.style import styled

STUDENTS = ("a", "b", "c", "d", "e", "f")
LAYERS = ("stride 8", "stride 16")


def table(**columns) -> pd.DataFrame:
    """Rows of pairs with their teacher, one seed each; values that no other row has."""
    made = pd.DataFrame(columns)
    rng, count = np.random.default_rng(0), len(made)
    plain = {"a": "teacher", "a_group": "teacher", "pair": "teacher-student", "split": "test", "seed": "0"}
    plain |= {"control": "floor: independent student; ceiling: seeds of the student", "head": math.nan, "seeds": 1}
    plain |= {"value": rng.permutation(np.linspace(0.4, 0.8, count))}
    for name, value in plain.items():
        if name not in made:
            made[name] = value
    for name, value in {"ci_low": -0.05, "ci_high": 0.1, "floor": -0.2, "ceiling": 0.15}.items():
        if name not in made:
            made[name] = made["value"] + value
    return made.assign(group=made["b"])


def estimates(axes) -> dict[float, tuple[float, float, float]]:
    """By height: value and both ends of its interval."""
    found = {}
    for each in axes.containers:
        if isinstance(each, ErrorbarContainer):
            marker, _, bars = each
            (x,), (y,) = marker.get_xdata(), marker.get_ydata()
            ends = bars[0].get_segments()[0][:, 0] if bars and len(bars[0].get_segments()) else (math.nan, math.nan)
            found[round(float(y), 6)] = (x, *ends)
    return found


def drawn(function, rows):
    with styled():
        figure = function(rows)
        figure.canvas.draw()
    return figure


def every(names, *others):
    """All combinations, as columns."""
    return dict(zip(names, zip(*_product(others), strict=True), strict=True))


def _product(parts):
    return [()] if not parts else [(first, *rest) for first in parts[0] for rest in _product(parts[1:])]


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        (agreement, every(("measure", "b"), ("agree-f1", "score-gap", "fidelity-ap"), STUDENTS[:3])),
        (of_rows, every(("measure", "part", "b"), ("row-kl",), ("foreground", "background"), STUDENTS[:3])),
    ],
    ids=["agreement", "rows"],
)
def test_a_panel_has_the_values_of_its_measure(function, columns):
    rows = table(**columns)
    figure = drawn(function, rows)
    panels = [axes for axes in figure.axes if axes.axison]
    order = [text.get_text() for text in panels[0].get_yticklabels()]
    keys = ["measure"] if function is agreement else ["measure", "part"]
    assert len(panels) == len(rows.groupby(keys))
    for axes, (_, own) in zip(panels, rows.groupby(keys, sort=False), strict=True):
        assert axes.get_xlabel().startswith(label_of(own["measure"].iloc[0]))
        shown = estimates(axes)
        for row in own.itertuples():
            assert shown[order.index(row.b)] == pytest.approx((row.value, row.ci_low, row.ci_high))


def test_no_band_goes_backwards():
    """Where two seeds are farther apart than the floor, from floor to ceiling is no way to go."""
    rows = table(measure=["agree-f1"] * 2 + ["score-gap"] * 2, b=["a", "b"] * 2)
    rows["floor"], rows["ceiling"] = [0.5, 0.6, 0.5, 0.4], [0.7, 0.4, 0.3, 0.6]
    figure = drawn(agreement, rows)
    order = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    for axes in figure.axes[:2]:
        assert [round(bar.get_y() + bar.get_height() / 2) for bar in axes.patches] == [order.index("a")]
        assert axes.patches[0].get_width() == pytest.approx(0.2)
        ticks = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
        assert len(ticks) == 4  # both floors and both ceilings, all the same


def test_over_iou_there_is_a_panel_for_each_student_with_its_floor_and_ceiling():
    rows = table(**every(("b", "iou"), STUDENTS[:5], ("0.5", "0.75", "0.95"))).assign(measure="agree-f1")
    rows.loc[rows["b"] != "a", ["value", "ci_low", "ci_high"]] += 0.3
    figure = drawn(over_iou, rows)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.axison}
    assert list(panels) == list(STUDENTS[:5])
    for name, axes in panels.items():
        own = rows[rows["b"] == name]
        for line, column in zip(axes.lines, ("value", "floor", "ceiling"), strict=True):
            assert line.get_xdata().tolist() == [0.5, 0.75, 0.95]
            assert line.get_ydata().tolist() == own[column].tolist()
            assert axes.get_ylim()[0] == 0
            assert axes.get_ylim()[1] > rows[["value", "ci_high", "ceiling"]].max().max()


def test_several_rows_of_one_place_are_not_averaged():
    rows = table(b=["a", "a"], layer=["stride 8"] * 2)
    with pytest.raises(KDScopeError, match="teacher-student teacher a: the table has several rows of one layer"):
        list(curves(rows, "layer"))


def test_every_student_has_its_map_of_errors():
    rows = table(**every(("measure", "b", "layer", "region"), ("error-density",), STUDENTS, LAYERS, REGIONS))
    shares = table(**every(("measure", "b", "layer", "region"), ("error-share",), STUDENTS, ("",), REGIONS))
    figure = drawn(errors, pd.concat([rows, shares]))
    maps = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.images}
    assert list(maps) == list(STUDENTS)
    for name, shown in maps.items():
        own = rows[rows["b"] == name].pivot_table(index="layer", columns="region", values="value")
        np.testing.assert_allclose(shown, own.loc[list(LAYERS), list(REGIONS)])
    bars = next(axes for axes in figure.axes if axes.get_xlabel() == "Share of the error (%)")
    widths = np.array([bar.get_width() for bar in bars.patches]).reshape(len(REGIONS), len(STUDENTS))
    own = shares.pivot_table(index="region", columns="b", values="value").loc[list(REGIONS), list(STUDENTS)]
    np.testing.assert_allclose(widths, 100 * own)


def test_over_levels_each_student_has_its_controls():
    taught = table(**every(("b", "layer"), STUDENTS[:2], LAYERS))
    others = table(**every(("b", "layer"), ("a (shuffled images)", "net (random init)"), LAYERS))
    others["pair"] = others["b"].map(
        {"a (shuffled images)": "floor:shuffled", "net (random init)": "floor:random-init"}
    )
    others["value"] /= 10
    rows = pd.concat([taught, others]).assign(architecture="net")
    figure = drawn(levels, rows)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == list(STUDENTS[:2])
    untrained = others.loc[others["pair"] == "floor:random-init", "value"].tolist()
    shuffled = others.loc[others["pair"] == "floor:shuffled", "value"].tolist()
    for name, beside in {"a": [untrained, shuffled], "b": [untrained]}.items():
        own = taught[taught["b"] == name]
        expected = [own[column].tolist() for column in ("value", "floor", "ceiling")] + beside
        assert [line.get_ydata().tolist() for line in panels[name].lines] == expected
        assert [text.get_text() for text in panels[name].get_xticklabels()] == ["8", "16"]


def test_shares_of_few_objects_are_grey_and_their_number_is_said():
    rows = table(measure=["transfer"] * 4, b=["a", "a", "b", "b"], area=["all", "small"] * 2)
    rows = rows.assign(iou="0.5", objects=[128.0, 16, 9, 0])
    rows.loc[3, ["value", "ci_low", "ci_high", "floor"]] = math.nan
    figure = drawn(outcomes, rows)
    axes = figure.axes[0]
    shown = estimates(axes)
    for row in rows.iloc[:2].itertuples():
        expected = (100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
        assert shown[row.Index] == pytest.approx(expected)
    assert shown[2][0] == pytest.approx(100 * rows.loc[2, "value"])
    assert shown[2][1] == shown[2][2]  # no interval
    assert 3 not in shown
    assert [text.get_text() for text in axes.texts] == ["128", "16", "9", "0"]
    assert axes.containers[2].lines[0].get_color() == "0.7"
    assert axes.containers[1].lines[0].get_color() != "0.7"


@pytest.mark.parametrize(
    ("definitions", "titles"),
    [
        (["fitted"], ["by regions, features fitted"]),
        (["kdscope"], ["by regions, features as trained"]),
        (["kdscope", "fitted"], ["by regions, features as trained", "by regions, features fitted"]),
    ],
)
def test_what_is_patched_in_is_said_of_the_definitions_that_are_drawn(definitions, titles):
    rows = table(**every(("measure", "definition", "part", "b"), ("ap-lost",), definitions, ("fg", "far"), ("a", "b")))
    rows = rows.assign(by="regions", view="none", dataset="scenes", confidence=0.95, n=10)
    with styled():
        figure = dict(FIGURES["detection-patch-in"](rows))["detection-patch-in-lost"]
    assert [axes.get_title() for axes in figure.axes if axes.axison and axes.get_title()] == titles
    caption = figure.told[1]
    for name, said in (("kdscope", "As trained: "), ("fitted", "Fitted: ")):
        assert (said in caption) == (name in definitions)
