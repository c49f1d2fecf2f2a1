"""FitNets, attention transfer and its kin, VID, NST: closed forms, invariances, independent formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import Objective, resolve
from kdscope.methods.nst import neuron_selectivity_loss
from kdscope.methods.vid import VariationalInformation, variational_information_loss
from kdscope.training.learner import Learner

DOUBLE = torch.float64


def features(**maps):
    first = next(iter(maps.values()))
    return Features(torch.zeros(len(first), 3), maps)


def randn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def learner_for(method, student, teachers, overrides=None, size=16):
    torch.manual_seed(0)
    networks = [models.build(name, 10, image_size=size) for name in (student, *teachers)]
    objective = Objective(resolve(method, overrides), networks[0], networks[1:])
    learner = Learner(networks[0], objective, networks[1:])
    learner.build(torch.zeros(2, 3, size, size))
    return learner


def run(learner, seed=1, images=6, size=16):
    image = randn(images, 3, size, size, seed=seed, dtype=torch.float32)
    with learner.capturing():
        return learner(image, torch.arange(images) % 10, torch.arange(images))[0]


# Neuron selectivity transfer


def naive_mmd(student, teacher):
    """Every pair of channels, the kernel of each, as the paper writes it; a channel that is zero stays zero."""
    s, t = [x.flatten(2) / x.flatten(2).norm(dim=2, keepdim=True).clamp_min(1e-30) for x in (student, teacher)]

    def mean_kernel(x, y):
        return (x.unsqueeze(2) * y.unsqueeze(1)).sum(3).square().mean((1, 2))

    return (mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)).mean()


def test_nst_closed_form():
    s, t = tensor([[[[1.0, 0.0]]]]), tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert neuron_selectivity_loss(s, t).item() == pytest.approx(0.5, abs=1e-6)


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 3.0, -3.0]))
@settings(max_examples=25, deadline=None)
def test_nst_is_the_mmd_of_all_pairs_of_channels(seed, by_places, offset):
    grid = (2, 3) if by_places else (5, 6)  # 6 places or 30, and 11 channels
    s, t = randn(3, 4, *grid, seed=seed) + offset, randn(3, 7, *grid, seed=seed + 1) + offset
    if offset == 0:
        s, t = s.relu() + 0.1 * s, t.relu()
        s[:, 0], t[:, 1] = 0.0, 0.0  # channels that are dead everywhere
        t[:, 0] = t[:, 0] + 1.0
    s[:, 1] *= -1
    assert neuron_selectivity_loss(s, t).item() == pytest.approx(naive_mmd(s, t).item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("grid", [(3, 4), (6, 6)], ids=["by places", "by channels"])
def test_nst_far_from_zero_is_right_in_float32(grid):
    s, t = 5 + 0.05 * randn(4, 6, *grid), 5 + 0.05 * randn(4, 9, *grid, seed=1)
    s, t = s.float(), t.float()
    exact = naive_mmd(s.double(), t.double())
    assert neuron_selectivity_loss(s, t).item() == pytest.approx(exact.item(), rel=1e-6)
    channels_last = [x.contiguous(memory_format=torch.channels_last) for x in (s, t)]
    assert neuron_selectivity_loss(*channels_last).item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("grid", [(2, 3), (5, 6)], ids=["by places", "by channels"])
def test_nst_invariances_and_gradient(grid):
    s, t = randn(4, 3, *grid).requires_grad_(), randn(4, 5, *grid, seed=1)
    loss = neuron_selectivity_loss(s, t)
    scale = tensor([2.0, -0.5, 3.0], dtype=DOUBLE)[None, :, None, None]
    assert torch.isclose(neuron_selectivity_loss(scale * s[:, [2, 0, 1]], t), loss)
    places = torch.randperm(grid[0] * grid[1])
    moved = [x.flatten(2)[..., places].reshape(x.shape) for x in (s, t)]
    assert torch.isclose(neuron_selectivity_loss(*moved), loss)
    assert neuron_selectivity_loss(t, t).abs() < 1e-12
    assert torch.autograd.gradcheck(lambda x: neuron_selectivity_loss(x, t), s)


def test_nst_gives_dead_channels_no_gradient():
    s = randn(2, 3, 2, 2).relu()
    s[:, 1] = 0
    s.requires_grad_()
    neuron_selectivity_loss(s, randn(2, 4, 2, 2, seed=1)).backward()
    assert s.grad.isfinite().all()
    assert (s.grad[:, 1] == 0).all()
    assert s.grad[:, 0].abs().max() > 0


# Variational information distillation


def test_vid_closed_form_and_the_best_variance():
    zero, five = torch.zeros(1, 1, 2, 2), tensor([math.log(math.expm1(5 - 1e-5))])
    assert variational_information_loss(zero + 1, zero, five).item() == pytest.approx(0.904719, abs=1e-6)
    # At the variance of the error, the loss is (1 + ln variance) / 2 and no other variance is better.
    mean, target = randn(8, 3, 4, 4), randn(8, 3, 4, 4, seed=1)
    variance = (mean - target).square().mean((0, 2, 3))
    raw = (variance - 1e-5).expm1().log().requires_grad_()
    loss = variational_information_loss(mean, target, raw)
    assert torch.isclose(loss, 0.5 * (1 + variance.log()).mean())
    loss.backward()
    assert raw.grad.abs().max() < 1e-9


def test_vid_is_the_gaussian_likelihood_and_does_not_overflow():
    mean, target = randn(4, 3, 2, 2).requires_grad_(), randn(4, 3, 2, 2, seed=1)
    raw = tensor([-2.0, 0.0, 1.5], dtype=DOUBLE, requires_grad=True)
    scale = (torch.log1p(raw.exp()) + 1e-5).sqrt().reshape(1, 3, 1, 1)
    likelihood = torch.distributions.Normal(mean, scale).log_prob(target).mean()
    loss = variational_information_loss(mean, target, raw)
    assert torch.isclose(loss, -likelihood - 0.5 * math.log(2 * math.pi))
    assert torch.autograd.gradcheck(lambda m, r: variational_information_loss(m, target, r), (mean, raw))
    large = variational_information_loss(mean.float(), target.float(), tensor([500.0] * 3))
    assert large.item() == pytest.approx(0.5 * math.log(500), abs=0.01)


def test_vid_learns_and_saves_its_variances():
    learner = learner_for("vid", "resnet8", ["resnet14"])
    term = learner.objective.terms["vid"][0]
    assert [tuple(p.raw_variance.shape) for p in term.posteriors] == [(16,), (32,), (64,)]
    raw = term.posteriors[1].raw_variance
    assert nn.functional.softplus(raw).detach().numpy() == pytest.approx(5.0, abs=1e-4)
    run(learner).sum().backward()
    assert raw.grad.abs().min() > 0
    assert "terms.vid.0.posteriors.1.raw_variance" in learner.objective.state_dict()
    assert any(p is raw for p in learner.parameters())


@pytest.mark.parametrize("variance", [0, -1, 1e-6, "five", float("inf")])
def test_vid_refuses(variance):
    with pytest.raises(KDScopeError, match="term 'vid': variance must be a number between"):
        VariationalInformation(variance)
