"""AP equals COCO's own tools, the closed forms, and that of the matcher whose matches the analyses read."""

import contextlib
import io
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdscope.detection.average_precision import COCO_AREAS, COCO_IOU, RELATIVE_AREAS, Areas, average_precision
from kdscope.detection.data.record import Objects
from kdscope.detection.matching import ALL, average_precisions, match
from kdscope.detection.measures.found import Found
from kdscope.errors import KDScopeError

BOX = [0.0, 0.0, 100.0, 100.0]
AWAY = [200.0, 200.0, 260.0, 240.0]


def random_set(seed, images=12, classes=4, size=300):
    """Objects, a quarter of them crowds, and detections: shifted objects, doubles and inventions, some scores equal."""
    rng = np.random.default_rng(seed)

    def random_boxes(count):
        corner = rng.uniform(0, size * 0.7, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(5, 150, (count, 2))], axis=1).round(rng.integers(0, 3))

    boxes, labels, crowd, found = [], [], [], []
    for image in range(images):
        count = 0 if image == 3 else int(rng.integers(0, 9))
        truth = random_boxes(count).astype(np.float32)
        boxes.append(torch.from_numpy(truth))
        labels.append(rng.integers(1, classes, count))  # the last class has no object
        crowd.append(rng.random(count) < 0.25)
        again = rng.integers(0, max(count, 1), 2 * count)
        near = truth.astype(np.float64)[again] + rng.normal(0, rng.choice([0, 2, 10]), (len(again), 4))
        own = np.concatenate([near, random_boxes(int(rng.integers(0, 6)))])
        own[:, 2:] = np.maximum(own[:, 2:], own[:, :2] + 1)
        given = np.concatenate([labels[-1][again], rng.integers(1, classes + 1, len(own) - len(again))])
        given = np.where(rng.random(len(given)) < 0.1, rng.integers(1, classes + 1, len(given)), given)
        found.append(Found.of(own, rng.random(len(own)).round(rng.integers(1, 5)), given))
    return Objects.of(boxes, labels, crowd), found, classes


