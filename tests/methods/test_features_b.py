"""Factor transfer, activation boundaries, the overhaul, knowledge review, flow between layers, singular vectors."""

from itertools import pairwise

import pytest
import torch
from torch import tensor

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import METHODS, Objective, resolve
from kdscope.methods.ab import ActivationBoundaries, boundary_loss
from kdscope.methods.fsp import FlowTransfer, flow, fsp_loss
from kdscope.methods.ft import FactorTransfer, factor_transfer_loss
from kdscope.methods.kd_svd import SingularVectors, compressed, singular_vector_loss
from kdscope.methods.ofd import Margin, Overhaul, batch_norm_before, expected_negative, partial_loss
from kdscope.methods.reviewkd import Fusion, KnowledgeReview, hierarchical_context_loss
from kdscope.methods.singular import align, top_right_vectors


def features(*shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    maps = {f"layer{i}": torch.randn(*shape, generator=generator, dtype=dtype) for i, shape in enumerate(shapes)}
    return Features(torch.zeros(shapes[0][0], 3), maps)


def last(x):
    return x.to(memory_format=torch.channels_last)


# Factor transfer


def test_ft_closed_form():
    student, teacher = tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
    assert factor_transfer_loss(student, teacher).item() == pytest.approx(8**-0.5, abs=1e-6)
    assert factor_transfer_loss(student, teacher, "repdistiller").item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("variant", ["authors-code", "repdistiller"])
def test_ft_is_the_naive_formula_and_does_not_see_the_scale(variant):
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 5, 4, dtype=torch.float64), torch.randn(4, 3, 5, 4, dtype=torch.float64)
    loss, total = factor_transfer_loss(student, teacher, variant), 0.0
    for s, t in zip(student, teacher, strict=True):
        if variant == "repdistiller":
            s, t = (s**2).sum(0), (t**2).sum(0)
        total += (s / (s**2).sum().sqrt() - t / (t**2).sum().sqrt()).abs().mean() / 4
    assert torch.isclose(loss, total, rtol=1e-12)
    assert torch.isclose(factor_transfer_loss(7.3 * student, 0.1 * teacher, variant), loss, rtol=1e-12)
    assert factor_transfer_loss(2 * teacher, teacher, variant) < 1e-15
    assert torch.isclose(factor_transfer_loss(last(student), last(teacher), variant), loss, rtol=1e-12)


def test_ft_gradcheck():
    torch.manual_seed(0)
    student = torch.randn(4, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 2, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: factor_transfer_loss(s, teacher), student)


def test_ft_paraphraser_learns_alone_and_is_frozen_then():
    torch.manual_seed(0)
    term = FactorTransfer()
    student, teacher = features((4, 6, 4, 4)), features((4, 10, 8, 8), seed=1)
    term.build(student, teacher)
    (phase,) = term.phases()
    assert (phase.learns, phase.epochs(163)) == ("term", 5)
    loss = term.phase_loss(phase, None, teacher, None)
    target = teacher.maps["layer0"]
    rebuilt = term.paraphrasers[0].decoder(term.paraphrasers[0].encoder(target))
    assert torch.isclose(loss, (rebuilt - target).abs().mean())
    first, main = set(term.trained(phase)), set(term.trained(None))
    assert first.isdisjoint(main)
    assert first | main == set(term.parameters())
    loss.backward()
    assert all(p.grad is not None for p in first)
    assert all(p.grad is None for p in main)
    term.zero_grad()
    term(student, teacher, None).backward()
    assert all(p.grad is None for p in first)
    assert all(p.grad.abs().max() > 0 for p in main)


def test_ft_reconstruction_is_exact_for_a_paraphraser_of_identities():
    term, teacher = FactorTransfer(rate=1.0), Features(torch.zeros(2, 3), {"layer": torch.rand(2, 3, 4, 4)})
    term.build(teacher, teacher)
    for name, parameter in term.paraphrasers[0].named_parameters():
        parameter.data.zero_()
        if name.endswith("weight"):
            parameter.data[:, :, 1, 1] = torch.eye(3)  # each layer hands its non-negative input on
    assert term.phase_loss(term.phases()[0], None, teacher, None).item() == 0.0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"variant": "repdistiler"}, "nearest: repdistiller"),
        ({"rate": 0}, "rate"),
        ({"init_share": -0.1}, "init_share"),
        ({"init_share": "many"}, "init_share"),
    ],
)
def test_ft_refuses(bad, message):
    with pytest.raises(KDScopeError, match=message):
        FactorTransfer(**bad)


