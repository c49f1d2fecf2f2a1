"""Kinds of errors on scenes that were made to have them, and what an oracle gains."""

import numpy as np
import pytest
import torch

from kdscope import KDScopeError
from kdscope.detection.data.record import Objects
from kdscope.detection.error_types import KINDS, error_types, false_positives, inherited
from kdscope.detection.matching import average_precisions, match
from kdscope.detection.measures.found import Found

OBJECTS = Objects.of(
    [torch.tensor([[0.0, 0, 10, 10], [40, 40, 60, 60]]), torch.tensor([[0.0, 0, 20, 20]])], [[1, 2], [1]]
)
ONE_OF_EACH = {  # box, label: in the first image
    "localisation": ([0, 0, 10, 4], 1),  # IoU 0.4 with the object of its class
    "classification": ([40, 40, 60, 60], 1),
    "duplicate": ([0, 0, 10, 9], 1),
    "background": ([80, 80, 90, 90], 1),
    "both": ([40, 40, 60, 48], 1),  # IoU 0.4 with one of another class
}


def with_error(name, score=0.95):
    """The first and third object found, and one error."""
    box, label = ONE_OF_EACH[name]
    first = ([0, 0, 10, 10], 0.99, 1)
    rows = [first, (box, score, label)]
    one = Found.of(*(list(column) for column in zip(*rows, strict=True)))
    return [one, Found.of([[0, 0, 20, 20]], [0.9], [1])]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "localisation"])
def test_each_kind_is_named(name):
    errors = error_types(with_error(name), OBJECTS)
    assert {kind: n for kind, n in errors.counts.items() if n and kind != "missed"} == {name: 1}
    # An object of class 2 that nothing found is missed, unless a wrong label stands for it.
    assert errors.counts["missed"] == (name != "classification")


def test_a_near_box_stands_for_its_object_if_none_found_it():
    found = [Found.of([[0, 0, 10, 4]], [0.9], [1]), Found.of([], [], [])]
    errors = error_types(found, OBJECTS)
    assert errors.counts == {
        "localisation": 1,
        "classification": 0,
        "duplicate": 0,
        "background": 0,
        "both": 0,
        "missed": 2,
    }
    assert errors.target.tolist() == [0]
    # Mended, one of two objects of class 1 is found: precision 1 up to recall 1/2, in the mean over two classes.
    assert errors.cost["localisation"] == pytest.approx(51 / 101 / 2)


def test_what_an_oracle_gains_in_closed_form():
    # Class 1: found .99, wrong .95, found .9; class 2: nothing. AP_1 = (51 + 50 * 2 / 3) / 101.
    wrong, clean = (51 + 50 * 2 / 3) / 101, 1.0
    for name in ("duplicate", "background", "both"):
        errors = error_types(with_error(name), OBJECTS)
        assert errors.ap == pytest.approx(wrong / 2)
        assert errors.cost[name] == pytest.approx((clean - wrong) / 2)
        assert errors.cost["missed"] == pytest.approx(wrong - wrong / 2)  # class 2 is asked for no more
    errors = error_types(with_error("classification"), OBJECTS)
    assert errors.cost["classification"] == pytest.approx((clean - wrong) / 2 + 1 / 2)
    assert errors.cost["missed"] == 0


def test_a_second_wrong_label_for_one_object_goes():
    box = ONE_OF_EACH["classification"][0]
    found = [Found.of([box, box], [0.9, 0.8], [1, 1]), Found.of([], [], [])]
    assert error_types(found, OBJECTS).cost["classification"] == pytest.approx(
        1 / 2
    )  # class 2 solved, class 1 as before


def test_without_errors_nothing_can_be_gained():
    found = [Found.of([[0, 0, 10, 10], [40, 40, 60, 60]], [0.9, 0.8], [1, 2]), Found.of([[0, 0, 20, 20]], [0.9], [1])]
    errors = error_types(found, OBJECTS)
    assert errors.ap == 1
    assert set(errors.cost.values()) == {0.0}
    assert not any(errors.counts.values())


def test_kinds_part_the_false_positives_and_ap_is_that_of_the_matcher():
    rng = np.random.default_rng(0)
    corner = torch.tensor(rng.random((30, 2)) * 60)
    truth = torch.cat([corner, corner + 5 + torch.tensor(rng.random((30, 2)) * 30)], 1).float()
    objects = Objects.of(list(truth.split(3)), list(torch.tensor(rng.integers(1, 4, 30)).split(3)))
    found = []
    for i in range(10):
        box = truth[3 * i : 3 * i + 3].repeat(3, 1).numpy() + rng.normal(size=(9, 4)) * 3
        found.append(Found.of(box, rng.random(9), rng.integers(1, 4, 9)))
    errors = error_types(found, objects)
    wrong = match(found, objects).wrong[0]
    assert ((errors.kind >= 0) == wrong).all()
    assert sum(errors.counts[kind] for kind in KINDS) == wrong.sum()
    assert errors.ap == pytest.approx(np.nanmean(average_precisions(errors.matches, objects.labels.numpy(), 3)))
    assert min(errors.cost.values()) > -1e-9
    assert sum(len(one.scores) for one in false_positives(found, errors.matches)) == wrong.sum()