def reference(objects, found, classes, caps, areas):
    """COCO's own tools, from records made here: (precision [T, R, K, A, M], recall [T, K, A, M])."""
    annotations, results = [], []
    for image in range(len(objects)):
        for row in range(int(objects.offsets[image]), int(objects.offsets[image + 1])):
            x1, y1, x2, y2 = objects.boxes[row].tolist()
            annotations.append(
                {
                    "id": row + 1,
                    "image_id": image,
                    "category_id": int(objects.labels[row]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(objects.area[row]),
                    "iscrowd": int(objects.crowd[row]),
                }
            )
        for (x1, y1, x2, y2), score, label in zip(*(part.tolist() for part in found[image]), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(objects))],
            "annotations": annotations,
            "categories": [{"id": k + 1} for k in range(classes)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = list(caps)
        evaluation.params.areaRng = [[0, 1e10], *map(list, areas.ranges.values())]
        evaluation.params.areaRngLbl = ["all", *areas.ranges]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_of_cocos_own_tools(seed):
    objects, found, classes = random_set(seed)
    caps = (1, 3, 100)
    precision, recall = reference(objects, found, classes, caps, COCO_AREAS)
    result = average_precision(found, objects, classes, caps=caps)
    expected = np.where(precision[..., -1] < 0, np.nan, precision[..., -1]).mean(1)
    np.testing.assert_allclose(result.precision, expected, atol=1e-6, rtol=0, equal_nan=True)
    np.testing.assert_allclose(result.recall, np.where(recall < 0, np.nan, recall), atol=1e-6, rtol=0, equal_nan=True)
    assert objects.crowd.any()
    assert np.isnan(result.precision[:, -1]).all()  # the class without objects
    whole = precision[:, :, :, 0, -1]
    assert result.ap() == pytest.approx(whole[whole > -1].mean(), abs=1e-6)
    assert result.ap(0.75) == pytest.approx(whole[5][whole[5] > -1].mean(), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_matcher_gives_the_same_numbers(seed):
    objects, found, classes = random_set(seed + 100)
    result = average_precision(found, objects, classes, caps=(4,))
    for column, area in enumerate([ALL, *COCO_AREAS.ranges.values()]):
        matches = match(found, objects, COCO_IOU, cap=4, area=area)
        ours = average_precisions(matches, objects.labels.numpy(), classes)
        np.testing.assert_allclose(ours, result.precision[:, :, column], atol=1e-9, rtol=0, equal_nan=True)


CASES = {
    "one object, found": ([BOX], [(BOX, 0.9)], 1.0),
    "and a false one below it": ([BOX], [(BOX, 0.9), (AWAY, 0.5)], 1.0),
    "and a false one above it": ([BOX], [(BOX, 0.5), (AWAY, 0.9)], 0.5),
    "one of two": ([BOX, AWAY], [(BOX, 0.9)], 51 / 101),
    "one of two, twice": ([BOX, AWAY], [(BOX, 0.9), (BOX, 0.8)], 51 / 101),
    "IoU 0.62": ([BOX], [([0.0, 0.0, 100.0, 62.0], 0.9)], 0.3),
    "nothing": ([BOX], [], 0.0),
}


def both(boxes, found, crowd=None, label=1, **options):
    """AP of one image by the evaluator, which the matcher must share."""
    objects = Objects.of([torch.tensor(boxes).view(-1, 4)], [[1] * len(boxes)], None if crowd is None else [crowd])
    detections = [Found.of([box for box, _ in found], [score for _, score in found], [label] * len(found))]
    result = average_precision(detections, objects, 2, **options)
    matches = match(detections, objects, result.iou_thresholds)
    np.testing.assert_allclose(
        average_precisions(matches, objects.labels.numpy(), 2), result.precision[:, :, 0], atol=1e-12
    )
    return result


@pytest.mark.parametrize("case", CASES)
def test_closed_forms(case):
    boxes, found, expected = CASES[case]
    assert both(boxes, found).ap() == pytest.approx(expected, abs=1e-9)


def test_more_closed_forms():
    result = both([BOX], [([0.0, 0.0, 100.0, 62.0], 0.9)])
    assert (result.ap(0.5), result.ap(0.75)) == (1, 0)
    assert both([BOX], [([0.0, 0.0, 100.0, 62.0], 0.9)], iou_thresholds=np.arange(0.5, 0.91, 0.05)).ap() == (
        pytest.approx(1 / 3)
    )
    assert both([BOX], [(BOX, 0.9)], label=2).ap() == 0  # another class; its own has no object
    assert np.isnan(both([], [(BOX, 0.9)]).ap())  # nothing is to be found
    inside = [10.0, 10.0, 30.0, 30.0]
    assert both([BOX, AWAY], [(inside, 0.9), (AWAY, 0.8)], crowd=[True, False]).ap() == 1  # a false one in a crowd
    assert both([BOX, AWAY], [(inside, 0.9), (AWAY, 0.8)]).ap() == pytest.approx(0.5 * 51 / 101, abs=1e-9)


def test_a_cap_below_and_above_one_hundred():
    """COCO's tools give -1 without a cap of 100; here any cap is a cap."""
    many = [([float(3 * i), 0.0, 3.0 * i + 2, 2.0], 0.9 - i / 1000) for i in range(150)]
    boxes = [box for box, _ in many]
    result = both(boxes, many[:100], caps=[1, 10, 500])
    assert result.ap() == pytest.approx(67 / 101)  # 100 of 150: recalls 0 to 0.66
    assert [result.ar(cap) for cap in result.caps] == pytest.approx([1 / 150, 10 / 150, 100 / 150])
    objects = Objects.of([torch.tensor(boxes)], [[1] * 150])
    found = [Found.of(boxes, [score for _, score in many], [1] * 150)]
    assert average_precision(found, objects, 1, caps=[500]).ap() == 1
    assert average_precision(found, objects, 1, caps=[100]).ap() == pytest.approx(67 / 101)


def test_relative_areas_mean_the_same_at_every_size():
    """The same scene at 128 px and, of another shape, four times as wide: by relative areas the numbers are equal."""
    objects, found, classes = random_set(7, size=100)
    scales = torch.tensor([1.0, 4.0]).repeat(6)
    of = scales[objects.image]
    larger = Objects(objects.offsets, objects.boxes * of[:, None], objects.labels, objects.crowd, objects.area * of**2)
    more = [Found(f.boxes * s, f.scores, f.labels) for f, s in zip(found, scales.tolist(), strict=True)]
    sizes = torch.tensor([[256, 300]]).repeat(12, 1)
    a = average_precision(found, objects, classes, areas=RELATIVE_AREAS, sizes=sizes)
    b = average_precision(more, larger, classes, areas=RELATIVE_AREAS, sizes=sizes * scales[:, None].long())
    np.testing.assert_array_equal(a.precision, b.precision)
    np.testing.assert_array_equal(a.recall, b.recall)
    pixels = {name: (low * 256 * 300, high * 256 * 300) for name, (low, high) in RELATIVE_AREAS.ranges.items()}
    c = average_precision(found, objects, classes, areas=Areas(pixels))
    np.testing.assert_allclose(a.precision, c.precision, atol=1e-12)
    assert {round(a.ap(area=area), 6) for area in ("small", "medium", "large")} != {round(a.ap(), 6)}


def test_the_summary_and_single_classes():
    objects, found, classes = random_set(5)
    result = average_precision(found, objects, classes)
    summary = result.summary()
    assert list(summary) == [
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    ]
    assert summary["ap50"] > summary["ap75"] > 0.05
    assert np.nanmean(result.by_class(0.5)) == pytest.approx(summary["ap50"])
    assert np.isnan(result.by_class()[-1])
    for iou, asked in ((0.55, {"iou": 0.55}), (0.9, {"iou": 0.9})):
        alone = average_precision(found, objects, classes, iou_thresholds=[iou])
        assert alone.ap() == pytest.approx(result.ap(**asked))
        assert "ap50" not in alone.summary()


def test_what_each_detection_and_object_was_matched_to():
    """A double, a near miss, a crowd and an invention, told apart."""
    crowd = [300.0, 0.0, 400.0, 100.0]
    objects = Objects.of([torch.tensor([BOX, AWAY, crowd]), torch.tensor([BOX])], [[1, 2, 1], [1]], [[0, 0, 1], [0]])
    found = [
        Found.of(
            [BOX, [0.0, 0.0, 100.0, 70.0], AWAY, [310.0, 10.0, 320.0, 20.0], [350.0, 50.0, 390.0, 90.0]],
            [0.5, 0.9, 0.8, 0.7, 0.6],
            [1, 1, 1, 1, 1],
        ),
        Found.of([BOX], [0.4], [1]),
    ]
    matches = match(found, objects, [0.5, 0.75])
    assert matches.offsets.tolist() == [0, 5, 6]
    assert matches.object.tolist() == [[-1, 0, -1, 2, 2, 3], [0, -1, -1, 2, 2, 3]]  # the higher score chooses first
    assert matches.right.tolist() == [[0, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]]
    assert matches.wrong.tolist() == [[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0]]
    assert matches.finder.tolist() == [[1, -1, -1, 5], [0, -1, -1, 5]]
    assert matches.hits.tolist() == [[True, False, False, True]] * 2
    assert match(found, objects, [0.5], cap=1).capped.tolist() == [True, False, True, True, True, False]


def test_a_box_inside_out_is_ignored_as_by_cocos_tools():
    found = [([100.0, 0.0, 0.0, 100.0], 0.9), (BOX, 0.8)]
    assert both([BOX], found).ap() == 1
    objects = Objects.of([torch.tensor([BOX])], [[1]])
    detections = [Found.of([box for box, _ in found], [0.9, 0.8], [1, 1])]
    precision, _ = reference(objects, detections, 1, (100,), COCO_AREAS)
    assert precision[:, :, 0, 0, 0].mean() == pytest.approx(1)


def test_chunks_of_groups_change_nothing(monkeypatch):
    objects, found, _ = random_set(3)
    whole = match(found, objects, COCO_IOU)
    monkeypatch.setattr("kdscope.detection.matching.AT_ONCE", 1)
    for a, b in zip(whole, match(found, objects, COCO_IOU), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": 2}, "objects have labels 1 to 3 of 2 classes"),
        ({"iou_thresholds": [50]}, r"IoU thresholds \[50.0\] are not all above 0"),
        ({"caps": [0]}, r"caps \[0\]: at least one"),
        ({"areas": RELATIVE_AREAS}, "relative areas need the sizes"),
        ({"found": []}, "detections of 0 images and objects of 12"),
        ({"found": [Found.of([[0, 0, np.nan, 1]], [1], [1])] * 12}, "image number 0 of the split has a detection"),
        ({"found": [Found.of([[0, 0, 1, 1]], [1], [9])] * 12}, "detection of label 9; labels are 1 to 4"),
    ],
)
def test_bad_input(change, said):
    objects, found, classes = random_set(0)
    options = {"found": found, "objects": objects, "classes": classes} | change
    with pytest.raises(KDScopeError, match=said):
        average_precision(**options)
    result = average_precision(found, objects, classes)
    for asked in ({"iou": 0.52}, {"area": "tiny"}):
        with pytest.raises(KDScopeError, match="unknown"):
            result.ap(**asked)


def test_without_the_evaluator_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(KDScopeError, match=r"pip install 'kdscope\[detection\]"):
        average_precision([], Objects.of([], []), 1)