# Flow of the solution procedure


def test_fsp_closed_form():
    front, back = torch.arange(8.0).reshape(1, 2, 2, 2), torch.ones(1, 3, 2, 2)
    assert flow(front, back)[0].tolist() == [[1.5] * 3, [5.5] * 3]
    other = [front + torch.randn(1, 2, 2, 2), back]
    sums = fsp_loss([front, back], other)
    assert fsp_loss([front, back], [front, back]).item() == 0.0
    # C_1 C_2 / 2 between the sum and the mean over entries, as published for these two codes, less the former's 1e-3.
    assert fsp_loss([front, back], other, "repdistiller").item() == pytest.approx(sums.item() / 6, rel=1e-6)
    assert fsp_loss([front, back], other, "kd-methods-tf").item() == pytest.approx(sums.item() / 2000, rel=1e-6)


def test_fsp_pools_the_larger_map_by_its_maximum_and_takes_consecutive_layers():
    torch.manual_seed(0)
    shapes = [(3, 2, 8, 8), (3, 4, 4, 4), (3, 5, 2, 2)]
    ours, theirs = ([torch.randn(*shape, dtype=torch.float64) for shape in shapes] for _ in range(2))

    def naive(maps, i):
        front, back = maps[i], maps[i + 1]
        n, _, side, _ = back.shape
        front = front.reshape(n, -1, side, 2, side, 2).amax((3, 5))
        return torch.einsum("bchw,bdhw->bcd", front, back) / side**2

    expected = sum((naive(ours, i) - naive(theirs, i)).square().sum() / 3 for i in range(2))
    assert torch.isclose(fsp_loss(ours, theirs), expected, rtol=1e-12)
    assert torch.isclose(fsp_loss([last(o) for o in ours], [last(t) for t in theirs]), expected, rtol=1e-12)


def test_fsp_of_other_grids_needs_no_resizing():
    """A flow is an average over places: constant maps have the same one on any grid."""
    values, more = torch.rand(2, 3, 1, 1), torch.rand(2, 4, 1, 1)
    small = [values.expand(2, 3, 4, 4), more.expand(2, 4, 2, 2)]
    large = [values.expand(2, 3, 7, 7), more.expand(2, 4, 5, 5)]
    assert fsp_loss(small, large) < 1e-12


def test_fsp_gradcheck():
    torch.manual_seed(0)
    front = torch.randn(4, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    back = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    theirs = [torch.randn(4, 2, 4, 4, dtype=torch.float64), torch.randn(4, 3, 2, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda f, b: fsp_loss([f, b], theirs), (front, back))


def test_fsp_initialises_and_adapts_only_where_widths_differ():
    term = FlowTransfer()
    student = features((2, 4, 8, 8), (2, 6, 4, 4))
    teacher = features((2, 4, 8, 8), (2, 9, 4, 4), seed=1)
    term.build(student, teacher)
    assert not term.in_main
    assert [sum(p.numel() for p in adapter.parameters()) for adapter in term.adapters] == [0, 54]
    (phase,) = term.phases()
    assert (phase.learns, phase.epochs(240), phase.lr) == ("student", 30, 0.001)
    adapted = [student["layer0"], torch.einsum("oi,bihw->bohw", term.adapters[1].weight[:, :, 0, 0], student["layer1"])]
    expected = fsp_loss(adapted, list(teacher.maps.values()))
    assert torch.isclose(term.phase_loss(phase, student, teacher, None), expected, rtol=1e-5)
    assert not list(term.trained(None))
    assert len(list(term.trained(phase))) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"variant": "papr"}, "nearest: paper"), ({"init_share": None}, "init_share"), ({"init_lr": 0}, "init_lr")],
)
def test_fsp_refuses(bad, message):
    with pytest.raises(KDScopeError, match=message):
        FlowTransfer(**bad)


