"""Factor transfer, activation boundaries, the overhaul, knowledge review, flow between layers, singular vectors."""

import pytest
import torch
from torch import tensor

from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.ft import FactorTransfer, factor_transfer_loss


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
