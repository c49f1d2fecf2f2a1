"""Chen et al. (2017) against numbers worked out by hand, and each part of it against its own facts."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder

from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows, RowTargets
from kdscope.detection.box_errors import in_boxes
from kdscope.detection.methods.chen import BoundedBox, SoftClass, bounded_regression, soft_cross_entropy, soft_optimum
from kdscope.detection.methods.mimicry import Hint, hint_loss
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve
from kdscope.detection.methods.rows import row_weights
from kdscope.errors import KDScopeError

UNITS = (1.0, 1.0, 1.0, 1.0)
BOX_HEAD = (10.0, 10.0, 5.0, 5.0)


def close(value, expected, atol=1e-5):
    expected = torch.as_tensor(expected, dtype=value.dtype)
    torch.testing.assert_close(value, expected, atol=atol, rtol=0)


def logs(*each):
    return torch.tensor(each, dtype=torch.float64).log()


def deltas(*x):
    """Deltas [R, 4] of which only the first is not zero."""
    found = torch.zeros(len(x), 4, dtype=torch.float64)
    found[:, 0] = torch.tensor(x)
    return found


def said(logits, boxes=None):
    return DetectionFeatures({}, {"roi": Rows(logits, torch.zeros(len(logits), 4) if boxes is None else boxes)})


def truth(labels, targets=None, sampled=None, head="roi", scores="softmax", units=UNITS, normaliser=1.0):
    labels = torch.tensor(labels)
    targets = torch.zeros(len(labels), 4) if targets is None else targets
    sampled = labels >= 0 if sampled is None else torch.tensor(sampled)
    known = RowTargets(labels, targets, sampled, scores, units, normaliser)
    return DetectionBatch(
        torch.zeros(1, 3, 8, 8), ((8, 8),), (torch.zeros(0, 4),), (labels[:0],), labels[:1], {head: known}
    )


def built(term, student, teacher):
    term.build(student, teacher)
    return term


# Soft cross-entropy


def test_soft_cross_entropy_of_three_classes():
    p_t = logs((0.7, 0.2, 0.1))
    close(soft_cross_entropy(logs((1 / 3, 1 / 3, 1 / 3)), p_t), [1.35 * math.log(3)])
    close(soft_cross_entropy(logs((1 / 3, 1 / 3, 1 / 3)), p_t), [1.483127])
    close(soft_cross_entropy(logs((0.5, 0.3, 0.2)), p_t), [1.129543])


def test_class_loss_of_hard_and_soft_labels():
    """mu = 1/2 through the objective: the detector's own cross-entropy of class 1, and the soft one."""
    z_s = logs((0.5, 0.3, 0.2)).float().requires_grad_()
    own = {"loss_classifier": cross_entropy(z_s, torch.tensor([1]))}
    student = DetectionFeatures({}, {"roi": Rows(z_s, torch.zeros(1, 4))}, own)
    teacher = said(logs((0.7, 0.2, 0.1)).float())
    terms = resolve("chen2017", {"hint": {"weight": 0}, "bounded-box": {"weight": 0}})
    objective = DetectionObjective(terms, teacher=True)
    objective.build(student, teacher)
    assert objective.names == ("detection.loss_classifier", "soft-class.roi")
    close(objective.weights @ objective(student, teacher, truth([1])), 1.166758)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-6, 6)] * 2), min_size=1, max_size=4), st.floats(0.2, 4))
def test_one_logit_is_two_classes_of_which_the_background_has_logit_zero(pairs, background):
    z_s, z_t = (torch.tensor(each, dtype=torch.float64)[:, None] for each in zip(*pairs, strict=True))
    both = [torch.cat([torch.zeros_like(z), z], dim=1) for z in (z_s, z_t)]
    one = soft_cross_entropy(z_s, z_t, background, scores="sigmoid")
    close(one, soft_cross_entropy(*both, background), atol=1e-12)


def test_sigmoids_of_several_classes_add_up_and_the_background_weighs_each():
    p_s, p_t = torch.tensor([[0.3, 0.8]], dtype=torch.float64), torch.tensor([[0.1, 0.6]], dtype=torch.float64)
    by_hand = -sum(
        1.5 * (1 - t) * math.log(1 - s) + t * math.log(s) for s, t in zip(p_s[0].tolist(), p_t[0].tolist(), strict=True)
    )
    close(soft_cross_entropy(p_s.logit(), p_t.logit(), 1.5, "sigmoid"), [by_hand], atol=1e-12)