def test_fsp_needs_two_layers():
    with pytest.raises(KDScopeError, match="two or more, not 1"):
        fsp_loss([torch.ones(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)])


# Activation boundaries


def test_ab_closed_form():
    s = tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]).reshape(7, 1, 1, 1)

    def rho(t):
        return [boundary_loss(one[None], torch.full((1, 1, 1, 1), t)).item() for one in s]

    assert rho(-1.0) == rho(0.0) == [0, 0, 0.25, 1, 2.25, 4, 9]
    assert rho(1.0) == rho(1e-6) == [9, 4, 2.25, 1, 0.25, 0, 0]


def test_ab_is_the_naive_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    for m in (1.0, 0.3):
        below = (student + m) ** 2 * ((student > -m) & (teacher <= 0))
        above = (student - m) ** 2 * ((student <= m) & (teacher > 0))
        assert torch.isclose(boundary_loss(student, teacher, m), (below + above).sum() / 4, rtol=1e-12)
    loss = boundary_loss(student, teacher)
    assert torch.isclose(boundary_loss(last(student), last(teacher)), loss, rtol=1e-12)
    assert torch.isclose(boundary_loss(student, 100 * teacher), loss)  # the teacher's sign alone counts
    assert boundary_loss(3 * teacher.sign(), teacher) == 0


def test_ab_gradcheck():
    torch.manual_seed(0)
    student = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: boundary_loss(s, teacher), student)


def test_ab_weighs_the_deepest_layer_most():
    student = features((2, 4, 8, 8), (2, 6, 4, 4), (2, 6, 2, 2))
    teacher = features((2, 4, 8, 8), (2, 6, 4, 4), (2, 6, 2, 2), seed=1)
    each = [boundary_loss(s, t) for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True)]
    term = ActivationBoundaries()
    term.build(student, teacher)
    assert not term.in_main
    assert not list(term.parameters())  # equal widths: no connector
    (phase,) = term.phases()
    expected = 3e-3 * (each[2] + each[1] / 2 + each[0] / 4)
    assert torch.isclose(term.phase_loss(phase, student, teacher, None), expected)
    assert (phase.learns, phase.epochs(240)) == ("student", 30)


@pytest.mark.parametrize(
    ("variant", "connected"),
    [("authors-code", (0, 1, 0)), ("repdistiller", (0, 1, 1)), ("kd-methods-tf", (1, 1, 1))],
)
def test_ab_connectors(variant, connected):
    student = features((4, 4, 8, 8), (4, 6, 4, 4), (4, 6, 4, 4))
    teacher = features((4, 4, 8, 8), (4, 9, 4, 4), (4, 6, 2, 2), seed=1)
    term = ActivationBoundaries(variant=variant)
    term.build(student, teacher)
    assert tuple(int(any(True for _ in c.parameters())) for c in term.connectors) == connected
    loss = term(student, teacher, None)
    weights = (1, 2, 4) if variant == "kd-methods-tf" else (0.25, 0.5, 1)
    total = 0
    for w, c, s, t in zip(weights, term.connectors, student.maps.values(), teacher.maps.values(), strict=True):
        s = c(s)
        if s.shape != t.shape:
            s = torch.nn.functional.avg_pool2d(s, 2)
        total = total + w * boundary_loss(s, t)
    assert torch.isclose(loss, 3e-3 * total, rtol=1e-5)
    assert not list(term.trained(None))
    assert set(term.trained(term.phases()[0])) == set(term.parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"variant": "authors"}, "nearest: authors-code"), ({"init_share": -1}, "init_share"), ({"margin": 0}, "margin")],
)
def test_ab_refuses(bad, message):
    with pytest.raises(KDScopeError, match=message):
        ActivationBoundaries(**bad)


# The overhaul


@pytest.mark.parametrize(
    ("beta", "gamma"), [(0.0, 1.0), (1.3, 0.7), (-2.0, 0.5), (4.0, -1.5), (12.0, 1.0), (-9.0, 0.1)]
)
def test_ofd_margin_is_the_integral(beta, gamma):
    """E[x | x < 0] by quadrature in float64, over 40 of the scale on which the density of negatives falls."""
    sigma = abs(gamma)
    reach = 40 * min(sigma, sigma**2 / beta if beta > 0 else sigma) + max(-beta, 0)
    x = torch.linspace(-reach, 0, 400_001, dtype=torch.float64)
    density = (-0.5 * ((x - beta) / sigma) ** 2 + 0.5 * (max(beta, 0) / sigma) ** 2).exp()  # scaled: no underflow
    expected = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
    margin = expected_negative(tensor([beta]), tensor([gamma]))
    assert margin.item() == pytest.approx(expected.item(), rel=1e-6)


