"""Closed forms of the losses, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Ensemble, Features
from kdscope.methods.at import AttentionTransfer, attention_transfer_loss
from kdscope.methods.kd import KD, kd_loss
from kdscope.methods.objective import Objective

LN3 = math.log(3.0)


def test_kd_closed_form_and_gradient():
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = kd_loss(student, tensor([[4 * LN3, 0.0]], dtype=torch.float64), temperature=4.0)
    assert loss.item() == pytest.approx(16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), abs=1e-12)
    assert loss.item() == pytest.approx(2.092993, abs=1e-6)
    loss.backward()
    # d/dz_s = T (q - p), here 4 (1/2 - 3/4, 1/2 - 1/4): it sums to zero.
    assert torch.allclose(student.grad, tensor([[-1.0, 1.0]], dtype=torch.float64))


def test_kd_of_three_classes():
    teacher, student = tensor([[2.0, 0.0, 0.0]]), tensor([[0.0, 1.0, 0.0]])
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(0.7793649, abs=1e-6)
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(0.8337173, abs=1e-6)


def test_kd_is_the_soft_cross_entropy_less_the_teachers_entropy():
    """T^2 CE(p_t, p_s) is the loss of those who leave the teacher's entropy in; its gradient is the same."""
    teacher, student = tensor([[2.0, 0.0, 0.0]]).double(), tensor([[0.0, 1.0, 0.0]]).double()
    p = softmax(teacher / 4, 1)
    entropy = -(p * p.log()).sum()
    assert (kd_loss(student, teacher, 4.0) + 16 * entropy).item() == pytest.approx(17.9288444, abs=1e-6)
    assert 16 * cross_entropy(student / 4, p).item() == pytest.approx(17.9288444, abs=1e-6)


def test_a_weighting_of_kd_and_cross_entropy():
    """alpha CE + (1 - alpha) T^2 KL with alpha = 0.6 and T = 3, as Guo et al. (2024) train."""
    terms = {"cross-entropy": {"weight": 0.6}, "kd": {"weight": 0.4, "temperature": 3.0}}
    objective = Objective(terms, torch.nn.Identity(), [torch.nn.Identity()])
    student, teacher = Features(tensor([[0.0, 1.0, 0.0]])), Features(tensor([[2.0, 0.0, 0.0]]))
    values = objective(student, [teacher], Batch(None, tensor([0]), None, None))
    assert float(objective.weights @ values) == pytest.approx(1.2686403, abs=1e-6)


def test_kd_high_temperature_limit_is_logit_matching():
    torch.manual_seed(0)
    z_s, z_t = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 5, dtype=torch.float64)
    kd_loss(z_s, z_t, temperature=1e4).backward()
    limit = ((z_s - z_s.mean(1, keepdim=True)) - (z_t - z_t.mean(1, keepdim=True))).detach() / (5 * 3)
    assert torch.allclose(z_s.grad, limit, atol=1e-4)


@given(st.integers(0, 10_000), st.floats(0.5, 20.0))
@settings(max_examples=25, deadline=None)
def test_kd_properties(seed, temperature):
    torch.manual_seed(seed)
    z_s, z_t = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    loss = kd_loss(z_s, z_t, temperature)
    assert loss >= 0
    assert kd_loss(z_t, z_t, temperature).abs() < 1e-12
    assert torch.isclose(kd_loss(z_s + torch.randn(4, 1), z_t + 7.0, temperature), loss)  # gauge
    order = torch.randperm(4)
    assert torch.isclose(kd_loss(z_s[order], z_t[order], temperature), loss)


def test_kd_gradcheck():
    torch.manual_seed(0)
    z_s = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: kd_loss(z, torch.ones(4, 5, dtype=torch.float64).cumsum(1)), z_s)


def test_at_closed_form():
    student, teacher = torch.ones(1, 1, 2, 2), tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(0.25)
    assert attention_transfer_loss(student, teacher, variant="paper-text").item() == pytest.approx(1.0)


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
@settings(max_examples=25, deadline=None)
def test_at_properties(seed, scale):
    torch.manual_seed(seed)
    student, teacher = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 6, 5, 5, dtype=torch.float64)
    loss = attention_transfer_loss(student, teacher)
    assert 0 <= loss <= 2 / 25 + 1e-12  # unit vectors of non-negative entries: ||q_s - q_t||^2 <= 2
    assert torch.isclose(attention_transfer_loss(scale * student, teacher), loss)
    assert torch.isclose(attention_transfer_loss(student[:, torch.randperm(4)], -teacher), loss)
    assert attention_transfer_loss(scale * teacher, teacher) < 1e-20
    channels_last = student.float().contiguous(memory_format=torch.channels_last)
    assert torch.isclose(attention_transfer_loss(channels_last, teacher.float()).double(), loss, rtol=1e-5)


