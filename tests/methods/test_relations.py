"""Losses of relations between images: closed forms, naive formulas in float64, precision far from zero, memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.nn.functional import normalize, smooth_l1_loss
from torch.utils._python_dispatch import TorchDispatchMode

from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import rkd
from kdscope.methods.cckd import CorrelationCongruence, adjacent_differences_loss, correlation_congruence_loss
from kdscope.methods.pkt import PKT, pkt_loss
from kdscope.methods.rkd import RKD, rkd_angle_loss, rkd_distance_loss, rkd_loss
from kdscope.methods.sp import SimilarityPreserving, similarity_preserving_loss

LOSSES = {
    "rkd": rkd_loss,
    "pkt": pkt_loss,
    "pkt paper": lambda s, t: pkt_loss(s, t, "paper-text"),
    "sp": similarity_preserving_loss,
    "cckd": correlation_congruence_loss,
}
LINE = tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
TRIANGLE = tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
SAME = tensor([[1.0, 0.0], [1.0, 0.0]])


# Naive formulas, one pair or triple at a time.


def naive_rkd(student, teacher):
    def distances(f):
        return tensor([[float((a - b).norm()) for b in f] for a in f], dtype=torch.float64)

    def angles(f):
        count, found = len(f), torch.zeros(len(f), len(f), len(f), dtype=torch.float64)
        for i in range(count):
            for j in range(count):
                for k in range(count):
                    a, b = f[j] - f[i], f[k] - f[i]
                    if a.norm() > 0 and b.norm() > 0:
                        found[i, j, k] = (a @ b) / (a.norm() * b.norm())
        return found

    d_s, d_t = distances(student), distances(teacher)
    d_s, d_t = d_s / d_s[d_s > 0].mean(), d_t / d_t[d_t > 0].mean()
    return 25 * smooth_l1_loss(d_s, d_t) + 50 * smooth_l1_loss(angles(student), angles(teacher))


def cosine(f):
    return tensor([[float(a @ b / (a.norm() * b.norm())) for b in f] for a in f], dtype=torch.float64)


def naive_pkt(student, teacher):
    p_s, p_t = ((cosine(f) + 1) / 2 for f in (student, teacher))
    p_s, p_t = p_s / p_s.sum(1, keepdim=True), p_t / p_t.sum(1, keepdim=True)
    return (p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log()).mean()


def naive_pkt_paper(student, teacher):
    total, count = 0.0, len(student)
    k_s, k_t = ((cosine(f) + 1) / 2 for f in (student, teacher))
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for j in others:
            q, p = k_s[i, j] / k_s[i, others].sum(), k_t[i, j] / k_t[i, others].sum()
            total = total + p * ((p + 1e-7) / (q + 1e-7)).log()
    return total


def naive_sp(student, teacher):
    g_s, g_t = (tensor([[float((a * b).sum()) for b in f] for a in f], dtype=torch.float64) for f in (student, teacher))
    return (normalize(g_s, dim=1) - normalize(g_t, dim=1)).square().sum() / len(student) ** 2


def naive_cckd(student, teacher):
    def kernel(f):
        c = cosine(f)
        return math.exp(-0.8) * (1 + 0.8 * c + 0.32 * c * c)

    return (kernel(student) - kernel(teacher)).square().sum() / len(student) ** 2


NAIVE = {"rkd": naive_rkd, "pkt": naive_pkt, "pkt paper": naive_pkt_paper, "sp": naive_sp, "cckd": naive_cckd}


def features(count=6, width=5, seed=0, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, width, generator=generator)


def test_rkd_closed_forms():
    assert rkd_distance_loss(LINE, TRIANGLE).item() == pytest.approx(1 / 24, abs=1e-7)
    assert rkd_angle_loss(LINE, TRIANGLE).item() == pytest.approx(2.5 / 27, abs=1e-7)
    assert rkd_loss(LINE, TRIANGLE).item() == pytest.approx(5.6712963, abs=1e-6)
    assert rkd_loss(LINE, TRIANGLE, distance=0.0, angle=2.0).item() == pytest.approx(5 / 27, abs=1e-7)


def test_rkd_of_two_images_and_of_images_that_coincide():
    assert rkd_loss(LINE[:2], 7 * TRIANGLE[:2]).item() == 0.0
    twins = tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]]).requires_grad_()
    loss = rkd_loss(twins, TRIANGLE)
    # D is 0 or 5, so psi_D 0 or 1 against 1 everywhere off the diagonal: one pair, both ways, of 9. At the third image
    # the twins subtend no angle (cosine 1 against 1/2), at each twin the angle between the other and the third is none
    # (0 against 1/2), and that of the other twin with itself 0 against 1.
    angle = (0.5 * 0.25 * 2 + 2 * (0.5 * 0.25 * 2 + 0.5)) / 27
    assert loss.item() == pytest.approx(25 * (2 * 0.5 / 9) + 50 * angle, abs=1e-5)
    loss.backward()
    assert twins.grad.isfinite().all()
    assert twins.grad.abs().max() < 100
    assert rkd_loss(torch.ones(4, 3), features(4)).isfinite()  # all coincide


def test_closed_forms_of_the_others():
    eye = torch.eye(2)
    assert pkt_loss(eye, SAME).item() == pytest.approx(0.5 * (0.5 * math.log(0.75) + 0.5 * math.log(1.5)), abs=1e-6)
    assert pkt_loss(eye, SAME).item() == pytest.approx(0.029446, abs=1e-6)
    assert similarity_preserving_loss(eye, SAME).item() == pytest.approx(1 - 0.5**0.5, abs=1e-7)
    assert correlation_congruence_loss(eye, SAME).item() == pytest.approx(
        2 * (1.12 * math.exp(-0.8)) ** 2 / 4, abs=1e-7
    )
    assert correlation_congruence_loss(eye, SAME).item() == pytest.approx(0.126629, abs=1e-6)
    far = correlation_congruence_loss(eye, SAME, order=10)  # the series of exp(-g ||x - y||^2)
    assert far.item() == pytest.approx((1 - math.exp(-0.8)) ** 2 / 2, abs=1e-6)
    assert adjacent_differences_loss(tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.zeros(3, 2)).item() == 25.0


@pytest.mark.parametrize("shift_and_scale", [(0.0, 1.0), (5.0, 0.05)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_formula_in_float64(name, dtype, shift_and_scale):
    """To a relative 1e-5, near zero and far from it, of the very numbers that a bf16 network gives."""
    student, teacher = (features(6, 8, seed, *shift_and_scale).to(dtype) for seed in (0, 1))
    expected = NAIVE[name](student.double(), teacher.double())
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    loss = LOSSES[name](leaf, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(expected), rel=1e-5, abs=1e-12)
    loss.backward()
    LOSSES[name](exact, teacher.double()).backward()
    limit = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]  # what a gradient in bf16 can hold
    assert (leaf.grad.double() - exact.grad).norm() <= limit * exact.grad.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    student, teacher = features(4, 3).double().requires_grad_(), features(4, 5, 1).double()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher), student)


@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 10_000), st.floats(0.1, 10.0))
@settings(max_examples=40, deadline=None)
def test_properties(name, seed, scale):
    loss, (student, teacher) = LOSSES[name], (features(5, 4, seed + k).double() for k in (0, 1))
    value = loss(student, teacher)
    assert value >= -1e-12
    assert loss(teacher, teacher).abs() < 1e-12
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    assert torch.isclose(loss(student[order], teacher[order]), value)
    rotation = torch.linalg.qr(features(4, 4, seed + 2).double()).Q
    assert torch.isclose(loss(scale * student @ rotation, teacher), value)
    if name == "rkd":
        assert torch.isclose(loss(student + 3.0, teacher - 1.0), value)


@pytest.mark.parametrize("name", LOSSES)
def test_vectors_of_zeros_give_finite_values_and_gradients(name):
    student = features(4, 3)
    student[:2] = 0.0
    student.requires_grad_()
    loss = LOSSES[name](student, features(4, 3, 1))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 1e3


def test_maps_in_any_memory_format():
    student, teacher = torch.randn(5, 3, 4, 4), torch.randn(5, 6, 2, 2)
    value = similarity_preserving_loss(student, teacher)
    last = student.contiguous(memory_format=torch.channels_last)
    assert torch.isclose(similarity_preserving_loss(last, teacher), value, rtol=1e-6)
    pixels = student.flatten(2)[:, :, torch.randperm(16)]
    assert torch.isclose(similarity_preserving_loss(pixels, teacher), value, rtol=1e-6)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return found


def angle_memory(count):
    """Elements that the angles of `count` images keep for the backward pass, and those of the largest tensor made."""
    kept = {}
    student = features(count, 4).requires_grad_()
    keeping = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t}) or t, lambda t: t)
    with Largest() as largest:
        with keeping:
            loss = rkd_angle_loss(student, features(count, 7, 1))
        loss.backward()
    return sum(tensor.numel() for tensor in kept.values()), largest.elements


def test_memory_of_angles_is_that_of_matrices_and_chunks(monkeypatch):
    """With chunks of one anchor no tensor has more than B^2 elements, 8 MiB at B = 1,024, where all triples at once are
    8 GiB for each tensor; and what is kept for the backward pass grows as B^2, too."""
    monkeypatch.setitem(rkd.CHUNK, "cpu", 1)
    (small, largest_small), (large, largest_large) = angle_memory(8), angle_memory(32)
    assert (largest_small, largest_large) == (8**2, 32**2)
    assert large <= 18 * small  # B^3 would be 64
    monkeypatch.setitem(rkd.CHUNK, "cpu", 2**20)
    assert angle_memory(32)[1] == 32**3


def test_chunks_change_neither_value_nor_gradient(monkeypatch):
    found = []
    for chunk in (1, 3 * 10**2, 2**20):
        monkeypatch.setitem(rkd.CHUNK, "cpu", chunk)
        student = features(10).double().requires_grad_()
        loss = rkd_angle_loss(student, features(10, 3, 1).double())
        loss.backward()
        found.append((loss.detach(), student.grad))
    for value, gradient in found[1:]:
        assert torch.allclose(value, found[0][0], rtol=1e-12)
        assert torch.allclose(gradient, found[0][1], rtol=1e-10)


# Terms


def built(term, student, teacher):
    torch.manual_seed(0)
    term.build(student, teacher)
    return term


def views(width_s=6, width_t=9):
    return (Features(torch.zeros(5, 3), {"penultimate": features(5, w, w)}) for w in (width_s, width_t))


@pytest.mark.parametrize(("term", "name"), [(RKD(), "rkd"), (PKT(), "pkt"), (SimilarityPreserving(), "sp")])
def test_terms_sum_over_their_pairs(term, name):
    student = Features(torch.zeros(4, 3), {"a": torch.randn(4, 5), "b": torch.randn(4, 6)})
    teacher = Features(torch.zeros(4, 3), {"x": torch.randn(4, 7), "y": torch.randn(4, 8)})
    each = LOSSES[name](student["a"], teacher["x"]) + LOSSES[name](student["b"], teacher["y"])
    assert torch.isclose(term(student, teacher, None), each)


def test_cckd_embeds_the_student_and_leaves_a_narrow_teacher_as_it_is():
    student, teacher = views()
    term = built(CorrelationCongruence(embed=9), student, teacher)
    assert [tuple(p.shape) for p in term.parameters()] == [(9, 6), (9,)]
    embedded = term.ours[0](student["penultimate"]).float()
    assert torch.isclose(term(student, teacher, None), correlation_congruence_loss(embedded, teacher["penultimate"]))


def test_cckd_projects_a_wide_teacher_on_fixed_orthogonal_directions():
    student, teacher = views()
    term = built(CorrelationCongruence(embed=4), student, teacher)
    directions = term.theirs[0].directions
    assert torch.allclose(directions @ directions.T, torch.eye(4), atol=1e-6)
    assert "theirs.0.directions" in term.state_dict()
    assert all(p.shape[0] == 4 and p.shape[-1] != 9 for p in term.parameters())  # the teacher's does not learn
    projected = teacher["penultimate"] @ directions.T
    expected = correlation_congruence_loss(term.ours[0](student["penultimate"]).float(), projected)
    assert torch.isclose(term(student, teacher, None), expected)


def test_cckd_without_embedding_is_that_of_the_zoo():
    student, teacher = views()
    term = built(CorrelationCongruence(embed=0), student, teacher)
    assert list(term.parameters()) == []
    expected = naive_cckd(student["penultimate"].double(), teacher["penultimate"].double())
    assert term(student, teacher, None).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["paper", "repdistiller"])
def test_embeddings_far_from_zero_are_exact(variant, dtype):
    student, teacher = (Features(torch.zeros(5, 3), {"f": features(5, 9, k, 5.0, 0.05).to(dtype)}) for k in (0, 1))
    term = built(CorrelationCongruence(variant=variant, embed=4), student, teacher)
    s = student["f"].double() @ term.ours[0].weight.double().T + term.ours[0].bias.double()
    if variant == "paper":
        expected = naive_cckd(s.detach(), teacher["f"].double() @ term.theirs[0].directions.double().T)
    else:
        t = teacher["f"].double() @ term.theirs[0].weight.double().T + term.theirs[0].bias.double()
        expected = adjacent_differences_loss(s, t)
    loss = term(student, teacher, None)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_repdistillers_cc_learns_both_embeddings():
    student, teacher = views()
    term = built(CorrelationCongruence(variant="repdistiller", embed=4), student, teacher)
    assert sorted(tuple(p.shape) for p in term.parameters()) == [(4,), (4,), (4, 6), (4, 9)]
    s, t = term.ours[0](student["penultimate"]), term.theirs[0](teacher["penultimate"])
    rows = [(s[i] - t[i]).abs() for i in range(5)]
    expected = sum((rows[i] * rows[i + 1]).sum() for i in range(4)).item() / 4
    assert term(student, teacher, None).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RKD(distance=-1), "term 'rkd': distance must be a number of at least 0"),
        (lambda: RKD(distance=0, angle=0), "distance and angle are both 0"),
        (lambda: PKT(variant="paper"), "unknown variant 'paper' in term 'pkt'; nearest: paper-text"),
        (lambda: CorrelationCongruence(variant="rd"), "unknown variant 'rd' in term 'cckd'"),
        (lambda: CorrelationCongruence(gamma=0), "term 'cckd': gamma must be a number above 0"),
        (lambda: CorrelationCongruence(order=0), "order is that of a Taylor series, 1 to 10, not 0"),
        (lambda: CorrelationCongruence(embed=-1), "embed is a width of at least 0"),
        (lambda: CorrelationCongruence(embed=0, variant="repdistiller"), "embed is a width of at least 1"),
    ],
)
def test_refused(make, message):
    with pytest.raises(KDScopeError, match=message):
        make()