def test_ofd_margin_in_the_tails_and_in_the_authors_code():
    mean, std = tensor([1e3, 1e6, -50.0, 2.0, -2.0, 0.0]), tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    margin = expected_negative(mean, std)
    assert torch.allclose(margin, tensor([-1e-3, -1e-6, -50.0, 0.0, -2.0, 0.0]).double(), rtol=1e-5, atol=1e-30)
    # P(x < 0) = Phi(-3.0) = 0.00135 and Phi(-3.2) = 0.00069
    near = expected_negative(tensor([3.0, 3.2]), torch.ones(2))
    code = expected_negative(tensor([3.0, 3.2]), torch.ones(2), "authors-code")
    assert code[0] == near[0]
    assert code[1] == -3


def test_ofd_distance_is_the_released_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    margin = tensor([-0.2, -1.0, 0.0]).double()
    target = torch.max(teacher, margin.reshape(1, 3, 1, 1))
    naive = ((student - target) ** 2 * ((student > target) | (target > 0)).double()).sum() / 4
    loss = partial_loss(student, teacher, margin)
    assert torch.isclose(loss, naive, rtol=1e-12)
    assert torch.isclose(partial_loss(last(student), last(teacher), margin), loss, rtol=1e-12)
    assert partial_loss(teacher.clamp_min(-0.1), teacher.clamp_min(-0.1), torch.full((3,), -0.1)) == 0
    negatives = -teacher.abs()
    assert partial_loss(negatives - 5, negatives, margin - 5) == 0  # below a negative target nothing is wrong
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: partial_loss(s, teacher, margin), student)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnet14", ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2"]),
        ("resnet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ("vgg11", ["block1.1", "block2.4", "block3.4", "block4.4"]),
        ("torchvision:resnet18", ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]),
        ("wrn-10-1", [None, None, None]),
    ],
)
def test_ofd_finds_the_batch_norm(name, norms):
    network = models.build(name, 10)
    names = {module: key for key, module in network.named_modules()}
    found = [batch_norm_before(network, layer) for layer in models.preactivations(network)]
    assert [None if norm is None else names[norm] for norm in found] == norms


def test_ofd_takes_a_batch_norm_that_is_named_and_none_without():
    network = models.build("wrn-10-1", 10)
    assert batch_norm_before(network, "layer2.0.bn1") is network.layer2[0].bn1
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    assert batch_norm_before(plain, "<1") is None
    assert batch_norm_before(plain, "<0") is None


def test_ofd_weighs_the_deepest_layer_most_and_takes_its_margins_from_the_teacher():
    torch.manual_seed(0)
    teacher = models.build("resnet8", 10)
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    term = Overhaul()
    term.look(teacher, teacher)
    layers = models.preactivations(teacher)
    narrow = features((3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 2, 2))
    ours = Features(torch.zeros(3, 10), dict(zip(layers, narrow.maps.values(), strict=True)))
    wide = features((3, 16, 8, 8), (3, 32, 4, 4), (3, 64, 4, 4), seed=1)
    theirs = Features(torch.zeros(3, 10), dict(zip(layers, wide.maps.values(), strict=True)))
    term.build(ours, theirs)
    expected = 0
    for i, (s, t) in enumerate(zip(ours.maps.values(), theirs.maps.values(), strict=True)):
        norm = teacher.get_submodule(f"layer{i + 1}.0.bn2")
        t = t if i < 2 else torch.nn.functional.avg_pool2d(t, 2)
        margin = expected_negative(norm.bias.detach(), norm.weight.detach())
        expected = expected + partial_loss(term.connectors[i](s), t, margin) * (0.25, 0.5, 1)[i]
    assert torch.isclose(term(ours, theirs, None), expected, rtol=1e-5)


