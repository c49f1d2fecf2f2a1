"""COCO, VOC and VisDrone folders: what their files say is what the dataset says, and what is wrong in them is named."""

import json
import os

import pytest
import torch
from trees import GOOD, coco_content, coco_tree, pictures, visdrone_tree, voc_tree, voc_xml

from kdscope.detection.data import conversion, load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.errors import KDScopeError
from kdscope.files import write_json

NAMES = ["a.png", "b.png", "c.png"]


def test_coco_boxes_labels_crowds_and_areas(tmp_path):
    data = load(f"coco:{coco_tree(tmp_path)}")
    assert data.classes == ("cat", "dog")  # by category id, 3 and 7
    assert data.category_ids == (3, 7)
    assert data.train.image_ids.tolist() == [10, 11, 12]
    first, second, third = data.train
    assert first.boxes.tolist() == [[0, 0, 30, 20]]
    assert second.boxes.tolist() == [[2, 3, 12, 8], [1.5, 2, 5.5, 6]]
    assert second.labels.tolist() == [2, 1]
    assert second.crowd.tolist() == [False, True]
    assert second.area.tolist() == [31.5, 16]  # the mask's where it is said
    assert third.boxes.shape == (0, 4)
    assert data.notes == (f"{tmp_path}/annotations/instances_train2017.json: 1 of 3 images have no objects",)
    assert len(data.test) == 1
    shown = next(DetectionBatches(data.train, batch_size=3, workers=0).epoch())
    assert [len(target["boxes"]) for target in shown.targets] == [1, 1, 0]
    assert torch.equal((shown.images[1] * 255).round().to(torch.uint8), second.image)


def test_coco_labels_can_be_the_files_own_ids(tmp_path):
    data = load(f"coco-ids:{coco_tree(tmp_path)}")
    assert data.classes == ("N/A", "N/A", "cat", "N/A", "N/A", "N/A", "dog")
    assert data.train[1].labels.tolist() == [7, 3]
    zero = [
        coco_content(some, [(10, 0, [1, 1, 5, 5], {})], categories=((0, "dog"), (1, "cat")))
        for some in (NAMES, ["d.png"])
    ]
    (tmp_path / "zero").mkdir()
    root = coco_tree(tmp_path / "zero", *zero)
    with pytest.raises(KDScopeError, match="category ids from 0 to 1 cannot be labels"):
        load(f"coco-ids:{root}")
    assert load(f"coco:{root}").category_ids == (0, 1)


def test_a_plain_layout(tmp_path):
    for part, names in {"train": NAMES, "val": ["d.png"]}.items():
        pictures(tmp_path / "images" / part, names)
        (tmp_path / f"{part}.json").write_text(json.dumps(coco_content(names, GOOD[1:2])))
    assert load(f"coco:{tmp_path}").train[0].labels.tolist() == [1]


def test_boxes_beyond_the_image_are_cut_and_flat_ones_left_out_and_both_are_said(tmp_path, caplog):
    caplog.set_level("INFO", "kdscope")
    annotations = [
        (10, 3, [-5, 10, 10, 30], {}),  # cut to (0, 10, 5, 20)
        (10, 3, [4, 4, 0, 5], {}),  # no width
        (10, 7, [4, 4, 5, -1], {}),  # a negative height
        (11, 7, [40, 4, 5, 5], {}),  # outside
        (11, 7, [29.5, 19.5, 1, 1], {}),  # beyond by rounding alone
    ]
    data = load(f"coco:{coco_tree(tmp_path, coco_content(NAMES, annotations))}")
    assert data.train[0].boxes.tolist() == [[0, 10, 5, 20]]
    assert data.train[0].area.tolist() == [50]
    assert data.train[1].boxes.tolist() == [[29.5, 19.5, 30, 20]]
    path = tmp_path / "annotations" / "instances_train2017.json"
    assert data.notes == (
        f"{path}: 3 boxes without an area inside their image left out, the first annotation 101 of a.png: [4, 4, 0, 5]",
        f"{path}: 1 box cut at the edge of their image, the first annotation 100 of a.png: [-5, 10, 10, 30]",
        f"{path}: 1 of 3 images have no objects",
    )
    load(f"coco:{tmp_path}")
    assert caplog.messages == [*data.notes]  # once


def without(content, part, row, field):
    del content[part][row][field]


def changed(content, part, row, field, value):
    content[part][row][field] = value


