"""Detections written for other tools and read from them."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from kdscope.detection.measures.found import Found
from kdscope.detection.results import as_results, found_of, read_results, write_results
from kdscope.errors import KDScopeError

FOUND = [
    Found.of([[1.25, 2.5, 11.1, 20.3], [0, 0, 5, 5]], [0.75, 1 / 3], [2, 1]),
    Found.of([], [], []),
    Found.of([[3, 4, 5, 6]], [0.125], [1]),
]
IMAGES, CATEGORIES = [30, 10, 20], [3, 7]


def test_what_is_written_is_read_again(tmp_path):
    write_results(tmp_path / "results.json", FOUND, IMAGES, CATEGORIES)
    for a, b in zip(FOUND, read_results(tmp_path / "results.json", IMAGES, CATEGORIES), strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-12)
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_boxes_of_float32_come_back_to_the_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(50, 2, generator=generator) * 500
    boxes = torch.cat([corner, corner + torch.rand(50, 2, generator=generator) * 300], dim=1)
    found = found_of([{"boxes": boxes, "scores": torch.rand(50), "labels": torch.ones(50, dtype=torch.int64)}])
    write_results(tmp_path / "results.json", found, [1], [1])
    again = read_results(tmp_path / "results.json", [1], [1])[0]
    assert torch.equal(torch.from_numpy(again.boxes).float(), boxes)


def test_cocos_own_tools_read_it(tmp_path):
    write_results(tmp_path / "results.json", FOUND, IMAGES, CATEGORIES)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": i} for i in IMAGES], "categories": [{"id": k} for k in CATEGORIES]}
        truth.createIndex()
        said = truth.loadRes(str(tmp_path / "results.json"))
    assert [(record["image_id"], record["category_id"]) for record in said.dataset["annotations"]] == [
        (30, 7),
        (30, 3),
        (20, 3),
    ]
    assert said.dataset["annotations"][2]["bbox"] == [3, 4, 2, 2]


def test_no_detections_at_all(tmp_path):
    write_results(tmp_path / "results.json", [FOUND[1]] * 3, IMAGES, CATEGORIES)
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert [len(some.scores) for some in read_results(tmp_path / "results.json", IMAGES, CATEGORIES)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 40}, "detection number 2 in the file has image_id 40, and there is no such image; nearest: 10"),
        ({"category_id": 1}, "has category_id 1, and there is no such category; nearest: 3, 7"),
        ({"bbox": [1, 2, None, 4]}, r"detection number 2 in the file of image 30 has bbox \[1, 2, None, 4\]"),
        ({"score": "0.5"}, "detection number 2 in the file has score '0.5', not a number"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, said):
    records = as_results(FOUND, IMAGES, CATEGORIES)
    records[1] |= change
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records))
    with pytest.raises(KDScopeError, match=said) as caught:
        read_results(path, IMAGES, CATEGORIES)
    assert str(path) in str(caught.value)


def test_other_mistakes(tmp_path):
    with pytest.raises(KDScopeError, match="detections of 3 images and 2 image ids"):
        as_results(FOUND, IMAGES[:2], CATEGORIES)
    with pytest.raises(KDScopeError, match="image 30 has a detection of label 2; labels are 1 to 1"):
        as_results(FOUND, IMAGES, CATEGORIES[:1])
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(KDScopeError, match="is not a list of detections, as COCO's results are, but a dict"):
        read_results(tmp_path / "truth.json", IMAGES, CATEGORIES)