def test_ofd_measures_its_margin_where_there_is_no_batch_norm():
    torch.manual_seed(0)
    margin = Margin(3, None, "paper")
    first, second = torch.randn(4, 3, 5, 5), 2 * torch.randn(4, 3, 5, 5)
    second[:, 2] = 1.0
    both = torch.cat([first, second]).transpose(0, 1).flatten(1)
    margin(first)
    expected = torch.stack([channel[channel < 0].mean() for channel in both])
    assert torch.allclose(margin(second), expected, rtol=1e-6)
    margin.eval()
    assert torch.allclose(margin(0 * first), expected, rtol=1e-6)  # and it stays
    assert torch.equal(Margin(3, None, "paper")(first.abs()), torch.zeros(3))


def test_ofd_refuses():
    with pytest.raises(KDScopeError, match="nearest: paper"):
        Overhaul(variant="papr")


# Knowledge review


def checkerboard(side):
    return (1 - 2.0 * ((torch.arange(side)[:, None] + torch.arange(side)) % 2)).expand(1, 1, side, side)


def test_reviewkd_context_loss_closed_forms():
    one = torch.ones(2, 3, 8, 8)
    assert hierarchical_context_loss(one, 0 * one).item() == pytest.approx(1.0)
    assert hierarchical_context_loss(checkerboard(8), torch.zeros(1, 1, 8, 8)).item() == pytest.approx(1 / 1.875)
    # 4 x 4: its own grid, 2 x 2 and 1 x 1 with weights 1, 1/2, 1/4; a single place: itself alone.
    assert hierarchical_context_loss(checkerboard(4), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(1 / 1.75)
    assert hierarchical_context_loss(torch.full((2, 3, 1, 1), 3.0), torch.zeros(2, 3, 1, 1)).item() == 9.0


def test_reviewkd_context_loss_is_the_naive_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    d, total = student - teacher, 0
    for weight, side in ((1, 1), (0.5, 2), (0.25, 4), (0.125, 8)):
        pooled = d.reshape(4, 3, 8 // side, side, 8 // side, side).mean((3, 5))
        total = total + weight * pooled.square().mean()
    loss = hierarchical_context_loss(student, teacher)
    assert torch.isclose(loss, total / 1.875, rtol=1e-12)
    assert torch.isclose(hierarchical_context_loss(last(student), last(teacher)), loss, rtol=1e-12)
    assert hierarchical_context_loss(teacher, teacher) == 0
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: hierarchical_context_loss(s, teacher), student)


def test_reviewkd_fusion_is_the_weighted_sum_of_the_two_maps():
    torch.manual_seed(0)
    fuse = Fusion(4, 5, 6, deepest=False).eval()
    for norm in (fuse.inward[1], fuse.outward[1]):
        norm.eps = 0.0  # batch norm of fresh statistics is then the identity
    x, deeper = torch.randn(2, 4, 4, 4), torch.randn(2, 5, 2, 2)
    inward = torch.einsum("oi,bihw->bohw", fuse.inward[0].weight[:, :, 0, 0], x)
    above = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    conv = fuse.attention[0]
    both = torch.cat([inward, above], 1)
    share = (torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], both) + conv.bias[:, None, None]).sigmoid()
    expected = inward * share[:, 0:1] + above * share[:, 1:2]
    expected = expected.repeat_interleave(2, 2).repeat_interleave(2, 3)  # to the teacher's grid
    output, reviewed = fuse(x, deeper, (8, 8))
    assert torch.allclose(reviewed, expected, atol=1e-6)
    assert torch.allclose(output, fuse.outward[0](expected), atol=1e-5)
    assert Fusion(4, 5, 6, deepest=True).attention is None