BAD = {
    "annotation 101 has no 'bbox'": lambda c: without(c, "annotations", 1, "bbox"),
    "annotation number 2 in the file has no 'image_id'": lambda c: (
        without(c, "annotations", 1, "image_id"),
        without(c, "annotations", 1, "id"),
    ),
    r"annotation 101 of image 10 has bbox \[1, 2, 3\], not four numbers": lambda c: changed(
        c, "annotations", 1, "bbox", [1, 2, 3]
    ),
    r"annotation 101 of image 10 has bbox \[1, 2, nan, 4\]": lambda c: changed(
        c, "annotations", 1, "bbox", [1, 2, float("nan"), 4]
    ),
    r"annotation 101 of image 10 has bbox \['1', 2, 3, 4\]": lambda c: changed(
        c, "annotations", 1, "bbox", ["1", 2, 3, 4]
    ),
    "annotation 102 has category_id 9, and there is no such category; nearest: 3, 7": lambda c: changed(
        c, "annotations", 2, "category_id", 9
    ),
    "annotation 102 has category_id 'dog', not a whole number": lambda c: changed(
        c, "annotations", 2, "category_id", "dog"
    ),
    "annotation 100 has image_id 13, and there is no such image; nearest: 10, 11, 12": lambda c: changed(
        c, "annotations", 0, "image_id", 13
    ),
    "image 11 has no 'width'": lambda c: without(c, "images", 1, "width"),
    "image 11 has height 0, not a whole number of at least 1": lambda c: changed(c, "images", 1, "height", 0),
    "image 11 has file_name 3, not a path": lambda c: changed(c, "images", 1, "file_name", 3),
    r"\(image 11\) names bb.png, which is not in .*train2017; nearest there: b.png": lambda c: changed(
        c, "images", 1, "file_name", "bb.png"
    ),
    "two images have the id 10": lambda c: changed(c, "images", 1, "id", 10),
    "annotation 100 has iscrowd '0', not 0 or 1": lambda c: changed(c, "annotations", 0, "iscrowd", "0"),
    "has no box to learn from or to find: 0 annotations": lambda c: c.update(annotations=[]),
    "to find: 1 annotations, 1 of crowds": lambda c: c.update(annotations=c["annotations"][2:]),
    "has no images": lambda c: c.update(images=[], annotations=[]),
    "has no categories": lambda c: c.update(categories=[]),
    "two categories have one id: 3, 3": lambda c: changed(c, "categories", 0, "id", 3),
    "is not COCO JSON of objects: it has no list of categories": lambda c: c.pop("categories"),
    "differ in categories: 3 'cat', 3 'lion'": lambda c: changed(c, "categories", 1, "name", "lion"),
}