def test_at_averages_the_finer_map_not_its_features():
    student = tensor([[[[1.0, -1.0], [1.0, -1.0]]]]).repeat_interleave(2, 2).repeat_interleave(2, 3)  # 4 x 4
    teacher = torch.ones(1, 1, 2, 2)
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_at_sums_over_its_pairs():
    torch.manual_seed(0)
    student = Features(torch.zeros(2, 3), {"a": torch.randn(2, 4, 6, 6), "b": torch.randn(2, 8, 3, 3)})
    teacher = Features(torch.zeros(2, 3), {"x": torch.randn(2, 5, 6, 6), "y": torch.randn(2, 9, 3, 3)})
    each = [
        attention_transfer_loss(student["a"], teacher["x"]),
        attention_transfer_loss(student["b"], teacher["y"]),
    ]
    assert torch.isclose(AttentionTransfer()(student, teacher, None), sum(each))


def test_at_gradcheck():
    torch.manual_seed(0)
    student = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: attention_transfer_loss(s, teacher), student)


@pytest.mark.parametrize("bad", [{"variant": "papr-text"}, {"p": 0}, {"p": -1}, {"p": "two"}])
def test_at_refuses(bad):
    with pytest.raises(KDScopeError, match="at"):
        AttentionTransfer(**bad)


@pytest.mark.parametrize("temperature", [0, -4, float("inf"), "hot"])
def test_kd_refuses(temperature):
    with pytest.raises(KDScopeError, match="temperature"):
        KD(temperature)


# Ensembles


def ensemble(how, *logits, weights=None):
    members = [Features(tensor([z])) for z in logits]
    return Ensemble.of(members, weights or [1 / len(members)] * len(members), how)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean-logit", (0.2098, 0.4442, 0.3460)), ("mean-probability", (0.4938, 0.3143, 0.1919))],
)
def test_ensembles_can_disagree_on_the_top_class(how, expected):
    probabilities = ensemble(how, [5.0, 0.0, 0.0], [-6.0, 0.5, 0.0]).log_probs().exp()
    assert torch.allclose(probabilities, tensor([expected]), atol=1e-4)


def test_mean_probability_at_a_temperature():
    a, b = [4.0, 0.0, 0.0], [0.0, 3.0, 2.9]
    expected = 0.25 * softmax(tensor([a]) / 3, 1) + 0.75 * softmax(tensor([b]) / 3, 1)
    got = ensemble("mean-probability", a, b, weights=[0.25, 0.75]).log_probs(3.0).exp()
    assert torch.allclose(got, expected)


def test_one_teacher_is_no_ensemble():
    one = Features(torch.randn(2, 3))
    assert Ensemble.of([one], [1.0], "mean-logit") is one


def test_gradient_of_mean_loss_equals_that_of_mean_probability_but_not_of_mean_logit():
    torch.manual_seed(0)
    teachers = [Features(3 * torch.randn(4, 6, dtype=torch.float64)) for _ in range(3)]
    start = torch.randn(4, 6, dtype=torch.float64)

    def gradient(loss):
        z = start.clone().requires_grad_()
        loss(z).backward()
        return z.grad

    def of(how):
        whole = Ensemble.of(teachers, [1 / 3] * 3, how)
        return gradient(lambda z: _kl(whole.log_probs(3.0).double(), log_softmax(z / 3, 1)))

    mean_loss = gradient(lambda z: sum(_kl(log_softmax(t.logits / 3, 1), log_softmax(z / 3, 1)) for t in teachers) / 3)
    assert (mean_loss - of("mean-probability")).abs().max() < 1e-7
    assert (mean_loss - of("mean-logit")).abs().max() > 1e-3


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.8)])
def test_mean_loss_exceeds_that_of_the_mean_probability_by_the_teachers_divergence(shares):
    """By the Jensen-Shannon divergence of the teachers, T^2 times, whatever the student says."""
    torch.manual_seed(0)
    teachers = [Features(3 * torch.randn(5, 6)) for _ in range(2)]
    p = [softmax(t.logits.double() / 3, 1) for t in teachers]
    mean = sum(share * one for share, one in zip(shares, p, strict=True))
    js = sum(share * (one * (one / mean).log()).sum(1).mean() for share, one in zip(shares, p, strict=True))

    def loss(how, student):
        terms = {"kd": {"weight": 1.0, "temperature": 3.0}}
        objective = Objective(terms, torch.nn.Identity(), [torch.nn.Identity()] * 2, how, shares)
        return float(objective(student, teachers, None)[0])

    for _ in range(3):
        student = Features(torch.randn(5, 6))
        difference = loss("mean-loss", student) - loss("mean-probability", student)
        assert difference == pytest.approx(9 * float(js), rel=1e-5)


def _kl(p, q):
    return (p.exp() * (p - q)).sum(1).mean()


def test_ensemble_needs_a_weight_for_each():
    with pytest.raises(KDScopeError, match="2 teachers has 1 weights"):
        Ensemble.of([Features(torch.zeros(1, 2))] * 2, [1.0], "mean-logit")
    with pytest.raises(KDScopeError, match="unknown ensemble 'mean-logits'; nearest: mean-logit"):
        Ensemble.of([Features(torch.zeros(1, 2))] * 2, [0.5, 0.5], "mean-logits")
