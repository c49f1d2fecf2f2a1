"""What holds of every figure, whoever draws it: it goes through the whole registry.

Each has a small table in `tables/`. Beside each figure lie its rows and its caption, the rows draw it again byte for
byte, and it fits one column of a page as well as two.
"""

from pathlib import Path

import pytest
from matplotlib.image import imread

from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES, draw
from kdscope.figures.style import TWO_COLUMNS, read_table
from kdscope.figures.widths import WIDTHS, fit

TABLES = Path(__file__).with_name("tables")
KINDS = ["csv", "pdf", "png", "txt"]
SLACK = 0.03  # inches
SETTLED = ("rethinkkd",)  # whose layout is made for its width


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Fewer pixels to write; a page is as wide in inches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdscope.figures.style.DPI", 40)
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The figures of each analysis, drawn once."""
    made = {}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp(name)
            made[name] = out, draw(TABLES / f"{name}.csv", out)
        return made[name]

    return of


def stems(files):
    return {path.stem for path in files if path.suffix == ".pdf"}


@pytest.mark.parametrize("name", FIGURES)
def test_beside_each_figure_lie_its_rows_and_its_caption(name, drawn):
    out, files = drawn(name)
    assert stems(files)
    table = read_table(TABLES / f"{name}.csv")
    for stem in stems(files):
        assert sorted(path.suffix[1:] for path in files if path.stem == stem) == KINDS
        assert b"/Type3" not in (out / f"{stem}.pdf").read_bytes()  # letters stay letters
        rows = read_table(out / f"{stem}.csv")
        assert set(rows["analysis"]) == {name}
        assert rows["figure"].nunique() == 1
        assert 0 < len(rows) <= len(table)
        assert rows["value"].dropna().isin(table["value"]).all()
        caption = (out / f"{stem}.txt").read_text(encoding="utf-8")
        assert len(caption.split()) > 5
        assert caption.rstrip()[-1] in ".;)"
        assert "nan" not in caption.lower().split()


@pytest.mark.parametrize("name", FIGURES)
def test_drawn_again_from_its_own_rows_byte_for_byte(name, drawn, tmp_path):
    out, files = drawn(name)
    for stem in stems(files):
        again = draw(out / f"{stem}.csv", tmp_path)
        assert stems(again) == {stem}
        for path in again:
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_in_one_column_or_in_two(name, width):
    for stem, figure in FIGURES[name](read_table(TABLES / f"{name}.csv")):
        if figure is None:
            continue
        made = fit(figure, width)
        made.draw_without_rendering()
        if name not in SETTLED and not stem.startswith("graph-heat"):
            assert made.get_figwidth() <= WIDTHS[width]
        assert made.get_figwidth() <= TWO_COLUMNS
        box = made.get_tightbbox()  # of all letters and lines, in inches
        assert box.x0 > -SLACK, stem
        assert box.y0 > -SLACK, stem
        assert box.x1 < made.get_figwidth() + SLACK, stem
        assert box.y1 < made.get_figheight() + SLACK, stem


def test_one_column_is_drawn_again_byte_for_byte_too(tmp_path):
    files = [path for path in draw(TABLES / "comparison.csv", tmp_path / "a", "one") if path.suffix[1:] in KINDS]
    again = draw(tmp_path / "a" / "comparison-differences.csv", tmp_path / "b", "one")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    assert imread(files[1]).shape[1] == pytest.approx(40 * WIDTHS["one"], abs=1)


def test_every_figure_has_a_table_here():
    assert {path.stem for path in TABLES.glob("*.csv")} == set(FIGURES)


def test_other_figures_stay_when_one_is_drawn_again(tmp_path):
    files = draw(TABLES / "diversity.csv", tmp_path)
    (tmp_path / "diversity-views.pdf").touch()
    draw(tmp_path / "diversity-networks.csv", tmp_path)
    files.append(tmp_path / "diversity-views.pdf")
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_another_width_is_one_line(tmp_path):
    with pytest.raises(KDScopeError, match="unknown width 'three'; nearest: "):
        draw(TABLES / "fidelity.csv", tmp_path, "three")
