"""Integrated gradients: closed forms, completeness, the gauge, the cut, and what a network must not notice."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import IntegratedGradients, LayerIntegratedGradients
from captum.attr._utils.approximation_methods import approximation_parameters
from scipy.stats import spearmanr
from torch import nn

from kdscope.attention.cut import Cut
from kdscope.attention.integrated import RULES, integrate, integrated_gradients
from kdscope.errors import KDScopeError
from kdscope.models import build

KIND = torch.float64


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def net():
    """A small network whose biases and statistics are not those of its birth (without biases IG from 0 is exact)."""
    net = build("resnet8", num_classes=5)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
OF = torch.tensor([0, 3, 1, 4])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_of_a_linear_function_they_are_weight_times_input(rule, steps):
    weight, x, start = (torch.randn(6, 2, 3, dtype=KIND) for _ in range(3))
    found = integrate(lambda a, rows: (a * weight[rows]).sum((1, 2)), x, start, rule=rule, steps=steps, most=steps)
    assert torch.allclose(found.values, weight * (x - start), atol=1e-6)
    assert found.error.max() < 1e-7


def test_of_half_the_square_the_midpoint_rule_is_exact():
    x = torch.randn(5, 7, dtype=KIND)
    found = integrate(lambda a, rows: a.square().sum(1) / 2, x, torch.zeros_like(x), steps=2)
    assert torch.allclose(found.values, x.square() / 2, atol=1e-12)


@pytest.mark.parametrize(("steps", "share"), [(20, 0.950), (50, 0.980)])
def test_the_trapezoid_rule_loses_one_step(steps, share):
    """What captum's trapezoid gives of a linear function; the rules that we offer give all of it."""
    x = torch.ones(1, 4, dtype=KIND)

    def line(a, rows=None):
        return a.sum(1)

    lost = IntegratedGradients(line).attribute(x, torch.zeros_like(x), n_steps=steps, method="riemann_trapezoid")
    assert lost.sum().item() / 4 == pytest.approx(share, abs=1e-6)
    for method in RULES.values():
        weights, _ = approximation_parameters(method)
        assert sum(weights(steps)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(KDScopeError, match=r"trapezoid.*cannot be complete"):
        integrate(line, x, torch.zeros_like(x), rule="riemann_trapezoid")


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_complete_with_perturbed_biases_and_steps_as_needed(net, layer):
    start = torch.zeros_like(IMAGES)
    found = integrated_gradients(net, IMAGES, OF, start, layer=layer, steps=4)
    assert found.converged().all()
    assert set(found.steps.tolist()) <= {4, 8, 16, 32, 64, 128, 256, 512}
    centred = [z - z.mean(1, keepdim=True) for z in (net(IMAGES), net(start))]
    change = (centred[0] - centred[1]).gather(1, OF[:, None])[:, 0]
    assert torch.allclose(found.change, change, atol=1e-5)
    assert torch.allclose(found.values.flatten(1).sum(1), change, rtol=0.011)


def test_steps_double_for_those_that_need_it_alone():
    x = torch.tensor([[1.0], [1.0]], dtype=KIND)
    kink = torch.tensor([0.0, 0.313], dtype=KIND)
    found = integrate(lambda a, rows: (a[:, 0] - kink[rows]).relu(), x, torch.zeros_like(x), steps=2, tolerance=1e-3)
    assert found.steps[0] == 2 < found.steps[1]
    assert found.converged(1e-3).all()


def test_what_does_not_converge_is_known_and_stops():
    x = torch.ones(2, 1, dtype=KIND)
    still = torch.tensor([0.0, 1.0], dtype=KIND)
    found = integrate(lambda a, rows: a[:, 0] * still[rows], x, torch.zeros_like(x), most=64)
    assert found.converged().tolist() == [False, True]
    assert found.steps.tolist() == [64, 16]


@pytest.mark.parametrize("batch_size", [1, 5, 33, 4096])
def test_parts_do_not_change_the_result(net, batch_size):
    start = torch.zeros_like(IMAGES)
    whole = integrated_gradients(net, IMAGES, OF, start, layer="layer3", steps=8, most=8)
    parts = integrated_gradients(net, IMAGES, OF, start, layer="layer3", steps=8, most=8, batch_size=batch_size)
    assert torch.allclose(whole.values, parts.values, atol=1e-6)


def test_smaller_parts_when_memory_runs_out():
    most = []

    def narrow(a, rows):
        if len(a) > 20:
            raise torch.cuda.OutOfMemoryError("no room")
        most.append(len(a))
        return a.square().sum(1)

    x = torch.randn(3, 4, dtype=KIND)
    found = integrate(narrow, x, torch.zeros_like(x), batch_size=256)
    assert torch.allclose(found.values, x.square(), atol=1e-9)
    assert max(most) <= 20
    with pytest.raises(KDScopeError, match="not enough memory"):
        integrate(lambda a, rows: narrow(a.repeat(30, 1), rows), x, x * 0)


@pytest.mark.parametrize("layer", ["layer1", "layer2.0", "layer3"])
def test_as_captum_on_a_layer(net, layer):
    start = torch.full_like(IMAGES, 0.2)
    ours = integrated_gradients(net, IMAGES, OF, start, layer=layer, steps=12, most=12, target="log-prob")
    module = net.get_submodule(layer)
    theirs = LayerIntegratedGradients(lambda x: net(x).log_softmax(1), module).attribute(
        IMAGES, start, target=OF, n_steps=12, method="riemann_middle"
    )
    assert torch.allclose(ours.values, theirs, atol=1e-6)


def test_the_gauge_moves_the_map_of_the_raw_logit_alone(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.fc.weight += torch.randn(64) * net.fc.weight.std() * 2

    def likeness(target):
        with pytest.warns(UserWarning, match="no property") if target == "raw-logit" else torch.no_grad():
            a, b = (
                integrated_gradients(n, IMAGES, OF, torch.zeros_like(IMAGES), target=target, steps=8, most=8).values
                for n in (net, other)
            )
        return np.mean([spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)])

    assert torch.allclose(net(IMAGES).softmax(1), other(IMAGES).softmax(1), atol=1e-6)
    assert likeness("raw-logit") < 0.8
    for target in ("centred-logit", "log-prob", "margin"):
        assert likeness(target) > 0.9995


def test_the_gauge_by_vectors_like_the_rows_of_the_head_of_an_untrained_resnet18():
    """0.637 is known of one such pair; it depends on the draw, and that is about the mean over several."""
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(2, 3, 64, 64)
    classes = plain(images).argmax(1)

    def maps(network, target):
        start = torch.zeros_like(images)
        return integrated_gradients(network, images, classes, start, target=target, steps=4, most=4).values.flatten(1)

    def likeness(gauge, target):
        other = copy.deepcopy(plain)
        with torch.no_grad():
            other.fc.weight += gauge
        assert torch.allclose(plain(images).softmax(1), other(images).softmax(1), atol=1e-7)
        pairs = zip(maps(plain, target), maps(other, target), strict=True)
        return np.mean([spearmanr(x, y).statistic for x, y in pairs])

    gauges = (2 * torch.rand(6, 512) - 1) / 512**0.5  # as the rows of the head are drawn
    with pytest.warns(UserWarning, match="no property"):
        assert np.mean([likeness(gauge, "raw-logit") for gauge in gauges]) == pytest.approx(0.637, abs=0.04)
    assert likeness(gauges[0], "centred-logit") > 0.99999


def test_expected_gradients_are_the_mean_over_baselines(net):
    starts = torch.randn(3, *IMAGES.shape)
    options = {"layer": "layer3", "steps": 4, "most": 4}
    found = integrated_gradients(net, IMAGES, OF, starts, **options)
    alone = torch.stack([integrated_gradients(net, IMAGES, OF, start, **options).values for start in starts])
    assert torch.allclose(found.values, alone.mean(0), atol=1e-6)


def test_the_network_is_given_back_as_it_was(net):
    net.layer1.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    asked = [weight.requires_grad for weight in net.parameters()]
    for layer in (None, "layer2"):
        integrated_gradients(net, IMAGES, OF, torch.zeros_like(IMAGES), layer=layer, steps=2, most=2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [weight.requires_grad for weight in net.parameters()] == asked
    assert all(weight.grad is None for weight in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in net.modules())
    with pytest.raises(KDScopeError, match="unknown layer"):
        integrated_gradients(net, IMAGES, OF, torch.zeros_like(IMAGES), layer="layer9")
    assert [weight.requires_grad for weight in net.parameters()] == asked


class Around(nn.Module):
    """A skip connection around the layer, a size read below it, and control flow that a trace cannot follow."""

    def __init__(self, wild):
        super().__init__()
        self.wild = wild
        self.stem, self.layer, self.side = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.twice, self.head = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        count = x.size(0)
        x = self.twice(self.stem(x))
        if self.wild and x.sum() < -1:
            x = x + 1
        x = self.twice(self.layer(x)) + self.side(x)
        return self.head(x.mean((2, 3)).view(count, -1))


@pytest.mark.parametrize("wild", [False, True])
def test_cut_with_a_skip_connection_traced_or_not(wild):
    net = Around(wild).eval()
    runs = []
    net.stem.register_forward_hook(lambda *_: runs.append(1))
    net.side.register_forward_hook(lambda *_: runs.append(2))
    cut = Cut(net, "layer", IMAGES)
    assert cut.traced is not wild
    activation = cut.below(IMAGES)
    runs.clear()
    rows = torch.tensor([0, 0, 3, 1, 2])
    logits = cut.above(activation[rows] * 2, rows)
    skip = net.twice(net.stem(IMAGES))[rows]
    expected = net.head((net.twice(activation[rows] * 2) + net.side(skip)).mean((2, 3)))
    assert torch.allclose(logits, expected, atol=1e-6)
    if not wild:
        assert 1 not in runs[:-2]  # the stem ran for `expected` alone
    assert not any("forward" in vars(m) for m in net.modules())
    with pytest.raises(KDScopeError, match="runs 2 times"):
        Cut(net, "twice", IMAGES)


def test_the_layers_below_do_not_run(net):
    runs = []
    net.layer1.register_forward_hook(lambda *_: runs.append(1))
    cut = Cut(net, "layer3", IMAGES)
    runs.clear()
    integrated_gradients(net, IMAGES, OF, torch.zeros_like(IMAGES), layer=cut, steps=16, most=64)
    assert len(runs) == 2