def test_reviewkd_reviews_from_the_deep_end_on_any_grid():
    torch.manual_seed(0)
    student = features((3, 4, 9, 7), (3, 6, 5, 4), (3, 8, 3, 2))
    teacher = features((3, 5, 8, 8), (3, 9, 4, 4), (3, 7, 2, 2), seed=1)
    student = Features(student.logits, dict(student.maps) | {"penultimate": torch.randn(3, 8)})
    teacher = Features(teacher.logits, dict(teacher.maps) | {"penultimate": torch.randn(3, 7)})
    term = KnowledgeReview()
    term.build(student, teacher)
    term.eval()
    assert [fusion.inward[0].out_channels for fusion in term.fusions] == [8] * 4
    reviewed, total = None, 0
    for i in (3, 2, 1, 0):
        s, t = (list(one.maps.values())[i] for one in (student, teacher))
        s, t = (each[:, :, None, None] if i == 3 else each for each in (s, t))
        output, reviewed = term.fusions[i](s, reviewed, t.shape[2:])
        assert output.shape == t.shape
        total = total + hierarchical_context_loss(output, t)
    assert torch.isclose(term(student, teacher, None), total)
    # A deep map of the student takes part in what the shallow layers say.
    shallow = hierarchical_context_loss(output, t)
    assert torch.autograd.grad(shallow, term.fusions[3].inward[0].weight)[0].abs().max() > 0


def test_reviewkd_settings():
    assert resolve("reviewkd")["reviewkd"]["warmup"] == pytest.approx(20 / 240)
    student, teacher = models.build("resnet8", 10), models.build("resnet18", 10)
    objective = Objective(resolve("reviewkd"), student, [teacher])
    ours, theirs = objective.pairs["reviewkd"][0]
    assert ours == ("layer1", "layer2", "layer3", "penultimate")
    assert theirs == ("<layer2.1.relu#1", "<layer3.1.relu#1", "<layer4.1.relu#1", "penultimate")


# Singular vectors


def reference_vectors(feature_map, k):
    """By the library's decomposition of X [N, C], with the sign that makes the sum non-negative."""
    _, values, rows = torch.linalg.svd(feature_map.flatten(2).mT, full_matrices=False)
    vectors = rows.mT[:, :, :k]
    return values[:, :k], vectors * torch.where(vectors.sum(1, keepdim=True) < 0, -1, 1)


@pytest.mark.parametrize("shape", [(3, 5, 4, 3), (3, 12, 3, 2), (3, 6, 3, 2)], ids=["tall", "wide", "square"])
def test_singular_vectors_and_their_gradient_are_those_of_the_decomposition(shape):
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    got, expected = top_right_vectors(x, 3), reference_vectors(x, 3)
    weights = [torch.randn_like(each) for each in expected]
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    gradients = [
        torch.autograd.grad(sum((a * w).sum() for a, w in zip(each, weights, strict=True)), x)[0]
        for each in (got, expected)
    ]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-11)
    assert gradients[0].abs().max() > 0.01
    assert torch.autograd.gradcheck(lambda x: top_right_vectors(x, 3), x)


@pytest.mark.parametrize("shape", [(4, 6, 5, 5), (4, 30, 4, 4)], ids=["tall", "wide"])
def test_singular_vectors_in_float32_are_near_those_in_float64(shape):
    torch.manual_seed(0)
    x = torch.randn(*shape).relu() + 3.0
    exactly = reference_vectors(x.double(), 1)[1]
    assert torch.allclose(top_right_vectors(x)[1].double(), exactly, atol=1e-5)
    assert top_right_vectors(x.bfloat16())[1].dtype == torch.float32
    # A non-negative map's first direction is non-negative (Perron), and each image is decomposed on its own.
    assert (top_right_vectors(x)[1] >= 0).all()
    assert torch.allclose(top_right_vectors(x[1:2])[1], top_right_vectors(x)[1][1:2], atol=1e-6)


def test_singular_vectors_do_not_see_scale_places_or_memory_format():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    values, vectors = top_right_vectors(x, 2)
    places = x.flatten(2)[:, :, torch.randperm(16)].reshape(3, 5, 2, 8)
    for other, scale in ((7.3 * x, 7.3), (places, 1.0), (last(x), 1.0)):
        assert torch.allclose(top_right_vectors(other, 2)[1], vectors, atol=1e-10)
        assert torch.allclose(top_right_vectors(other, 2)[0], scale * values)


def degenerate():
    torch.manual_seed(0)
    rank_one = torch.einsum("bc,bn->bcn", torch.rand(2, 4), torch.rand(2, 9))
    twice = torch.rand(2, 2, 9).repeat(1, 2, 1)
    return {
        "zeros": torch.zeros(2, 4, 9),
        "rank one": rank_one,
        "rank one, wide": rank_one.mT,
        "identity": torch.eye(9).expand(2, 9, 9),
        "one channel alive": torch.cat([torch.rand(2, 1, 9), torch.zeros(2, 3, 9)], 1),
        "duplicated channels": twice,
        "ones": torch.ones(2, 4, 9),
        "one place": torch.rand(2, 4, 1),
    }


