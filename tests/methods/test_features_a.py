"""FitNets, attention transfer and its kin, VID, NST: closed forms, invariances, independent formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from kdscope import models
from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import Objective, resolve
from kdscope.methods.at import attention_transfer_loss
from kdscope.methods.fitnets import FitNets, hint_loss, regressor
from kdscope.methods.h_at import channel_transfer_loss, channel_vector
from kdscope.methods.hmat import (
    HierarchicalAttention,
    channel_attention,
    channel_loss,
    position_attention,
    position_loss,
)
from kdscope.methods.kdafm import AttentionFeatureMatching, Matching, feature_matching_loss
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


# Attention-based feature matching


def test_kdafm_of_one_layer_is_attention_transfer():
    s, t = randn(4, 3, 5, 5), randn(4, 7, 5, 5, seed=1)
    assert torch.isclose(
        feature_matching_loss([s], [t], torch.ones(4, 1, 1, dtype=DOUBLE)), attention_transfer_loss(s, t)
    )
    learner = learner_for("kdafm", "resnet8", ["resnet14"], {"kdafm": {"layers": "stages:-1"}})
    image = randn(6, 3, 16, 16, dtype=torch.float32)
    with learner.capturing():
        student, (teacher,) = learner._listen(image), learner.teach(image)
    expected = attention_transfer_loss(student["layer3"], teacher["layer3"])
    term = learner.objective.terms["kdafm"][0]
    assert torch.isclose(term(student, teacher, None), expected)


def test_kdafm_weighs_all_pairs_on_the_teachers_grid():
    student = [randn(2, 3, 4, 4), randn(2, 4, 2, 2, seed=1)]
    teacher = [randn(2, 5, 2, 2, seed=2), randn(2, 3, 4, 4, seed=3)]
    attention = randn(2, 2, 2, seed=4).softmax(2)

    def flat(energy, grid):
        energy = nn.functional.adaptive_avg_pool2d(energy, grid).flatten()
        return energy / energy.norm()

    expected = 0.0
    for b in range(2):
        for i, t in enumerate(teacher):
            v_t = flat(t[b].square().mean(0, keepdim=True), t.shape[2:])
            for j, s in enumerate(student):
                v_s = flat(s[b].square().mean(0, keepdim=True), t.shape[2:])
                expected += attention[b, i, j] * (v_s - v_t).square().mean() / 2
    assert torch.isclose(feature_matching_loss(student, teacher, attention), expected)
    leaf = student[0].clone().requires_grad_()
    weights = attention.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: feature_matching_loss([x, student[1]], teacher, w), (leaf, weights))


def test_kdafm_attends_by_query_key_and_position():
    torch.manual_seed(0)
    matching = Matching([3, 4, 5], [6, 7], dim=8).eval().double()
    student, teacher = [randn(2, d, seed=d) for d in (3, 4, 5)], [randn(2, d, seed=d) for d in (6, 7)]
    attention = matching(student, teacher)
    assert attention.shape == (2, 2, 3)
    assert torch.allclose(attention.sum(2), torch.ones(2, 2, dtype=DOUBLE))
    logits = torch.empty_like(attention)
    for t in range(2):
        query = matching.queries[t].norm(matching.queries[t].linear(teacher[t]))
        for s in range(3):
            key = matching.keys[s].norm(matching.keys[s].linear(student[s])).relu()
            key = matching.bilinear.norm(matching.bilinear.linear(key))[:, 8 * t : 8 * t + 8]
            position = matching.teacher_position[t] @ matching.student_position[s]
            logits[:, t, s] = ((key * query).sum(1) + position) / math.sqrt(8)
    assert torch.allclose(attention, logits.softmax(2))


def test_kdafm_takes_all_blocks_of_both():
    learner = learner_for("kdafm", "resnet8", ["resnet14"])
    ours, theirs = learner.objective.pairs["kdafm"][0]
    assert (len(ours), len(theirs)) == (3, 6)
    run(learner).sum().backward()
    term = learner.objective.terms["kdafm"][0]
    assert all(p.grad.abs().max() > 0 for p in term.parameters() if p.dim() == 2)


@pytest.mark.parametrize("dim", [0, -1, 3.5, True, "wide"])
def test_kdafm_refuses(dim):
    with pytest.raises(KDScopeError, match="dim is the width of queries and keys, 1 or more"):
        AttentionFeatureMatching(dim)


# HMAT


def test_hmat_closed_forms():
    spot = tensor([[[[4.0, 0.0]]]], dtype=DOUBLE)
    row = 1 / (1 + math.exp(-16))  # softmax(16, 0); the other row is (1/2, 1/2)
    assert position_attention(spot)[0].flatten().tolist() == pytest.approx([row, 1 - row, 0.5, 0.5])
    assert position_loss(0 * spot, spot).item() == pytest.approx(2 * 2 * (row - 0.5) ** 2 / 4)
    channels = tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]], dtype=DOUBLE)  # X X^T / sqrt(2) = diag(sqrt 2, 0)
    row = 1 / (1 + math.exp(-math.sqrt(2)))
    assert channel_attention(channels)[0].flatten().tolist() == pytest.approx([row, 1 - row, 0.5, 0.5])
    assert channel_loss(0 * channels, channels).item() == pytest.approx(2 * 2 * (row - 0.5) ** 2 / 4)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_hmat_invariances(seed):
    torch.manual_seed(seed)
    s, t = torch.randn(2, 5, 3, 4, dtype=DOUBLE), torch.randn(2, 5, 3, 4, dtype=DOUBLE)
    channels, places = torch.randperm(5), torch.randperm(12)
    assert torch.isclose(position_loss(s[:, channels], t), position_loss(s, t))
    moved = s.flatten(2)[..., places].reshape(s.shape)
    assert torch.isclose(channel_loss(moved, t), channel_loss(s, t))
    assert position_loss(t, t) == 0
    assert channel_loss(t, t) == 0
    last = [x.float().contiguous(memory_format=torch.channels_last) for x in (s, t)]
    assert torch.isclose(position_loss(*last).double(), position_loss(s, t), rtol=1e-4)
    assert torch.isclose(channel_loss(*last).double(), channel_loss(s, t), rtol=1e-4)


def test_hmat_gradients_and_grids():
    s, t = randn(4, 2, 2, 3).requires_grad_(), randn(4, 2, 2, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: position_loss(x, t), s)
    assert torch.autograd.gradcheck(lambda x: channel_loss(x, t), s)
    fine, coarse = randn(1, 2, 32, 32), randn(1, 3, 40, 40, seed=1)
    pooled = [nn.functional.adaptive_avg_pool2d(x, 16) for x in (fine, nn.functional.adaptive_avg_pool2d(coarse, 32))]
    assert torch.isclose(position_loss(fine, coarse), position_loss(*pooled))


def test_hmat_adds_its_groups():
    student = features(a=randn(3, 4, 8, 8), b=randn(3, 6, 4, 4), c=randn(3, 5, 2, 2))
    teacher = features(a=randn(3, 6, 8, 8, seed=1), b=randn(3, 6, 4, 4, seed=1), c=randn(3, 5, 2, 2, seed=1))
    groups = {"position": [0, 1], "activation": [-1], "channel": [1, 2]}
    term = HierarchicalAttention(**groups, position_weight=2, activation_weight=3, channel_weight=5)
    term.build(student, teacher)
    expected = (
        2 * position_loss(student["a"], teacher["a"])
        + 2 * position_loss(student["b"], teacher["b"])
        + 3 * attention_transfer_loss(student["c"], teacher["c"])
        + 5 * channel_loss(student["b"], teacher["b"])
        + 5 * channel_loss(student["c"], teacher["c"])
    )
    assert torch.isclose(term(student, teacher, None).double(), expected)
    assert not list(term.parameters())
    wide = HierarchicalAttention(channel=[0])
    wide.build(student, teacher)
    assert [tuple(p.shape) for p in wide.parameters()] == [(6, 4, 1, 1), (6,), (6,)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"position": 0}, "position is a list of indices"),
        ({"channel": ["last"]}, "channel is a list of indices"),
        ({"channel_weight": -1}, "channel_weight must be a number of at least 0"),
    ],
)
def test_hmat_refuses(bad, message):
    with pytest.raises(KDScopeError, match=message):
        HierarchicalAttention(**bad)


def test_hmat_names_the_pairs_that_there_are():
    maps = features(a=randn(2, 3, 2, 2))
    with pytest.raises(KDScopeError, match="activation asks for pair -2 of 1; they are 0 to 0"):
        HierarchicalAttention().build(maps, maps)


# Hybrid attention transfer


def test_h_at_closed_form():
    s, t = tensor([[1.0, 0.0]], dtype=DOUBLE), tensor([[2.0, 2.0]], dtype=DOUBLE)
    assert channel_transfer_loss(s, t).item() == pytest.approx((1 - math.sqrt(0.5)) ** 2)
    assert channel_transfer_loss(s, t).item() == pytest.approx(0.085786, abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_h_at_is_the_cosine_of_rectified_means(seed):
    torch.manual_seed(seed)
    s, t = torch.randn(4, 5, 3, 3, dtype=DOUBLE, requires_grad=True), torch.randn(4, 5, 3, 3, dtype=DOUBLE)
    cosine = nn.functional.cosine_similarity(s.clamp_min(0).mean((2, 3)), t.clamp_min(0).mean((2, 3)))
    loss = channel_transfer_loss(channel_vector(s), channel_vector(t))
    assert torch.isclose(loss, (1 - cosine).square().mean())
    assert channel_transfer_loss(channel_vector(3 * t), channel_vector(t)) < 1e-30
    assert torch.autograd.gradcheck(lambda x: channel_transfer_loss(channel_vector(x), channel_vector(t)), s)


def test_h_at_near_one_is_right_in_float32():
    s = 5 + 0.05 * randn(8, 64)
    t = 5 + 0.05 * randn(8, 64, seed=1)
    exact = channel_transfer_loss(s.float().double(), t.float().double()).item()
    assert channel_transfer_loss(s.float(), t.float()).item() == pytest.approx(exact, rel=1e-5)


def test_h_at_reads_the_batch_norm_behind_each_stage_in_the_same_pass():
    learner = learner_for("h-at", "wrn-10-1", ["wrn-16-1"])
    term = learner.objective.terms["h-at"][0]
    norms = ["layer2.0.bn1", "layer3.0.bn1", "bn1"]
    assert [head for _, head in term.points["student"]] == [head for _, head in term.points["teacher"]] == norms
    before = {name: buffer.clone() for name, buffer in learner.teachers[0].named_buffers()}
    learner.train()
    image = randn(6, 3, 16, 16, dtype=torch.float32)
    with learner.capturing():
        student, (teacher,) = learner._listen(image), learner.teach(image)
    expected = torch.zeros(())
    for share, (layer, head) in zip((0.01, 0.1, 1.0), term.points["student"], strict=True):
        s, t = student[layer], teacher[layer]
        mean, var = s.mean((0, 2, 3)), s.var((0, 2, 3), correction=0)
        norm = learner.student.get_submodule(head)
        e_s = ((s - mean[:, None, None]) / (var + norm.eps).sqrt()[:, None, None]).relu().mean((2, 3))
        norm = learner.teachers[0].get_submodule(head)
        e_t = nn.functional.batch_norm(t, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        channel = (1 - nn.functional.cosine_similarity(e_s, e_t.relu().mean((2, 3)))).square().mean()
        expected = expected + share * (100 * attention_transfer_loss(s, t) + channel)
    views = learner.objective._views("h-at", 0, student, [teacher])
    assert torch.isclose(term(*views, None), expected, rtol=1e-4)
    assert all(torch.equal(before[name], buffer) for name, buffer in learner.teachers[0].named_buffers())
    assert learner.student.bn1.num_batches_tracked == 1


def test_h_at_selects_channels_by_the_first_batch_and_keeps_them():
    learner = learner_for("h-at", "resnet8", ["resnet8x4"], size=16)
    term = learner.objective.terms["h-at"][0]
    assert not term.is_selected
    first = run(learner, seed=1)[1]
    with learner.capturing():
        teacher = learner.teach(randn(6, 3, 16, 16, seed=1, dtype=torch.float32))[0]["layer3"]
    e = nn.functional.normalize(teacher.mean((2, 3)), dim=1)
    expected = sorted(e.std(0).topk(64).indices.tolist())
    assert term.selected.tolist() == expected
    run(learner, seed=2)
    assert term.selected.tolist() == expected
    again = learner_for("h-at", "resnet8", ["resnet8x4"])
    again.objective.load_state_dict(learner.objective.state_dict())
    run(again, seed=3)
    assert again.objective.terms["h-at"][0].selected.tolist() == expected
    assert again.objective.terms["h-at"][0].is_selected
    assert first > 0


def test_h_at_of_a_network_with_itself_is_zero_and_each_teacher_has_its_own_layers():
    learner = learner_for("h-at", "wrn-10-1", ["wrn-10-1", "resnet8"])
    learner.student.load_state_dict(learner.teachers[0].state_dict())
    learner.eval()
    image = randn(6, 3, 16, 16, dtype=torch.float32)
    with learner.capturing():
        student, teachers = learner._listen(image), learner.teach(image)
    terms = learner.objective.terms["h-at"]
    assert terms[0](*learner.objective._views("h-at", 0, student, teachers), None) == 0
    assert terms[1](*learner.objective._views("h-at", 1, student, teachers), None) > 0
    assert [head for _, head in terms[1].points["teacher"]] == ["layer1", "layer2", "layer3"]


# FitNets


def test_hint_loss_closed_forms():
    r, u = randn(4, 3, 2, 5).requires_grad_(), randn(4, 3, 2, 5, seed=1)
    paper = sum(0.5 * (u[b] - r[b]).square().sum() for b in range(4)) / (4 * 10)  # 1/2 ||.||^2 over images and places
    assert torch.isclose(hint_loss(r, u), paper)
    assert torch.isclose(hint_loss(r, u, "repdistiller"), nn.functional.mse_loss(r, u))
    assert torch.isclose(hint_loss(r, u, "repdistiller"), hint_loss(r, u) * 2 / 3)
    assert hint_loss(u, u) == 0
    assert torch.autograd.gradcheck(lambda x: hint_loss(x, u), r)
    with pytest.raises(KDScopeError, match="unknown variant 'papr' in term 'fitnets'; nearest: paper"):
        hint_loss(r, u, "papr")


@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 12)] * 2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_regressor_of_any_grids(grid, target, rectify):
    if (grid[0] - target[0]) * (grid[1] - target[1]) < 0:
        with pytest.raises(KDScopeError, match=f"{grid[0]} x {grid[1]} to one of {target[0]} x {target[1]}"):
            regressor(2, 3, grid, target, rectify)
        return
    layers = regressor(2, 3, grid, target, rectify)
    out = layers(randn(3, 2, *grid, dtype=torch.float32))
    assert out.shape == (3, 3, *target)
    assert bool((out < 0).any()) != rectify
    # Every input place is read: none is skipped by the stride.
    x = torch.ones(3, 2, *grid, requires_grad=True)
    layers[0](x).square().sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize(
    ("grid", "target", "kernel", "stride", "padding"),
    [(8, 4, 3, 2, 1), (4, 8, 4, 2, 1), (8, 8, 1, 1, 0), (8, 7, 2, 1, 0), (7, 5, 3, 1, 0)],
)
def test_regressor_has_the_published_kernels(grid, target, kernel, stride, padding):
    conv = regressor(2, 3, (grid, grid), (target, target))[0]
    assert (conv.kernel_size, conv.stride, conv.padding) == ((kernel,) * 2, (stride,) * 2, (padding,) * 2)
    assert isinstance(conv, nn.ConvTranspose2d) == (grid < target)


def test_fitnets_presets():
    paper, joint = resolve("fitnets"), resolve("fitnets-joint")
    assert {name: each["weight"] for name, each in paper.items()} == {"cross-entropy": 1.0, "kd": 4.0, "fitnets": 1.0}
    assert (paper["kd"]["temperature"], paper["kd"]["anneal"]) == (3.0, "linear")
    assert joint["fitnets"]["weight"] == 100.0
    learner = learner_for("fitnets", "resnet8", ["resnet14"])
    assert learner.objective.names == ("cross-entropy", "kd")
    assert learner.objective.weights_at(0, 4) == [1.0, 4.0]
    assert learner.objective.weights_at(3, 4) == [1.0, 1.0]
    ((name, phase),) = learner.objective.phases
    assert (name, phase.learns, phase.epochs(240)) == ("fitnets", "student", 30)
    assert learner_for("fitnets-joint", "resnet8", ["resnet14"]).objective.names == ("cross-entropy", "fitnets")


def test_fitnets_hints_train_the_student_up_to_the_guided_layer_alone():
    learner = learner_for("fitnets", "resnet8", ["resnet14"])
    (kind,) = learner.objective.phases
    learner.enter(kind)
    image = randn(6, 3, 16, 16, dtype=torch.float32)
    with learner.capturing():
        student, teachers = learner._listen(image), learner.teach(image)
    value = learner.objective.phase_value(kind, student, teachers, Batch(image, None, None, None))
    term = learner.objective.terms["fitnets"][0]
    prediction = term.regressors[0](student["layer2"])
    assert value.item() == pytest.approx(0.5 * (prediction - teachers[0]["layer2"]).square().sum(1).mean().item())
    value.sum().backward()
    touched = {name.split(".")[0] for name, p in learner.student.named_parameters() if p.grad is not None}
    assert touched == {"conv1", "bn1", "layer1", "layer2"}
    assert learner.objective.learning(kind) == set(term.parameters())
    assert not learner.objective.learning(None)
    joint = learner_for("fitnets-joint", "resnet8", ["resnet14"])
    assert joint.objective.learning(None) == set(joint.objective.parameters())


def test_fitnets_regressor_ends_as_the_hint_does():
    student, rectified, signed = randn(2, 3, 4, 4), randn(2, 5, 4, 4).relu(), randn(2, 5, 4, 4)
    for hint, variant, last in (
        (rectified, "paper", nn.ReLU),
        (signed, "paper", nn.Identity),
        (0 * signed, "paper", nn.Identity),
        (signed, "repdistiller", nn.ReLU),
    ):
        term = FitNets(variant=variant)
        term.build(features(a=student), features(a=hint))
        assert type(term.regressors[0][-1]) is last


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"variant": "repdistiler"}, "unknown variant 'repdistiler' in term 'fitnets'; nearest: repdistiller"),
        ({"init_share": -0.1}, "init_share is a share of the run"),
        ({"init_share": "long"}, "init_share is a share of the run"),
        ({"init_share": True}, "init_share is a share of the run"),
    ],
)
def test_fitnets_refuses(bad, message):
    with pytest.raises(KDScopeError, match=message):
        FitNets(**bad)


# All


@pytest.mark.parametrize("method", ["at", "fitnets-joint", "h-at", "hmat", "kdafm", "nst", "vid"])
def test_channels_last_changes_nothing(method):
    learner = learner_for(method, "resnet8", ["resnet8x4"])
    term_name = next(name for name in learner.objective.names if name not in ("cross-entropy", "kd"))
    learner.eval()
    image = randn(6, 3, 16, 16, dtype=torch.float32)
    with learner.capturing():
        student, teachers = learner._listen(image), learner.teach(image)
    views = learner.objective._views(term_name, 0, student, teachers)
    last = [
        Features(view.logits, {k: m.contiguous(memory_format=torch.channels_last) for k, m in view.maps.items()})
        for view in views
    ]
    term = learner.objective.terms[term_name][0]
    assert term(*views, None) > 0
    assert torch.isclose(term(*views, None), term(*last, None), rtol=1e-5)
