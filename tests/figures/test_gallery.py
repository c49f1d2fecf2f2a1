"""Pictures beside a table: chosen by a rule, kept as they are, and drawn cell by cell."""

from pathlib import Path

import numpy as np
import pytest

from kdscope.analyses.gallery import at_percentiles
from kdscope.errors import KDScopeError
from kdscope.figures import draw
from kdscope.figures.gallery import _edges, gallery, headings
from kdscope.figures.pictures import Pictures, read_pictures, write_pictures
from kdscope.figures.style import read_table


def some(images=True, masks=True):
    rng = np.random.default_rng(0)
    true = np.zeros((2, 8, 8), bool)
    true[:, 2:5, 3:7] = True
    return Pictures(
        "cam, layer3", "images at the 10, 90th percentile",
        rng.integers(0, 256, (2, 3, 8, 8) if images else (2, 3, 0, 0)).astype(np.uint8), ("disc, no. 3", "star, no. 7"),
        {"teacher": rng.normal(size=(2, 4, 4)).astype(np.float32), "student": rng.random((2, 2, 2)).astype(np.float32)},
        true if masks else np.zeros((2, 0, 0), bool),
        {"overlap": np.array([[np.nan, 0.25], [np.nan, 0.5]])},
    )  # fmt: skip


def test_images_at_percentiles_of_what_is_known():
    values = np.random.default_rng(0).permutation(101).astype(float)
    values[values > 90] = np.nan
    assert values[at_percentiles(values)].tolist() == [9, 27, 45, 63, 81]
    assert len(at_percentiles(np.array([np.nan]))) == 0
    assert at_percentiles(np.array([0.5, np.nan])).tolist() == [0]


def test_what_is_written_is_read_and_again_the_same_bytes(tmp_path):
    for k in range(2):
        write_pictures(some(), tmp_path / f"{k}.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()
    found, expected = read_pictures(tmp_path / "0.npz"), some()
    assert (found.title, found.rule, found.rows) == (expected.title, expected.rule, expected.rows)
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.masks, expected.masks)
    assert list(found.maps) == list(expected.maps)
    for name, maps in expected.maps.items():
        assert np.array_equal(found.maps[name], maps)
    assert np.array_equal(found.values["overlap"], expected.values["overlap"], equal_nan=True)
    (tmp_path / "bad.npz").write_bytes(b"no pictures")
    with pytest.raises(KDScopeError, match="holds no pictures"):
        read_pictures(tmp_path / "bad.npz")


def test_cells_are_shown_as_they_are_with_a_line_between_them():
    pictures = some()
    axes = gallery(pictures).axes
    assert len(axes) == 6
    shown = [[np.asarray(one.images[0].get_array()) for one in axes[row : row + 3]] for row in (0, 3)]
    assert all(one.images[0].get_interpolation() == "nearest" for one in axes)
    for r, line in enumerate(shown):
        assert np.array_equal(line[0], pictures.images[r].transpose(1, 2, 0))
        assert np.array_equal(line[1], pictures.maps["teacher"][r])
        assert np.array_equal(line[2], pictures.maps["student"][r])
    limits = axes[1].images[0].get_clim()
    assert limits[0] == -limits[1]  # white is zero
    assert axes[2].images[0].get_clim()[0] < 0  # in all maps, where one has a sign
    outline = 4  # two colours, across and down
    assert len(axes[1].lines) == 3 + 3 + outline
    assert len(axes[2].lines) == 1 + 1 + outline
    assert axes[2].get_xlabel() == "overlap 0.25"
    assert axes[1].get_xlabel() == ""
    assert len(gallery(some(images=False, masks=False)).axes) == 4


def test_masks_lie_over_the_grey_image_and_are_the_positive_part():
    pictures = some()
    axes = gallery(pictures, over=True).axes
    assert len(axes) == 6
    for r, line in enumerate((axes[:3], axes[3:])):
        assert np.array_equal(np.asarray(line[0].images[0].get_array()), pictures.images[r].transpose(1, 2, 0))
        for one, maps in zip(line[1:], pictures.maps.values(), strict=True):
            grey, red = one.images
            assert grey.get_clim() == (0, 255)
            assert np.allclose(grey.get_array(), pictures.images[r].mean(0))
            expected = maps[r].clip(min=0) / maps[r].max()
            assert np.allclose(np.asarray(red.get_array())[..., 3], 0.85 * expected)
            assert grey.get_extent() == red.get_extent()
            assert red.get_interpolation() == "nearest"
    assert axes[2].get_xlabel() == "overlap 0.25"


def test_the_outline_runs_along_the_edges_of_the_mask():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    across, down = (np.array(each).reshape(-1, 3, 2)[:, :2] for each in _edges(mask))
    lines = {tuple(map(tuple, line)) for line in (*across, *down)}
    square = {((y, x), (y, x + 1)) for y in (1, 3) for x in (2, 3)} | {
        ((y, x), (y + 1, x)) for x in (2, 4) for y in (1, 2)
    }
    assert lines == {tuple(tuple(map(float, point)) for point in line) for line in square}


def test_headings_keep_the_seed_and_break_after_separators():
    names = ["teacher-weak-seed0", "kd-seed0", "kd-seed1"]
    assert [headings(names, 14)[name].replace("\n", "") for name in names] == names
    assert headings(names, 8)["teacher-weak-seed0"].split("\n") == ["teacher-", "weak-", "seed0"]
    long = [f"{'x' * 60}{k}" for k in range(3)]
    found = headings(long, 8)
    assert len(set(found.values())) == 3
    assert all(len(line) <= 8 for text in found.values() for line in text.split("\n"))


@pytest.mark.parametrize("width", ["one", "two"])
def test_the_rows_beside_a_gallery_draw_it_again_in_another_folder(width, tmp_path, monkeypatch):
    monkeypatch.setattr("kdscope.figures.style.DPI", 40)
    table = read_table(Path(__file__).with_name("tables") / "causal.csv").assign(pictures=None)
    table["pictures"] = table["pictures"].astype(object)
    table.loc[0, "pictures"] = "causal-gallery.npz"
    write_pictures(some(), tmp_path / "causal-gallery.npz")
    table.assign(figure="causal-masks").to_csv(tmp_path / "causal.csv", index=False)
    files = draw(tmp_path / "causal.csv", tmp_path / "there", width)
    assert {path.stem for path in files} == {"causal-masks"}
    again = draw(tmp_path / "there" / "causal-masks.csv", tmp_path / "again", width)
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    assert "images at the 10, 90th percentile" in (tmp_path / "there" / "causal-masks.txt").read_text()