@pytest.mark.parametrize("kind", degenerate())
def test_singular_vectors_of_degenerate_maps_have_finite_gradients(kind):
    x = degenerate()[kind].clone().unsqueeze(3).requires_grad_()
    values, vectors = top_right_vectors(x, 4)
    (values.sum() + (vectors * torch.rand_like(vectors)).sum()).backward()
    assert vectors.shape == (2, x.shape[1], 4)
    assert values.isfinite().all()
    assert vectors.isfinite().all()
    assert x.grad.isfinite().all()
    lengths = vectors.norm(dim=1)
    assert torch.allclose(lengths, (values > 0).float(), atol=1e-5)  # unit vectors, and zeros where there is nothing
    assert (x.grad.abs().max() > 0) == (kind != "zeros")


def test_singular_vector_of_a_map_of_rank_one_has_the_closed_form_gradient():
    """X = sigma u v^T: d(g . v) / dX = u (g - v (v . g))^T / sigma, where the library gives NaN."""
    torch.manual_seed(0)
    u, v, g = (torch.nn.functional.normalize(torch.rand(n, dtype=torch.float64), dim=0) for n in (9, 4, 4))
    x = (2.5 * torch.outer(v, u)).reshape(1, 4, 3, 3).requires_grad_()
    (top_right_vectors(x)[1][0, :, 0] @ g).backward()
    expected = torch.outer(g - v * (v @ g), u) / 2.5
    assert torch.allclose(x.grad[0].flatten(1), expected, atol=1e-12)


def test_singular_vectors_pass_nan_on():
    x = torch.rand(2, 3, 4, 4)
    x[1, 0, 0, 0] = float("nan")
    vectors = top_right_vectors(x)[1]
    assert vectors[0].isfinite().all()
    assert vectors[1].isnan().any()


def test_align():
    torch.manual_seed(0)
    assert torch.equal(align(torch.eye(3)[None], tensor([[0.0, -1.0, 0.0]])), tensor([[0.0, -1.0, 0.0]]))
    candidates = torch.linalg.qr(torch.randn(6, 5, 4, dtype=torch.float64))[0]
    target = torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64), dim=1)
    chosen = align(candidates, target)
    parallel = torch.einsum("bcm,bc->bm", candidates, target)
    assert torch.allclose((chosen * target).sum(1), parallel.abs().amax(1))
    flipped = candidates[:, :, [2, 0, 3, 1]] * tensor([1, -1, -1, 1])
    assert torch.equal(align(flipped, target), chosen)
    many = torch.stack([target, -target], 2)
    assert torch.equal(align(candidates, many), torch.stack([chosen, -chosen], 2))


# KD-SVD


def kd_svd_naive(student_maps, teacher_maps, k):
    """Image by image and entry by entry, from the library's decomposition."""
    total = 0.0
    for b in range(len(student_maps[0])):
        points = []
        for s, t in zip(student_maps, teacher_maps, strict=True):
            _, sigma, rows_t = torch.linalg.svd(t[b].flatten(1).T, full_matrices=False)
            rows_s = torch.linalg.svd(s[b].flatten(1).T, full_matrices=False)[2][: k + 3]
            share = sigma[:k] / sigma[:k].norm()
            theirs = [share[j] * rows_t[j] for j in range(k)]
            ours = []
            for j in range(k):
                cosines = rows_s @ rows_t[j]
                best = cosines.abs().argmax()
                ours.append(share[j] * rows_s[best] * cosines[best].sign())
            points.append((ours, theirs))
        for front, back in pairwise(points):
            for j in range(k):
                # The sign of the teacher's vectors is free; the rule is a non-negative sum.
                f_t, b_t = (each[1][j] * (1 if each[1][j].sum() >= 0 else -1) for each in (front, back))
                f_s, b_s = (each[0][j] * (1 if each[1][j].sum() >= 0 else -1) for each in (front, back))
                r_s = (-((b_s[:, None] - f_s[None]) ** 2) / 8).exp()
                r_t = (-((b_t[:, None] - f_t[None]) ** 2) / 8).exp()
                total = total + ((r_s - r_t) ** 2).sum()
    return total