def test_a_crowd_makes_no_error():
    objects = Objects.of([torch.tensor([[0.0, 0, 50, 50]])], [[1]], crowd=[torch.tensor([True])])
    errors = error_types([Found.of([[0, 0, 10, 10], [80, 80, 90, 90]], [0.9, 0.8], [1, 1])], objects)
    assert errors.kind.tolist() == [-1, KINDS.index("background")]


def test_inherited_errors_are_paired_once():
    t = Found.of([[0, 0, 10, 10]], [0.9], [1])
    s = Found.of([[0, 0, 10, 9], [0, 0, 10, 8], [0, 0, 10, 10]], [0.9, 0.8, 0.7], [1, 1, 2])
    assert [x.tolist() for x in inherited([s], [t])] == [[1], [3]]


def test_bad_thresholds():
    with pytest.raises(KDScopeError, match="t_b < t_f"):
        error_types([], Objects.of([], []), 0.1, 0.5)


# Of the authors' code (tidecv 1.0.1)


def random_scenes(seed):
    """Twelve images; of the fourth class there is no object, and some are found."""
    draw = np.random.default_rng(seed)
    boxes, labels, found = [], [], []
    for _ in range(12):
        corner, n, m = draw.uniform(0, 60, (5, 2)), draw.integers(0, 6), draw.integers(0, 12)
        box = np.concatenate([corner, corner + draw.uniform(8, 40, (5, 2))], axis=1)
        label = draw.integers(1, 4, 5)
        near = draw.integers(0, 5, m)
        moved = box[near] + draw.normal(0, 1, (m, 4)) * draw.choice([0.5, 3, 9], (m, 1))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 2)
        said = np.where(draw.random(m) < 0.7, label[near], draw.integers(1, 5, m))
        boxes.append(torch.from_numpy(box[:n]).float())
        labels.append(torch.from_numpy(label[:n]))
        found.append(Found.of(moved.astype(np.float32), -np.sort(-draw.random(m)), said))
    return found, Objects.of(boxes, labels)


@pytest.mark.parametrize(  # what it says of these scenes, in the order of KINDS, missed objects last
    ("seed", "ap", "counts", "costs"),
    [
        (0, 12.759312, (11, 3, 3, 39, 10, 8), (2.2696, 3.2542, 0.2584, 11.0773, 1.0383, 4.2882)),
        (7, 20.061622, (7, 5, 5, 39, 5, 9), (4.8433, 3.6660, 0.2214, 7.4914, 2.4273, 8.7423)),
    ],
)
def test_by_definition_code_all_numbers_are_those_of_the_authors_code(seed, ap, counts, costs):
    errors = error_types(*random_scenes(seed), definition="code")
    assert tuple(errors.counts.values()) == counts
    assert 100 * errors.ap == pytest.approx(ap, abs=1e-6)
    assert [100 * cost for cost in errors.cost.values()] == pytest.approx(costs, abs=1e-4)
    by_paper = error_types(*random_scenes(seed))
    assert by_paper.counts == errors.counts
    assert by_paper.ap == pytest.approx(errors.ap * 4 / 3)  # of three classes, not of four


def test_an_object_with_a_near_box_and_a_wrong_label_is_mended_by_either_alone_in_the_paper():
    objects = Objects.of([torch.tensor([[0.0, 0, 10, 10]])], [[1]])
    both = [Found.of([[0, 0, 10, 4], [0, 0, 10, 10]], [0.9, 0.8], [1, 2])]
    # Mending the label: the object is found by the second detection, after the near box, and 0.5 of what is found
    # is right. The code leaves the object to the better one, the near box; class 2 has no object, and counts as 0.
    assert error_types(both, objects).cost["classification"] == pytest.approx(0.5)
    assert error_types(both, objects).cost["localisation"] == pytest.approx(1.0)
    code = error_types(both, objects, definition="code")
    assert code.cost["classification"] == 0
    assert code.cost["localisation"] == pytest.approx(0.5)
    with pytest.raises(KDScopeError, match="unknown definition 'tide'"):
        error_types(both, objects, definition="tide")
