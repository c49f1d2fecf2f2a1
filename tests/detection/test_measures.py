"""Measures of detectors against closed forms and plain loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from kdscope import KDScopeError
from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows, RowTargets
from kdscope.detection.measures.agreement import best_score, detection_agreement
from kdscope.detection.measures.attention_boxes import against_boxes
from kdscope.detection.measures.attention_gap import attention_gap
from kdscope.detection.measures.dense_fidelity import dense_fidelity, tilted, worse_boxes
from kdscope.detection.measures.feature_error import feature_error
from kdscope.detection.measures.found import Found, assigned, box_iou
from kdscope.detection.measures.outcomes import outcomes, table_of_outcomes
from kdscope.detection.measures.shapley import shapley, subsets
from kdscope.detection.methods.chen import BoundedBox, soft_cross_entropy, soft_optimum

BLOCK = np.zeros((1, 8, 8), dtype=bool)
BLOCK[0, 2:4, 2:6] = True  # 8 of 64 cells
SHIFTED = np.roll(BLOCK, 2, axis=2)  # half of it off


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        (BLOCK, (1, 8, 1, 1)),
        (np.ones_like(BLOCK), (0.125, 1, 0.5, 1 / 15)),
        (~BLOCK, (0, 0, 0, 0)),
        (SHIFTED, (0.5, 4, 0.714286, 1 / 3)),
    ],
    ids=["on the object", "uniform", "elsewhere", "half off"],
)
def test_known_maps(attention, expected):
    assert [float(score[0]) for score in against_boxes(attention, BLOCK)] == pytest.approx(expected, abs=1e-6)


def test_auroc_is_that_of_scikit_learn_and_padding_does_not_count():
    rng = np.random.default_rng(0)
    a, m = rng.integers(0, 6, (5, 6, 7)).astype(float), rng.random((5, 6, 7)) < 0.3
    v = np.ones_like(m)
    v[:, 4:], v[:, :, 6:] = False, False
    found = against_boxes(a, m, v)
    cut = against_boxes(a[:, :4, :6], m[:, :4, :6])
    for ours, theirs in zip(found, cut, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    for i in range(5):
        assert cut.auroc[i] == pytest.approx(roc_auc_score(m[i, :4, :6].ravel(), a[i, :4, :6].ravel()), rel=1e-12)


def test_images_without_objects_or_background_are_nan():
    maps = np.ones((2, 2, 2))
    inside = np.array([np.zeros((2, 2), bool), np.ones((2, 2), bool)])
    assert np.isnan(np.array(against_boxes(maps, inside))).all()


@given(scale=st.floats(1e-3, 1e3))
def test_a_factor_changes_no_score(scale):
    a = np.random.default_rng(1).random((3, 5, 5))
    m = np.random.default_rng(2).random((3, 5, 5)) < 0.4
    for one, other in zip(against_boxes(a, m), against_boxes(a * scale, m), strict=True):
        assert one == pytest.approx(other, rel=1e-9, nan_ok=True)


def test_bad_attention():
    with pytest.raises(KDScopeError, match="not negative"):
        against_boxes(-np.ones((1, 2, 2)), np.ones((1, 2, 2)))
    with pytest.raises(KDScopeError, match="must be the same"):
        against_boxes(np.ones((1, 2, 2)), np.ones((1, 2, 3)))


def test_gap_of_equal_maps_is_nothing_and_of_a_shift_known():
    a = np.random.default_rng(0).random((1, 8, 8))
    same = attention_gap(a, a, BLOCK)
    assert (same.foreground[0], same.background[0], same.iou[0]) == (0, 0, 1)
    gap = attention_gap(BLOCK * 8.0, SHIFTED * 8.0, BLOCK)
    assert (gap.foreground[0], gap.background[0]) == (4, 4 * 8 / 56)  # 4 cells lose 8, 4 others gain it
    assert gap.iou[0] == pytest.approx(1 / 3)
    assert attention_gap(SHIFTED, BLOCK, BLOCK).iou[0] == pytest.approx(1 / 3)


def test_shares_of_the_error_add_up_and_have_the_density_of_a_plain_loop():
    rng = np.random.default_rng(0)
    e, f = rng.random((4, 6, 6)), rng.random((4, 6, 6)) + 1
    r = rng.integers(-1, 5, (4, 6, 6))
    found = feature_error(e, f, r)
    assert found.share.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-14)
    for i, k in itertools.product(range(4), range(5)):
        of, there = r[i] == k, r[i] >= 0
        assert found.normalised[i, k] == pytest.approx(e[i][of].sum() / f[i][of].sum(), rel=1e-12)
        density = e[i][of].mean() / e[i][there].mean()
        assert found.density[i, k] == pytest.approx(density, rel=1e-12)


def test_a_uniform_error_has_density_one_and_no_cells_no_density():
    found = feature_error(np.ones((1, 4, 4)), np.full((1, 4, 4), 2.0), np.arange(16).reshape(1, 4, 4) % 2)
    assert found.density[0, :2].tolist() == [1, 1]
    assert np.isnan(found.density[0, 2:]).all()
    assert found.normalised[0, :2].tolist() == [0.5, 0.5]
    with pytest.raises(KDScopeError, match="regions go from"):
        feature_error(np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.full((1, 1, 1), 5))


def detections(rng, n, classes=3):
    corner = rng.random((n, 2)) * 60
    return Found.of(np.c_[corner, corner + 5 + rng.random((n, 2)) * 40], rng.random(n), rng.integers(1, classes + 1, n))


def test_a_detector_agrees_with_itself():
    d = detections(np.random.default_rng(0), 7)
    assert [float(x[0]) for x in detection_agreement([d], [d])] == [1, 1, 1, 1, 0]
    empty = Found.of([], [], [])
    both = detection_agreement([empty, d, empty], [empty, empty, d])
    assert both.f1.tolist() == [1, 0, 0]
    assert np.isnan(both.iou).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 4), m=st.integers(0, 4), same=st.booleans())
def test_the_assignment_is_the_best_of_all(seed, n, m, same):
    rng = np.random.default_rng(seed)
    a, b = detections(rng, n), detections(rng, m)
    rows, columns, overlap = assigned(a, b, 0.2, same)
    iou = box_iou(a.boxes, b.boxes)
    best = (0, 0.0)
    for chosen in itertools.product([None, *range(m)], repeat=n):
        taken = [j for j in chosen if j is not None]
        pairs = [(i, j) for i, j in enumerate(chosen) if j is not None]
        fits = all(iou[i, j] >= 0.2 and (not same or a.labels[i] == b.labels[j]) for i, j in pairs)
        if len(set(taken)) < len(taken) or not fits:
            continue
        best = max(best, (len(pairs), sum(iou[p] for p in pairs)))
    assert (len(rows), overlap.sum()) == pytest.approx(best, abs=1e-9)
    assert len(set(rows)) == len(rows) == len(set(columns))


def twice(d, classes=3):
    """Every box a second time under the next label, with half its score: what suppression class by class leaves."""
    return Found.of(np.r_[d.boxes, d.boxes], np.r_[d.scores, d.scores / 2], np.r_[d.labels, d.labels % classes + 1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8))
def test_the_order_of_detections_makes_no_difference(seed, n):
    rng = np.random.default_rng(seed)
    d, e = twice(detections(rng, n)), twice(detections(rng, n))
    order = rng.permutation(2 * n)
    other = Found(d.boxes[order], d.scores[order], d.labels[order])
    assert [float(x[0]) for x in detection_agreement([d], [other])] == pytest.approx([1, 1, 1, 1, 0])
    for one, same in zip(detection_agreement([d], [e], 0.2), detection_agreement([other], [e], 0.2), strict=True):
        assert one == pytest.approx(same, nan_ok=True)


def test_a_box_under_two_labels_keeps_both():
    d = twice(Found.of([[0, 0, 10, 10]], [0.9], [1]))
    back = Found(d.boxes[::-1], d.scores[::-1], d.labels[::-1])
    assert detection_agreement([d], [back]).same_label.tolist() == [1]
    near = Found.of([[0, 0, 10, 10], [0, 0, 10, 9.99]], [0.9, 0.45], [2, 1])
    assert detection_agreement([d], [near]).same_label.tolist() == [1]
    # An overlap that is better comes before the label.
    apart = Found.of([[0, 0, 10, 10], [0, 0, 10, 6]], [0.9, 0.9], [1, 2])
    moved = Found.of([[0, 0, 10, 10], [0, 0, 10, 6]], [0.9, 0.9], [2, 1])
    assert detection_agreement([apart], [moved]).same_label.tolist() == [0]


def test_agreement_is_the_same_whoever_is_the_teacher():
    rng = np.random.default_rng(3)
    a, b = [detections(rng, 6) for _ in range(5)], [detections(rng, 4) for _ in range(5)]
    one, other = detection_agreement(a, b, 0.3), detection_agreement(b, a, 0.3)
    for x, y in zip(one, other, strict=True):
        assert x == pytest.approx(y, nan_ok=True)
    with pytest.raises(KDScopeError, match="same images"):
        detection_agreement(a, b[:-1])


def test_the_best_score_is_that_of_a_plain_search():
    rng = np.random.default_rng(4)
    scores, hits = rng.integers(0, 10, 40) / 10, rng.random(40) < 0.4

    def f1(cut):
        kept = scores >= cut
        return 2 * (hits & kept).sum() / (kept.sum() + 20)

    assert f1(best_score(scores, hits, 20)) == max(f1(cut) for cut in scores)
    assert best_score(np.zeros(0), np.zeros(0, bool), 3) == float("inf")


def test_outcomes_are_shares_of_their_objects():
    rng = np.random.default_rng(5)
    t, b, k = rng.random((3, 500)) < 0.6
    image = rng.integers(0, 60, 500)
    found = outcomes(t, b, k, image)
    table = table_of_outcomes([t, b, k])
    assert table.sum() == 500
    assert found["transfer"].value == table[1, 0, 1] / table[1, 0].sum()
    assert found["beyond-teacher"].value == table[0, 0, 1] / table[0, 0].sum()
    assert found["harm"].value == pytest.approx(1 - found["kept"].value)
    assert found["harm"].n == b.sum()
    value, n = found["transfer"].value, found["transfer"].n
    low, high = found["transfer"].interval()  # hits are independent here, so images are no groups
    assert (high - low) / 2 == pytest.approx(1.96 * (value * (1 - value) / n) ** 0.5, rel=0.25)
    nobody = outcomes(t, np.ones(500, bool), k, image)["transfer"]
    assert (nobody.n, np.isnan(nobody.value)) == (0, True)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_divergence_of_rows_is_that_of_scipy(scores):
    rng = np.random.default_rng(6)
    t, s = rng.normal(size=(2, 50, 3)) * 3
    labels, image = rng.integers(-1, 4, 50), rng.integers(0, 4, 50)
    found = dense_fidelity(t, s, labels, image, 5, scores)
    for name, of in {"foreground": labels > 0, "background": labels == 0}.items():
        for i in range(4):
            rows = of & (image == i)
            if scores == "softmax":
                expected = entropy(softmax(t[rows], axis=1), softmax(s[rows], axis=1), axis=1)
            else:
                p, q = expit(t[rows]), expit(s[rows])
                expected = entropy([p, 1 - p], [q, 1 - q], axis=0).sum(axis=1)
            assert found[name].kl[i] == pytest.approx(expected.mean() if rows.any() else np.nan, rel=1e-9, nan_ok=True)
        assert np.isnan(found[name].kl[4])


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_a_soft_loss_that_weighs_the_background_is_smallest_at_the_tilted_teacher(scores):
    rng = np.random.default_rng(7)
    t = rng.normal(size=(6, 3)) * 2
    asked = tilted(t, 1.5, scores)
    student = torch.tensor(asked, requires_grad=True)
    soft_cross_entropy(student, torch.from_numpy(t), 1.5, scores).sum().backward()
    assert student.grad.abs().max() < 1e-6
    if scores == "softmax":
        expected = soft_optimum(torch.from_numpy(softmax(t, axis=1)), 1.5).numpy()
        np.testing.assert_allclose(softmax(asked, axis=1), expected, atol=1e-12)
    np.testing.assert_array_equal(tilted(t, 1.0, scores), t)
    with pytest.raises(KDScopeError, match="softmax"):
        tilted(t, 1.5, "softmx")


def test_of_sigmoids_none_is_an_answer():
    t, s = [[-1.0, -2.0], [3.0, 1.0]], [[-2.0, -1.0], [1.0, 3.0]]
    found = dense_fidelity(t, s, [0, 1], [0, 0], 1, "sigmoid")
    assert (found["background"].agreement[0], found["foreground"].agreement[0]) == (1, 0)
    with pytest.raises(KDScopeError, match="softmax"):
        dense_fidelity(t, s, [0, 1], [0, 0], 1, "softmx")


def test_a_box_is_worse_only_if_it_is_farther():
    y = np.zeros((3, 4))
    t, s = (y + np.array(x)[:, None] for x in ([0.3, 0.1, 0.2], [0.1, 0.3, 0.2]))
    assert worse_boxes(t, s, y, [1, 2, 1], [0, 1, 1], 2).tolist() == [0, 0.5]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), None])
def test_a_box_is_worse_where_the_bounded_loss_is_active(weights):
    """Row by row, each an image of its own, on deltas of any coder and on distances: units decide one row in ten."""
    rng = np.random.default_rng(11)
    t, s, y = rng.uniform(0.2, 4, size=(3, 400, 4))
    rows = {"labels": np.ones(400, int), "image": np.arange(400), "images": 400}
    found = worse_boxes(t, s, y, **rows, weights=weights) == 1
    labels = torch.ones(400, dtype=torch.int64)
    known = RowTargets(labels, torch.from_numpy(y), labels > 0, "sigmoid", weights, 1.0)
    student = torch.from_numpy(s).requires_grad_()
    said = [
        DetectionFeatures({}, {"dense": Rows(torch.zeros(400, 1), each)}) for each in (student, torch.from_numpy(t))
    ]
    frame = torch.zeros(1, 3, 8, 8), ((8, 8),), (torch.zeros(0, 4),), (labels[:0],), labels[:1]
    term = BoundedBox()
    term.build(*said)
    term(*said, DetectionBatch(*frame, {"dense": known}))["dense"].backward()
    assert (found == student.grad.any(1).numpy()).all()
    raw = np.square(s - y).sum(1) > np.square(t - y).sum(1)
    assert (0.05 < (found != raw).mean() < 0.2) == (weights != (1.0, 1.0, 1.0, 1.0))


def test_shapley_is_the_mean_over_all_orders():
    rng = np.random.default_rng(7)
    parts = ("fg", "ring", "far", "x")
    value = {some: rng.normal() for some in subsets(parts)}
    orders = list(itertools.permutations(parts))
    expected = dict.fromkeys(parts, 0.0)
    for order in orders:
        for k, part in enumerate(order):
            expected[part] += (value[frozenset(order[: k + 1])] - value[frozenset(order[:k])]) / len(orders)
    found = shapley(parts, value)
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(value[frozenset(parts)] - value[frozenset()])
    with pytest.raises(KDScopeError, match="no value of the set"):
        shapley(("fg",), {frozenset(): 0.0})
