"""The floor of other images, in closed form: who finds something in every second image agrees by chance alone."""

import numpy as np
import pytest
from made_up import IMAGES, every_object, half_of_the_images, network, subject

from kdscope.analyses.base import run_analysis
from kdscope.analyses.detection_agreement import exchanged
from kdscope.detection.measures.cards import CARDS
from kdscope.detection.stored import found_in
from kdscope.errors import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.controls import derangement


def test_each_image_is_exchanged_for_another_one():
    found = found_in(network(np.arange(IMAGES)[:, None] % 4 > np.arange(3)))
    moved = exchanged(found)
    assert sorted(map(id, moved)) == sorted(map(id, found))
    assert not any(a is b for a, b in zip(found, moved, strict=True))
    assert exchanged(found[:1]) == found[:1]


@pytest.fixture(scope="module")
def tables():
    """Of the analyses that need no networks."""
    teacher = subject("teacher", "teacher")
    students = [subject("copy", "copy", 0, (teacher,)), subject("alone", "alone")]
    caches = {"teacher": network(half_of_the_images()), "copy": network(half_of_the_images())}
    caches["alone"] = network(every_object())

    def no_rows(*_, **__):
        raise KDScopeError("no rows")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
        patch.setattr("kdscope.analyses.detection_dense.pair_cache", no_rows)
        names = ("detection", "detection-outcomes", "detection-attention")
        return {name: run_analysis(name, students).table for name in names}


@pytest.fixture(scope="module")
def table(tables):
    table = tables["detection"]
    return table[(table["seed"] != "all") & (table["pair"] != "truth")].set_index(["pair", "measure", "iou"])


def test_every_number_of_a_table_has_a_card_of_its_analysis(tables):
    for name, table in tables.items():
        for measure in table["measure"].unique():
            if measure not in MEASURES:
                assert CARDS[measure].family == name
                low, high = CARDS[measure].range
                numbers = table.loc[table["measure"] == measure, ["value", "ci_low", "ci_high"]]
                assert (numbers.isna() | ((numbers >= low) & (numbers <= high))).all(axis=None)


def test_shuffled_images_agree_as_often_as_both_are_of_one_kind(table):
    """Both empty or both full: where another image of the same kind came in its place."""
    same = np.arange(IMAGES) % 2 == derangement(IMAGES) % 2
    assert 0 < same.mean() < 1
    for measure in ("agree-f1", "agree-f1-any-class"):
        assert table.loc[("teacher-student", measure, "0.5"), "value"] == 1
        assert table.loc[("floor:shuffled", measure, "0.5"), "value"] == pytest.approx(same.mean())
    # Of the pairs that there are, all are equal: the same objects are in every image.
    assert table.loc[("floor:shuffled", "label-agreement", "0.5"), "value"] == 1
    assert table.loc[("floor:shuffled", "box-iou", "0.5"), "value"] == pytest.approx(1)


def test_fidelity_of_shuffled_images_is_the_precision_at_the_share_that_is_there(table):
    """Scores are equal: right where an image of its kind came in its place, wrong elsewhere, in the order of images."""
    there = derangement(IMAGES) % 2 == 0  # where something is found at all
    right = (np.arange(IMAGES) % 2 == 0)[there]

    def precision(each: int) -> float:
        """Of a class with so many objects in an image, read at 101 recalls."""
        true = np.repeat(right, each).cumsum()
        falling = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
        places = np.searchsorted(true / (each * IMAGES / 2), np.linspace(0, 1, 101), side="left")
        return np.append(falling, 0.0)[places].mean()

    value = table.loc[("floor:shuffled", "fidelity-ap", "0.5:0.95"), "value"]
    assert value == pytest.approx((precision(1) + precision(2)) / 2)
    assert table.loc[("teacher-student", "fidelity-ap", "0.5:0.95"), "value"] == pytest.approx(1)