@pytest.mark.parametrize("background", [0.5, 1.0, 1.5])
def test_the_soft_loss_is_smallest_at_the_tilted_teacher(background):
    p_t = torch.tensor([[0.4, 0.35, 0.25], [0.05, 0.9, 0.05]], dtype=torch.float64)
    best = soft_optimum(p_t, background)
    z = best.log().requires_grad_()
    soft_cross_entropy(z, p_t.log(), background).sum().backward()
    close(z.grad, torch.zeros(2, 3), atol=1e-12)
    shift = torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    least = soft_cross_entropy(best.log(), p_t.log(), background)
    for other in best.log() + shift:
        assert (soft_cross_entropy(other, p_t.log(), background) > least).all()
    assert torch.equal(best, p_t) == (background == 1)


def test_with_the_papers_weight_a_sure_object_is_drawn_to_a_half():
    close(soft_optimum(torch.tensor([[0.4, 0.6]]), 1.5), [[0.5, 0.5]])
    z = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    soft_cross_entropy(z, torch.tensor([[0.6]], dtype=torch.float64).logit(), 1.5, "sigmoid").sum().backward()
    close(z.grad, [[0.0]], atol=1e-12)  # p_t = .6 is content with p_s = .5


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_soft_loss_of_extreme_logits_is_finite(scores):
    z_s, z_t = torch.tensor([[200.0, -200.0]], requires_grad=True), torch.tensor([[-200.0, 200.0]])
    loss = soft_cross_entropy(z_s, z_t, 1.5, scores)
    loss.sum().backward()
    close(loss, [400.0 if scores == "softmax" else 500.0])
    assert z_s.grad.isfinite().all()


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_gradient_of_the_soft_loss_is_that_of_finite_differences(scores):
    generator = torch.Generator().manual_seed(1)
    z_s, z_t = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, z_t, 1.5, scores), z_s.requires_grad_())


# Bounded regression


@pytest.mark.parametrize(
    ("margin", "expected"), [(0.0, [0, 0.09, 0, 0]), (0.01, [0, 0.09, 0.04, 0]), (0.06, [0, 0.09, 0.04, 0.04])]
)
def test_bounded_regression_of_four_boxes(margin, expected):
    r_s, r_t = deltas(0.1, 0.3, 0.2, 0.2), deltas(0.3, 0.1, 0.2, 0.3)
    close(bounded_regression(r_s, r_t, deltas(0, 0, 0, 0), margin), expected)


def test_a_tie_is_off_and_the_smallest_margin_turns_it_on():
    same = deltas(0.2)
    assert bounded_regression(same, same, deltas(0)).item() == 0
    assert bounded_regression(same, same, deltas(0), 1e-9).item() == pytest.approx(0.04)


