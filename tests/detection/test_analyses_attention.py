"""Attention of detectors by its definitions and between its floors, on networks whose maps are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_up import BOXES, IMAGES, SIDE, STRIDES, every_object, network, subject

import kdscope.analyses.detection_attention as analysed
import kdscope.analyses.detection_attention_pixels as pixels
from kdscope.analyses.base import run_analysis
from kdscope.analyses.detection_attention_pixels import Look, Sight, by_image, pooled
from kdscope.analyses.detection_attention_truth import against, on_boxes
from kdscope.analyses.detection_maps import BOUNDS, Framing, Grid
from kdscope.detection.measures.regions import regions
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES
from kdscope.measures.controls import derangement

ALL = "image-size,guo2024-code"


def sight_of(boxes, sizes, frame, grids):
    """What `Sight` is, of boxes in the frame and grids [h, w] by stride."""
    sizes = np.asarray(sizes)
    of = {s: Grid(regions(boxes, [tuple(x) for x in sizes.tolist()], frame, grid, BOUNDS)) for s, grid in grids.items()}
    return Sight(of, Framing(boxes, sizes, frame))


def look(maps):
    return Look(maps, np.arange(len(next(iter(maps.values())))))


@pytest.fixture
def four_pixels():
    """Two images of 4x4 pixels, the box of the first is its left upper quarter, the second has none."""
    boxes = [np.array([[0.0, 0, 2, 2]]), np.zeros((0, 4))]
    return sight_of(boxes, [(4, 4)] * 2, (4, 4), {2: (2, 2)})


CORNER, TOP = [[1.0, 0], [0, 0]], [[1.0, 1], [0, 0]]  # at 4x4 pixels above 0.4 of their range: 4 pixels, and 8


def test_intersections_and_unions_are_pooled_over_a_batch(four_pixels):
    a, b = look({2: np.array([CORNER, CORNER])}), look({2: np.array([TOP, CORNER])})
    (found,) = pooled(four_pixels, [a, b]).values()
    assert (found.measure, found.definition) == ("threshold-iou", "guo2024-code")
    assert found.value == pytest.approx((4 + 4) / (8 + 4))  # the mean over images would be 3/4
    assert found.n == 2
    assert 0 <= found.ci_low < found.value < found.ci_high <= 1
    (own,) = pooled(four_pixels, [a]).values()
    assert (own.value, own.n) == (1, 1)  # of the image with an object
    (top,) = pooled(four_pixels, [b]).values()
    assert top.value == pytest.approx(4 / 8)


def test_a_batch_is_of_128_images(four_pixels, monkeypatch):
    monkeypatch.setattr(pixels, "GUO_BATCH", 1)
    a, b = look({2: np.array([CORNER, CORNER])}), look({2: np.array([TOP, CORNER])})
    (found,) = pooled(four_pixels, [a, b]).values()
    assert found.value == pytest.approx((4 / 8 + 4 / 4) / 2)


def test_padding_is_in_no_mask_and_in_no_range():
    # Of the second image only the upper half is there; its least value is 1, and the padding's is 0.
    sight = sight_of([np.array([[0.0, 0, 2, 2]])] * 2, [(4, 4), (2, 4)], (4, 4), {2: (2, 2)})
    a = look({2: np.array([CORNER, [[3.0, 1], [0, 0]]])})
    (found,) = pooled(sight, [a]).values()
    # Of the range from 1 to 3 it is 1, 0.75, 0.25, 0 along a row: two pixels of each of two rows, just the box.
    assert found.value == 1


def test_images_come_in_blocks_whose_size_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.random((5, 3, 2)) * 30
    boxes = list(np.concatenate([corner, corner + 4 + rng.random((5, 3, 2)) * 20], axis=2))
    sight = sight_of(boxes, [(48, 64), (40, 64), (48, 50), (48, 64), (33, 64)], (48, 64), {8: (6, 8), 16: (3, 4)})
    one = look({8: rng.random((5, 6, 8)), 16: rng.random((5, 3, 4))})
    whole = by_image(on_boxes, sight, "image-size", one)
    seen = []
    monkeypatch.setattr(pixels, "AT_ONCE", 2 * 48 * 64)
    monkeypatch.setattr(pixels, "painted", lambda b, *more: seen.append(len(b)) or _painted(b, *more))
    parts = by_image(on_boxes, sight, "image-size", one)
    assert seen == [2, 2, 1]
    assert whole.keys() == parts.keys()
    for cell in whole:
        np.testing.assert_array_equal(whole[cell], parts[cell])


_painted = pixels.painted


def test_another_image_is_one_of_the_same_size():
    sizes = np.array([[4, 6], [6, 4], [4, 6], [6, 4], [5, 5], [4, 6]])
    maps = np.arange(6.0)[:, None, None] * np.ones((1, 2, 2))
    other = look({8: maps}).shuffled(sizes)
    assert other.rows.tolist() == [0, 1, 2, 3, 5]  # the fifth is alone in its size
    whose = other.maps[8][:, 0, 0].astype(int)
    assert (whose != other.rows).all()
    assert (sizes[whose] == sizes[other.rows]).all()
    assert sorted(whose) == [0, 1, 2, 3, 5]


def test_an_image_without_a_map_is_left_out():
    sight = sight_of([np.array([[0.0, 0, 2, 2]])] * 3, [(8, 8)] * 3, (8, 8), {2: (4, 4)})
    some = Look({2: np.random.default_rng(0).random((2, 4, 4))}, np.array([0, 2]))
    for definition in ("kdscope", "image-size"):
        for result in against(some, sight, definition).values():
            if result.n:
                assert (result.n, np.isnan(result.per_sample).tolist()) == (2, [False, True, False])


def test_a_pixel_whose_cells_are_all_ignored_does_not_count():
    framing = Framing([np.array([[4.0, 4, 8, 8]])], np.array([[8, 8]]), (8, 8), ignored=[np.array([[0.0, 0, 1, 1]])])
    sight = Sight({4: framing.on((2, 2))}, framing)
    found = by_image(on_boxes, sight, "image-size", look({4: np.ones((1, 2, 2))}))
    # The crowd of one pixel takes the first cell, on which four pixels depend alone.
    energy = next(value for cell, value in found.items() if (cell.measure, cell.area) == ("energy-in-boxes", "all"))
    assert energy[0] == pytest.approx(16 / 60)


@pytest.fixture(scope="module")
def table():
    """A teacher that looks at objects in all images, a copy, and a student alone that does so in every third one."""
    teacher = subject("teacher", "teacher")
    copy, alone = subject("copy", "copy", 0, (teacher,)), subject("alone", "alone")
    caches = {name: network(every_object(), attention=3.0) for name in ("teacher", "copy")}
    caches["alone"] = network(every_object(), attention=3.0)
    for stride in STRIDES:
        caches["alone"].array(f"maps/attention/{stride}")[np.arange(IMAGES) % 3 > 0] = 1.0
    return _analysed([copy, alone], caches, ALL)


def _analysed(students, caches, definition):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
        patch.setattr("kdscope.analyses.detection_dense.pair_cache", _no_pair)
        report = run_analysis("detection-attention", students, definition=definition, temperature=1.0)
    return report.table.assign(layer=report.table["layer"].fillna(""))


def _no_pair(*given, **more):
    raise KDScopeError("there is none")


def one(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, f"{len(table)} rows"
    return table.iloc[0]


def interpolated(stride):
    """The attention of the teacher at image size and the boxes as pixels, by other means."""
    inside = torch.zeros(SIDE, SIDE, dtype=bool)
    for x1, y1, x2, y2 in BOXES.astype(int):
        inside[y1:y2, x1:x2] = True
    large = network(every_object(), attention=3.0).array(f"maps/attention/{stride}")[:1]
    a = torch.softmax(torch.from_numpy(large).double().flatten(), 0).view(1, 1, *large.shape[1:]) * large[0].size
    return F.interpolate(a, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0], inside


def test_scores_at_image_size_are_those_of_pixels(table):
    own = table[(table["definition"] == "image-size") & (table["pair"] == "truth") & (table["area"] == "all")]
    for stride in STRIDES:
        a, inside = interpolated(stride)
        row = one(own, measure="energy-in-boxes", layer=f"stride {stride}", b="copy")
        assert row.value == pytest.approx(float(a[inside].sum() / a.sum()), rel=1e-6)
        flat = one(own, measure="lift", layer=f"stride {stride}", b="copy")
        assert flat.value == pytest.approx(row.value / float(inside.double().mean()), rel=1e-6)
    # A third of the images are looked at as by the teacher, and the others evenly.
    row = one(own, measure="auroc", layer="stride 8", b="alone")
    best = one(own, measure="auroc", layer="stride 8", b="teacher").value
    assert row.value == pytest.approx(best / 3 + 0.5 * 2 / 3)


def test_a_copy_overlaps_wholly_by_every_definition(table):
    own = table[(table["pair"] == "teacher-student") & (table["area"] == "all")]
    for definition in ("kdscope", "image-size"):
        row = one(own, measure="attention-overlap", definition=definition, layer="stride 8")
        assert row.value == pytest.approx(1)
        assert row.gain == pytest.approx(1 - row.floor)
        assert row.control == "floor: independent student (alone)"
    guo = one(own, measure="threshold-iou", definition="guo2024-code", layer="stride 8")
    # Images that the student alone looks at evenly have an empty mask, the cut of a range of nothing.
    assert (guo.value, guo.floor) == (1, pytest.approx(1 / 3))
    assert np.isnan(guo.gain)  # a pooled number is no mean over images


def test_maps_of_other_images_are_a_floor_of_their_own(table):
    looks = np.arange(IMAGES) % 3 == 0
    there = looks[derangement(IMAGES, within=np.zeros(IMAGES, int))]
    own = table[(table["pair"] == "floor:shuffled") & (table["area"] == "all") & (table["definition"] == "kdscope")]
    row = one(own, measure="auroc", layer="stride 8", b="alone (shuffled images)")
    assert row.value == pytest.approx(there.mean() + 0.5 * (1 - there.mean()))
    assert (row.a, row.n) == ("true boxes", IMAGES)
    teacher = one(table, pair="truth", measure="auroc", layer="stride 8", b="teacher", area="all", definition="kdscope")
    assert (teacher.value, teacher.floor, teacher.gain) == (1, 1, 0)  # all its maps are one
    assert teacher.control == "floor: shuffled images"
    overlap = one(own, measure="attention-overlap", layer="stride 8", b="copy (shuffled images)")
    assert overlap.value == pytest.approx(1)


def test_definitions_stand_beside_the_sound_one_in_table_and_figure(table):
    assert list(dict.fromkeys(table["definition"])) == ["kdscope", "image-size", "guo2024-code"]
    drawn = dict(FIGURES["detection-attention"](table.assign(layer=table["layer"].replace("", np.nan))))
    figure = drawn["detection-attention-definitions"]
    assert set(figure.told[0]["definition"]) == {"kdscope", "image-size", "guo2024-code"}
    for stem in ("boxes", "levels"):
        assert set(drawn[f"detection-attention-{stem}"].told[0]["definition"]) == {"kdscope"}


def test_maps_are_made_once_for_all_definitions_and_once_more_where_they_are_normalised(monkeypatch):
    made, looks = [], analysed.looks_of

    def counted(*given):
        made.append(given[-1])
        return looks(*given)

    monkeypatch.setattr(analysed, "looks_of", counted)
    caches = {"lone": network(every_object(), attention=3.0)}
    asked = ["kdscope", "normalised", "image-size"]
    both = _analysed([subject("lone", "lone")], caches, "normalised,image-size")
    assert made == [False, True]
    assert list(dict.fromkeys(both["definition"])) == asked
    for name in asked:  # by itself each says the same
        alone = _analysed([subject("lone", "lone")], caches, name)
        values = [some.loc[some["definition"] == name, "value"].tolist() for some in (both, alone)]
        assert values[0] == values[1]


def test_an_unknown_definition_is_told():
    with pytest.raises(KDScopeError, match=r"unknown definition 'imagesize'.*image-size"):
        run_analysis("detection-attention", [subject("lone", "lone")], definition="imagesize")