@pytest.mark.parametrize("k", [1, 2])
def test_kd_svd_is_the_naive_formula(k):
    torch.manual_seed(0)
    shapes = [(3, 4, 4, 4), (3, 6, 4, 3), (3, 12, 2, 2)]
    ours, theirs = ([torch.randn(*shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
    loss = singular_vector_loss(ours, theirs, k)
    assert torch.isclose(loss, kd_svd_naive(ours, theirs, k), rtol=1e-9)
    assert torch.isclose(singular_vector_loss(ours, theirs, k, "repdistiller"), loss / 3)
    assert torch.isclose(singular_vector_loss([last(o) for o in ours], [last(t) for t in theirs], k), loss, rtol=1e-9)
    assert torch.isclose(singular_vector_loss([9 * o for o in ours], theirs, k), loss, rtol=1e-9)
    assert singular_vector_loss(theirs, theirs, k) < 1e-20


@pytest.mark.parametrize(("spread", "tolerance"), [(0.5, 1e-5), (0.05, 1e-4)])
def test_kd_svd_far_from_zero_is_right_in_float32(spread, tolerance):
    """At a spread of a hundredth of the mean, the eigenvectors of a float32 matrix are the limit."""
    torch.manual_seed(0)
    ours, theirs = ([5 + spread * torch.randn(4, c, 5, 5) for c in (6, 8)] for _ in range(2))
    exactly = singular_vector_loss([o.double() for o in ours], [t.double() for t in theirs])
    assert torch.isclose(singular_vector_loss(ours, theirs).double(), exactly, rtol=tolerance)
    rough = singular_vector_loss([o.bfloat16() for o in ours], [t.bfloat16() for t in theirs])
    again = singular_vector_loss([o.bfloat16().float() for o in ours], [t.bfloat16().float() for t in theirs])
    assert rough == again


def test_kd_svd_of_vectors_is_the_distance_of_the_compressed_maps():
    torch.manual_seed(0)
    ours, theirs = torch.randn(3, 5, 4, 4, dtype=torch.float64), torch.randn(3, 5, 4, 4, dtype=torch.float64)
    f_s, f_t = compressed(ours, theirs, 2)
    values = reference_vectors(theirs, 2)[0]
    assert torch.allclose(f_t.norm(dim=1), values / values.norm(dim=1, keepdim=True))
    assert torch.isclose(singular_vector_loss([ours], [theirs], 2, "vectors"), (f_s - f_t).square().sum())
    assert torch.isclose(singular_vector_loss([-ours], [theirs], 2, "vectors"), (f_s - f_t).square().sum())


def test_kd_svd_gradcheck():
    torch.manual_seed(0)
    ours = [torch.randn(4, c, 3, 3, dtype=torch.float64, requires_grad=True) for c in (3, 4)]
    theirs = [torch.randn(4, c, 3, 3, dtype=torch.float64) for c in (3, 4)]
    assert torch.autograd.gradcheck(lambda *maps: singular_vector_loss(maps, theirs), ours)


def test_kd_svd_adapts_only_unequal_widths_and_asks_for_clipped_gradients():
    term = SingularVectors()
    term.build(features((2, 4, 8, 8), (2, 6, 4, 4)), features((2, 4, 8, 8), (2, 9, 2, 2)))
    assert [sum(p.numel() for p in adapter.parameters()) for adapter in term.adapters] == [0, 6 * 9 + 18]
    assert METHODS["kd-svd"].gradients == "clip"


@pytest.mark.parametrize(
    ("bad", "message"), [({"variant": "vector"}, "nearest: vectors"), ({"k": 0}, "k must be"), ({"k": 1.5}, "k is a")]
)
def test_kd_svd_refuses(bad, message):
    with pytest.raises(KDScopeError, match=message):
        SingularVectors(**bad)


def test_kd_svd_needs_two_layers():
    with pytest.raises(KDScopeError, match="two or more, not 1"):
        singular_vector_loss([torch.ones(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)])