def test_gradient_of_bounded_regression_is_twice_the_error_where_it_counts():
    r_s = torch.tensor([[0.3, 0.1, 0, 0], [0.1, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    r_t = torch.tensor([[0.1, 0.0, 0, 0], [0.3, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    bounded_regression(r_s, r_t, torch.zeros(2, 4)).sum().backward()
    close(r_s.grad, [[0.6, 0.2, 0, 0], [0, 0, 0, 0]])
    assert r_t.grad is None  # the teacher decides, and is not followed
    generator = torch.Generator().manual_seed(2)
    s, t, y = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    assert torch.autograd.gradcheck(lambda x: bounded_regression(x, t, y, 0.1), s.requires_grad_())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 2), st.sampled_from([UNITS, BOX_HEAD]))
def test_bounded_regression_is_decided_for_each_box_in_raw_deltas(seed, margin, units):
    generator = torch.Generator().manual_seed(seed)
    s, t, y = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = []
    for ours, theirs, target in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):
        raw = [
            sum(((a - b) / unit) ** 2 for a, b, unit in zip(each, target, units, strict=True))
            for each in (ours, theirs)
        ]
        own = sum((a - b) ** 2 for a, b in zip(ours, target, strict=True))
        expected.append(own if raw[0] + margin > raw[1] else 0.0)
    close(bounded_regression(s, t, y, margin, units), expected, atol=1e-9)


def test_the_margin_means_the_same_displacement_for_proposals_and_for_boxes():
    """A box 10 px beside one of 100 px: 0.1 in raw deltas, 1.0 in those of the box head; smooth L1 with beta 1/9."""
    anchor, target = torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([[10.0, 0, 110, 100]])
    for units, expected in ((UNITS, 0.1), (BOX_HEAD, 1.0)):
        y = BoxCoder(units).encode_single(target, anchor)
        close(y, [[expected, 0, 0, 0]])
        # A teacher that errs by 0.08, a student that errs by 0.06: better by 0.0028 in squares, in either head.
        r_t, r_s = y * 0.2, y * 0.4
        assert bounded_regression(r_s, r_t, y, 0.0027, units).item() == 0
        assert bounded_regression(r_s, r_t, y, 0.0029, units).item() == pytest.approx((0.6 * expected) ** 2, rel=1e-4)
    for error, loss in ((0.2, 0.144444), (0.1, 0.045)):
        close(smooth_l1_loss(torch.tensor(error), torch.tensor(0.0), beta=1 / 9), loss)


# FCOS, whose regression is of distances to the sides


def bounded_on_distances(ours, theirs, target, units=None, **options):
    """The bounded-box loss of rows of "dense" that all have an object, divided by 1."""
    batch = truth([1] * len(target), target, head="dense", scores="sigmoid", units=units)
    logits = torch.zeros(len(target), 1)
    student, teacher = (DetectionFeatures({}, {"dense": Rows(logits, each)}) for each in (ours, theirs))
    return built(BoundedBox(**options), student, teacher)(student, teacher, batch)["dense"]


def test_an_error_of_a_distance_is_a_fraction_of_the_targets_side():
    """A target of 8 x 4 strides, a student off by 0.8 on the left and by 0.2 at the top, a teacher by 0.4 and 0.3."""
    target = torch.tensor([[3.0, 1.0, 5.0, 3.0]], dtype=torch.float64)
    student = target + torch.tensor([[0.8, 0.2, 0.0, 0.0]])
    teacher = target + torch.tensor([[0.4, 0.3, 0.0, 0.0]])
    close(in_boxes(target, target), [[3 / 8, 1 / 4, 5 / 8, 3 / 4]], atol=1e-12)
    close(bounded_on_distances(student, teacher, target), 0.1**2 + 0.05**2, atol=1e-8)
    close(bounded_on_distances(student, teacher, target, kind="mimic"), 0.05**2 + 0.025**2, atol=1e-8)
    # 0.0125 of the student, 0.008125 of the teacher: the other way round a margin of 0.0044 makes it count.
    assert bounded_on_distances(teacher, student, target, margin=0.0043).item() == 0
    close(bounded_on_distances(teacher, student, target, margin=0.0044), 0.008125, atol=1e-8)
    # In strides the teacher is better at a short side too; in parts of the side it is not.
    wide, ours, theirs = (torch.tensor([row]) for row in ([8.0, 0.5, 8.0, 0.5], [9.0, 0.5, 8.0, 0.5], [8, 0.9, 8, 0.5]))
    assert bounded_on_distances(ours, theirs, wide).item() == 0
    close(bounded_on_distances(ours, theirs, wide, units=UNITS), 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(0, 0.5), st.sampled_from(["bounded", "mimic"]))
def test_the_loss_of_distances_does_not_know_how_large_an_object_is(seed, scale, margin, kind):
    """Twice the image, or half the stride, multiplies all distances: neither the gate nor the loss moves."""
    generator = torch.Generator().manual_seed(seed)
    s, t, y = (0.1 + 5 * torch.rand(6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    value = bounded_on_distances(s, t, y, margin=margin, kind=kind)
    close(bounded_on_distances(s * scale, t * scale, y * scale, margin=margin, kind=kind), value, atol=1e-5)
    size = torch.stack([y[:, 0] + y[:, 2], y[:, 1] + y[:, 3]] * 2, dim=1)
    error, other = ((s - y) / size).square().sum(1), ((t - y) / size).square().sum(1)
    expected = error[error + margin > other].sum() if kind == "bounded" else ((s - t) / size).square().sum()
    close(value.double(), expected, atol=1e-5)


@pytest.mark.parametrize("side", [32, 64])
def test_a_tenth_of_a_box_is_of_one_order_on_heads_of_all_families(side):
    """A student whose boxes are a tenth of their width to the right of the truth, on rows of real detectors."""
    found = {}
    for family in ("fcos", "retinanet", "fasterrcnn"):
        torch.manual_seed(0)
        adapter = adapt(models.build(f"{family}_resnet10_w8", 3, min_size=128))
        box = torch.tensor([[24.0, 30.0, 24 + side, 30 + side]])
        images, truths = [torch.rand(3, 128, 128)], [{"boxes": box, "labels": torch.tensor([1])}]
        step = adapter.learn(adapter.frame(images, truths, torch.arange(1)))
        head = "rpn" if family == "fasterrcnn" else "dense"
        goals = step.batch.targets[head]
        counted = goals.sampled & (goals.labels > 0)
        assert counted.any()
        assert (goals.delta_weights is None) == (family == "fcos")
        if family == "fcos":
            strides = (goals.deltas[:, 0] + goals.deltas[:, 2])[:, None]
            shifted = goals.deltas + 0.1 * strides * torch.tensor([-1.0, 0, 1, 0])  # farther from left, nearer to right
        else:
            anchors = adapter.anchors(step.batch)
            shifted = adapter.detector.rpn.box_coder if family == "fasterrcnn" else adapter.detector.box_coder
            moved = (box + torch.tensor([0.1 * side, 0, 0.1 * side, 0])).expand(len(anchors), 4)
            shifted = shifted.encode_single(moved, anchors)
        known = RowTargets(*(getattr(goals, name) for name in ("labels", "deltas", "sampled", "scores")),
                           goals.delta_weights, counted.sum().float())  # fmt: skip
        said = [DetectionFeatures({}, {head: Rows(torch.zeros(len(goals.labels), 1), each)})
                for each in (shifted, goals.deltas)]  # fmt: skip
        batch = replace(step.batch, targets={head: known})
        found[family] = built(BoundedBox(), *said)(*said, batch)[head].item()
    assert found["fcos"] == pytest.approx(2 * 0.1**2, rel=1e-3)  # two sides are off by a tenth
    assert all(0.003 < value < 0.03 for value in found.values()), found


# The terms


def test_rows_with_the_same_weight_average_over_what_was_sampled():
    z_s, z_t = torch.randn(5, 3), torch.randn(5, 3)
    batch = truth([0, 2, 1, 0, -1], sampled=[True, True, False, True, False])
    value = built(SoftClass(), said(z_s), said(z_t))(said(z_s), said(z_t), batch)
    assert list(value) == ["roi"]
    close(value["roi"], soft_cross_entropy(z_s, z_t)[[0, 1, 3]].mean())
    without = built(SoftClass(background_weight=1.0), said(z_s), said(z_t))(said(z_s), said(z_t), batch)
    close(without["roi"], soft_cross_entropy(z_s, z_t, 1.0)[[0, 1, 3]].mean())


def test_background_rows_of_a_one_stage_head_are_shared_out():
    labels = torch.tensor([3, 1] + [0] * 30 + [-1] * 4)
    targets = truth(labels.tolist(), head="dense", scores="sigmoid").targets["dense"]
    shares = row_weights(targets, background=3.0)
    close(shares[:2], [1 / 8, 1 / 8])  # two rows with objects, and as much as six of the background
    close(shares[2:32], torch.full((30,), 6 / 8 / 30))
    assert shares[32:].sum() == 0
    close(row_weights(targets), torch.where(labels >= 0, 1 / 32, 0.0))
    few = truth([1, 0, -1]).targets["roi"]
    close(row_weights(few, 3.0), [0.5, 0.5, 0.0])  # no row weighs more than one with an object
    none = truth([0, 0, -1]).targets["roi"]
    close(row_weights(none, 3.0), [0.5, 0.5, 0.0])
    assert row_weights(truth([-1, -1]).targets["roi"], 3.0).tolist() == [0, 0]


def test_regression_takes_the_slice_of_the_class_and_the_detectors_own_number():
    generator = torch.Generator().manual_seed(3)
    r_s, r_t = (torch.randn(4, 3, 4, generator=generator) for _ in range(2))
    y = torch.randn(4, 4, generator=generator)
    y[1] = float("nan")  # the target of a row without a box may be anything
    labels, z = [2, 0, 1, 1], torch.zeros(4, 3)
    batch = truth(labels, y, sampled=[True, True, True, False], units=BOX_HEAD, normaliser=7.0)
    student, teacher = said(z, r_s.requires_grad_()), said(z, r_t)
    value = built(BoundedBox(margin=9.0), student, teacher)(student, teacher, batch)["roi"]
    each = [(r_s[row, labels[row]] - y[row]).square().sum() for row in (0, 2)]  # a margin that counts them all
    close(value, sum(each) / 7)
    value.backward()
    assert r_s.grad.isfinite().all()
    assert {tuple(index[:2]) for index in r_s.grad.nonzero().tolist()} == {(0, 2), (2, 1)}
    mimic = built(BoundedBox(kind="mimic"), student, teacher)(student, teacher, batch)["roi"]
    close(mimic, sum((r_s[row, labels[row]] - r_t[row, labels[row]]).square().sum() for row in (0, 2)) / 7)


def test_a_normaliser_of_each_row_divides_each_row():
    labels, z = [1, 1, 0], torch.zeros(3, 1)
    r_s, r_t, y = deltas(1.0, 2.0, 5.0), deltas(0, 0, 0), deltas(0, 0, 0)
    batch = truth(labels, y, normaliser=torch.tensor([2.0, 4.0, 2.0]))
    student, teacher = said(z, r_s), said(z, r_t)
    close(built(BoundedBox(), student, teacher)(student, teacher, batch)["roi"], 1 / 2 + 4 / 4)


def test_hints_go_through_an_adapter_even_where_widths_are_equal():
    generator = torch.Generator().manual_seed(4)
    s, t = (DetectionFeatures({8: torch.randn(2, 3, 4, 4, generator=generator)}) for _ in range(2))
    batch = truth([0])
    adapted, plain = built(Hint(), s, t), built(Hint(adapter="needed"), s, t)
    assert [tuple(p.shape) for p in adapted.parameters()] == [(3, 3, 1, 1), (3,)]
    assert not list(plain.parameters())
    close(plain(s, t, batch), (s.maps[8] - t.maps[8]).square().mean())
    close(built(Hint("l1", "needed"), s, t)(s, t, batch), (s.maps[8] - t.maps[8]).abs().mean())
    with torch.no_grad():
        adapted.levels.adapters["8"].weight.copy_(2 * torch.eye(3)[:, :, None, None])
        adapted.levels.adapters["8"].bias.fill_(1.0)
    close(adapted(s, t, batch), (2 * s.maps[8] + 1 - t.maps[8]).square().mean())


def test_hints_of_levels_add_up_and_are_means():
    s = DetectionFeatures({8: torch.zeros(2, 3, 4, 4), 16: torch.zeros(2, 3, 2, 2)})
    t = DetectionFeatures({8: torch.full((2, 3, 4, 4), 2.0), 16: torch.full((2, 3, 2, 2), 3.0)})
    assert built(Hint(adapter="needed"), s, t)(s, t, truth([0])).item() == 4 + 9
    z, v = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: hint_loss(x, z), v.requires_grad_())


def test_the_preset_is_the_papers_sum_and_each_part_can_be_left_out():
    terms = resolve("chen2017")
    assert {name: term["weight"] for name, term in terms.items()} == {
        "detection": 1.0, "soft-class": 0.5, "bounded-box": 0.5, "hint": 0.5,
    }  # fmt: skip
    assert terms["detection"]["classification"] == 0.5
    assert terms["soft-class"]["background_weight"] == 1.5
    for part in ("soft-class", "bounded-box", "hint"):
        left = DetectionObjective(resolve("chen2017", {part: {"weight": 0}}), teacher=True)
        assert set(left.terms) == {"detection", "soft-class", "bounded-box", "hint"} - {part}


def test_a_row_that_no_loss_counts_passes_no_gradient():
    z_s, z_t = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    batch = truth([1, 0, -1])
    built(SoftClass(), said(z_s), said(z_t))(said(z_s), said(z_t), batch)["roi"].backward()
    assert z_s.grad[2].abs().sum() == 0
    assert (z_s.grad[:2].abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (said(torch.zeros(3, 4)), said(torch.zeros(3, 5)), "has 4 scores for each row and that of the teacher 5; both"),
        (
            said(torch.zeros(3, 4)),
            said(torch.zeros(2, 4)),
            "head 'roi' of the student has 3 rows and that of the teacher 2",
        ),
        (said(torch.zeros(3, 4)), DetectionFeatures({}), "the teacher has no head 'roi', only none"),
        (DetectionFeatures({}), DetectionFeatures({}), "these detectors give maps alone"),
    ],
)
@pytest.mark.parametrize("kind", [SoftClass, BoundedBox])
def test_rows_that_are_not_the_same_are_said_in_one_line(kind, student, teacher, message):
    with pytest.raises(KDScopeError) as error:
        kind().build(student, teacher)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftClass(background_weight=0), "background_weight must be a number above 0, not 0"),
        (lambda: SoftClass(heads=["rois"]), "heads takes some of dense, rpn, roi, not ['rois']"),
        (lambda: BoundedBox(margin=-1), "margin must be a number of at least 0, not -1"),
        (lambda: BoundedBox(kind="l2"), "unknown kind 'l2' in term 'bounded-box'"),
        (lambda: Hint(norm="l3"), "unknown norm 'l3' in term 'hint'; nearest: l"),
        (lambda: Hint(adapter="never"), "unknown adapter 'never' in term 'hint'"),
    ],
)
def test_bad_settings_are_said_when_the_term_is_made(make, message):
    with pytest.raises(KDScopeError) as error:
        make()
    assert message in str(error.value)