@pytest.mark.parametrize("said", BAD)
def test_what_is_wrong_in_a_coco_file_is_named(tmp_path, said):
    content = coco_content(NAMES, GOOD)
    BAD[said](content)
    root = coco_tree(tmp_path, content)
    with pytest.raises(KDScopeError, match=said) as caught:
        load(f"coco:{root}")
    assert "instances_train2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}]", "is a list, as COCO writes detections"),
        ('"x"', "is a str"),
        ("{", "is not a JSON file"),
        ("{}", r"no list of images \(but nothing\)"),
    ],
)
def test_what_is_not_coco_json(tmp_path, text, said):
    root = coco_tree(tmp_path)
    (root / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(KDScopeError, match=f"instances_val2017.json.*{said}"):
        load(f"coco:{root}")


def test_folders_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(KDScopeError, match="has no annotations of train"):
        load(f"coco:{tmp_path}")
    with pytest.raises(KDScopeError, match="no folder Annotations"):
        load(f"voc:{tmp_path}")
    with pytest.raises(KDScopeError, match="no folder VisDrone2019-DET-train; there: no folders"):
        load(f"visdrone:{tmp_path}")
    with pytest.raises(KDScopeError, match="is not a folder"):
        load(f"coco:{tmp_path}/nothing")
    root = coco_tree(tmp_path)
    (root / "train.json").write_text("{}")
    with pytest.raises(KDScopeError, match=r"has instances_train2017.json and train.json; keep the one"):
        load(f"coco:{root}")


@pytest.mark.parametrize("broken", [False, True])
def test_an_image_of_another_size_is_found_before_anything_is_decoded(tmp_path, broken):
    content = coco_content(NAMES, GOOD)
    root = coco_tree(tmp_path, content | {"images": [*content["images"][:2], content["images"][2] | {"width": 60}]})
    said = r"train2017/c.png has 30 x 20 pixels and its annotations are for 60 x 20$"
    if broken:
        (root / "train2017" / "c.png").write_bytes(b"no image")
        said = r"train2017/c.png is not an image that can be read: "
    with pytest.raises(KDScopeError, match=said):
        load(f"coco:{root}")


def test_voc_counts_pixels_from_one(tmp_path):
    data = load(f"voc:{voc_tree(tmp_path)}")
    assert data.classes == ("cat", "dog")
    first, second = data.train
    assert first.boxes.tolist() == [[0, 0, 30, 20], [2, 3, 10, 12]]
    assert first.labels.tolist() == [2, 1]
    assert first.crowd.tolist() == [False, True]  # difficult
    assert second.boxes.shape == (0, 4)
    assert data.test[0].boxes.tolist() == [[4, 5, 7, 8]]
    assert json.loads((tmp_path / "trainval.coco.json").read_text())["annotations"][1]["bbox"] == [2, 3, 8, 9]


def test_voc_without_labels_of_test_takes_val(tmp_path):
    root = voc_tree(tmp_path, parts=("train", "val"))
    (root / "ImageSets" / "Main" / "test.txt").write_text("000009\n")  # as VOC 2012's, whose labels are not public
    assert [len(data) for data in (load(f"voc:{root}").train, load(f"voc:{root}").test)] == [2, 1]


def test_a_folder_above_that_of_voc(tmp_path):
    (tmp_path / "VOC2007").mkdir()
    voc_tree(tmp_path / "VOC2007")
    with pytest.raises(KDScopeError, match=r"did you mean .*/VOC2007\?"):
        load(f"voc:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("000002", "<annotation>", r"000002.xml is not XML"),
        ("000002", "<annotation></annotation>", "000002.xml: the image has size/width None, not a number"),
        ("000002", voc_xml([("dog", 1, "x", 3, 4, 0)]), "000002.xml: object 1 has bndbox/ymin 'x', not a number"),
        ("000002", voc_xml([("dog", 1, "nan", 3, 4, 0)]), "object 1 has bndbox/ymin 'nan', not a number"),
        ("000002", voc_xml([("", 1, 2, 3, 4, 0)]), "object 1 has no name"),
        ("000002", voc_xml([], size=(0, 5)), "000002.xml: the image is 0 x 5 pixels"),
        ("000003", voc_xml([("cow", 1, 2, 3, 4, 0)]), "000003.xml has the class 'cow'; known: cat, dog"),
    ],
)
def test_what_is_wrong_in_a_voc_file_is_named(tmp_path, name, text, said):
    root = voc_tree(tmp_path)
    (root / "Annotations" / f"{name}.xml").write_text(text)
    with pytest.raises(KDScopeError, match=said):
        load(f"voc:{root}")


def test_missing_files_of_voc(tmp_path):
    root = voc_tree(tmp_path)
    (root / "JPEGImages" / "000003.jpg").unlink()
    with pytest.raises(KDScopeError, match=r"000003.xml has no image 000003.jpg"):
        load(f"voc:{root}")
    (root / "Annotations" / "000001.xml").unlink()
    with pytest.raises(KDScopeError, match=r"trainval.txt names 000001, and .*000001.xml is missing"):
        load(f"voc:{root}")


def test_visdrone_ignores_what_is_not_scored(tmp_path):
    data = load(f"visdrone:{visdrone_tree(tmp_path)}")
    assert len(data.classes) == 10
    first, second = data.train
    assert first.boxes[:2].tolist() == [[1, 2, 11, 7], [3, 3, 7, 7]]
    assert first.labels[:2].tolist() == [4, 1]
    assert first.crowd.tolist() == [False] + [True] * 21  # score 0, then a region and an "other" in each class
    assert first.labels[2:].tolist() == [*range(1, 11), *range(1, 11)]
    assert first.boxes[2:].unique(dim=0).tolist() == [[0, 0, 5, 5], [20, 10, 25, 15]]
    assert second.boxes.shape == (0, 4)
    assert data.test[0].labels.tolist() == [10]
    shown = next(DetectionBatches(data.train, batch_size=2, workers=0).epoch())
    assert [len(target["labels"]) for target in shown.targets] == [1, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2,3,4,1,4,0\n", "0001.txt, line 1: '1,2,3,4,1,4,0' is not left,top,width"),
        ("\n1,2,3,4,1,12,0,0\n", "0001.txt, line 2: category 12 is not 0 to 11"),
        ("a,2,3,4,1,1,0,0", "line 1: 'a,2,3,4,1,1,0,0' is not left"),
    ],
)
def test_what_is_wrong_in_a_visdrone_file_is_named(tmp_path, text, said):
    root = visdrone_tree(tmp_path)
    (root / "VisDrone2019-DET-train" / "annotations" / "0001.txt").write_text(text)
    with pytest.raises(KDScopeError, match=said):
        load(f"visdrone:{root}")


