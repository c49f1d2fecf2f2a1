"""The one style: it does not leak, and names stay apart."""

import matplotlib as mpl

from kdscope.figures.style import brief, colours, legend_below, marks, panels, save, short_names, styled


def test_the_style_ends_with_its_block():
    before = dict(mpl.rcParams)
    with styled():
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert dict(mpl.rcParams) == before


def test_colour_and_marker_tell_thirty_names_apart():
    names = [f"n{k}" for k in range(30)]
    looks = {(colours(names)[name], marks(names)[name]) for name in names}
    assert len(looks) == 30


def test_short_names_are_unique():
    names = [f"{'x' * 40}{k}{'y' * 40}" for k in range(12)]
    short = short_names(names, 20)
    assert len(set(short.values())) == 12
    assert brief("short", 20) == "short"


def test_a_legend_of_many_long_names_stays_inside(tmp_path):
    with styled():
        figure, grid = panels(1, 1, 7.2, 5)
        handles = [grid[0][0].plot([0, 1], label=f"a rather long name of number {k}")[0] for k in range(12)]
        legend_below(figure, handles)
        save(figure, tmp_path, "legend")
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
