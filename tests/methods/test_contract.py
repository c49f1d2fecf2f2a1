"""What every term of every method must do; a new method is picked up without a line here."""

import copy

import pytest
import torch

from kdscope import models
from kdscope.config import OptimSettings
from kdscope.methods import METHODS, Objective, resolve
from kdscope.methods.method import known_terms
from kdscope.training.learner import Learner
from kdscope.training.optim import make_optimizer

PAIRS = {
    "same family": ("resnet8", "resnet14"),
    "cross": ("vgg8", "resnet8x4"),
    "deeper teacher": ("resnet8", "resnet18"),
}


def learner_for(terms, pair, teachers=1):
    torch.manual_seed(0)
    student, *rest = [models.build(name, 10, image_size=16) for name in (pair[0], *[pair[1]] * teachers)]
    for teacher in rest:
        for parameter in teacher.parameters():  # a fresh network's batch norms hide faults: shift them
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    peers = [models.build(pair[0], 10, image_size=16) for name in terms if known_terms()[name].reads == "peers"]
    learner = Learner(student, Objective(terms, student, rest, peers=len(peers)), rest, peers)
    learner.build(torch.zeros(2, 3, 16, 16))
    return learner, rest


def batch(size=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 16, 16, generator=generator), torch.randint(0, 10, (size,), generator=generator)


def run(learner, image, label):
    with learner.capturing():
        return learner(image, label, torch.arange(len(label)))


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("name", sorted(known_terms()))
def test_gradient_reaches_the_first_layer_and_the_teacher_is_untouched(name, pair):
    learner, (teacher,) = learner_for({name: known_terms()[name].settings() | {"weight": 1.0}}, pair)
    before = state(teacher)
    optimizer = make_optimizer(learner.parameters(), OptimSettings(lr=0.01))
    for _ in range(3):
        learner.train()
        values, _ = run(learner, *batch())
        assert values.shape == (1,)
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        optimizer.zero_grad()
        (learner.objective.weights @ values).backward()
        first = next(learner.student.parameters())
        assert first.grad is not None
        assert first.grad.abs().max() > 0
        optimizer.step()
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", sorted(known_terms()))
def test_order_of_images_does_not_matter(name):
    learner, _ = learner_for({name: known_terms()[name].settings() | {"weight": 1.0}}, PAIRS["same family"])
    learner.eval()
    image, label = batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(run(learner, image, label)[0], run(learner, image[order], label[order])[0], rtol=1e-4)


@pytest.mark.parametrize("name", sorted(known_terms()))
def test_bf16_autocast_gives_a_float32_loss_near_the_exact_one(name):
    learner, _ = learner_for({name: known_terms()[name].settings() | {"weight": 1.0}}, PAIRS["same family"])
    learner.eval()
    exact = run(learner, *batch())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(learner, *batch())[0]
    assert rough.dtype == torch.float32
    assert torch.allclose(exact, rough, rtol=0.2, atol=0.02)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_title_a_citation_and_settings_that_make_its_terms(method):
    preset = METHODS[method]
    assert preset.title
    assert preset.citation
    learner, _ = learner_for(resolve(method), PAIRS["same family"])
    values, right = run(learner, *batch())
    assert len(values) == sum(each[0].in_main for each in learner.objective.terms.values())
    assert set(learner.objective.terms) == {term.name for term in preset.terms}
    assert 0 <= int(right) <= 6


@pytest.mark.parametrize("how", ["mean-probability", "mean-logit", "mean-loss"])
@pytest.mark.parametrize("method", [m for m in sorted(METHODS) if m != "none"])
def test_copies_of_one_teacher_are_that_teacher(method, how):
    terms = resolve(method)
    one, (teacher,) = learner_for(terms, PAIRS["same family"])
    student = one.student
    copies = [teacher, copy.deepcopy(teacher), copy.deepcopy(teacher)]
    objective = Objective(terms, student, copies, how, [1.0, 2.0, 5.0], peers=len(one.peers))
    three = Learner(student, objective, copies, one.peers)
    three.build(torch.zeros(2, 3, 16, 16))
    for name, each in three.objective.terms.items():  # with the same adapters
        for term in each:
            term.load_state_dict(one.objective.terms[name][0].state_dict())
    student.eval()
    one.peers.eval()
    assert torch.allclose(run(one, *batch())[0], run(three, *batch())[0], rtol=1e-5)