def test_missing_files_of_visdrone(tmp_path):
    root = visdrone_tree(tmp_path)
    (root / "VisDrone2019-DET-train" / "annotations" / "0002.txt").unlink()
    with pytest.raises(KDScopeError, match=r"0002.txt is missing, and .*0002.jpg is there"):
        load(f"visdrone:{root}")


def test_a_conversion_is_made_once_and_again_when_its_source_has_changed(tmp_path):
    root = visdrone_tree(tmp_path / "data")
    made = root / "VisDrone2019-DET-train.coco.json"
    before = load(f"visdrone:{root}")
    stamp = made.stat().st_mtime_ns
    assert load(f"visdrone:{root}").fingerprint == before.fingerprint
    assert made.stat().st_mtime_ns == stamp
    row = root / "VisDrone2019-DET-train" / "annotations" / "0002.txt"
    row.write_text("1,1,5,5,1,1,0,0\n")
    os.utime(row, ns=(stamp, stamp + 10**9))
    assert load(f"visdrone:{root}").train[1].labels.tolist() == [1]
    assert made.stat().st_mtime_ns != stamp


def test_a_conversion_can_be_kept_elsewhere(tmp_path):
    root = visdrone_tree(tmp_path / "data")
    load(f"visdrone:{root}", cache_dir=tmp_path / "kept")
    assert len(list((tmp_path / "kept").rglob("*.coco.json"))) == 2
    assert not list(root.glob("*.json"))


def test_a_conversion_beside_a_folder_that_cannot_be_written_goes_to_the_cache(tmp_path, monkeypatch):
    root, written = visdrone_tree(tmp_path / "data"), []

    def refusing(path, content):
        if path.is_relative_to(root):
            raise KDScopeError(f"{path}: Read-only file system")
        written.append(path)
        write_json(path, content)

    monkeypatch.setattr(conversion, "write_json", refusing)
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "cache"))
    first = load(f"visdrone:{root}")
    assert not list(root.glob("*.json"))
    assert len(written) == 2
    assert all(path.is_relative_to(tmp_path / "cache" / "detection") for path in written)
    assert load(f"visdrone:{root}").fingerprint == first.fingerprint
    assert len(written) == 2  # it was found there
    monkeypatch.setenv("KDSCOPE_CACHE", str(root / "cache"))
    with pytest.raises(KDScopeError, match=r"Read-only file system; the converted .*: set KDSCOPE_CACHE to one$"):
        load(f"visdrone:{root}")


@pytest.mark.parametrize("theirs", ['{"mine": 1}', '{"info": ["x"]}', '{"info": {"made_from": 1}}', "not JSON", "[]"])
def test_a_file_of_the_users_own_is_not_written_over(tmp_path, monkeypatch, theirs):
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "cache"))
    root = voc_tree(tmp_path / "data")
    (root / "trainval.coco.json").write_text(theirs)
    assert load(f"voc:{root}").classes == ("cat", "dog")
    assert (root / "trainval.coco.json").read_text() == theirs
    assert [path.name for path in (tmp_path / "cache").rglob("*.json")] == ["trainval.coco.json"]
    next((tmp_path / "cache").rglob("*.json")).write_text(theirs)
    with pytest.raises(KDScopeError, match=r"trainval.coco.json is there, and was not made by kdscope; .*CACHE"):
        load(f"voc:{root}")


def test_a_part_held_out_of_train(tmp_path):
    data = load(f"coco:{coco_tree(tmp_path)}", validation=0.34, seed=1)
    assert sorted(data.train.image_ids.tolist() + data.validation.image_ids.tolist()) == [10, 11, 12]
    assert len(data.validation) == 1
    whole = {record.image_id: record for record in load(f"coco:{tmp_path}").train}
    for record in (*data.train, *data.validation):
        assert torch.equal(record.boxes, whole[record.image_id].boxes)
        assert torch.equal(record.image, whole[record.image_id].image)
    with pytest.raises(KDScopeError, match=r"validation=0.1 takes 0 of the 3"):
        load(f"coco:{tmp_path}", validation=0.1)
