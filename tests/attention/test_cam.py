import math

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from kdscope.attention.cam import cam_sum, class_activation_map, pools_into
from kdscope.attention.grad_cam import GradCam, gradient_map
from kdscope.errors import KDScopeError
from kdscope.models import build


def network(seed=0):
    torch.manual_seed(seed)
    return build("resnet8", num_classes=5).double().eval()


def forward(net, images, layer="layer3"):
    caught = {}
    with net.get_submodule(layer).register_forward_hook(lambda m, i, o: caught.update(map=o)), torch.no_grad():
        return net(images), caught["map"]


IMAGES = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 1, 2, 4])


def head(net):
    return [m for m in net.modules() if isinstance(m, nn.Linear)][-1]


def test_the_mean_of_a_class_map_is_its_logit():
    net = network()
    logits, feature = forward(net, IMAGES)
    raw = torch.einsum("bkhw,ck->bchw", feature, head(net).weight) + head(net).bias[:, None, None]
    assert torch.allclose(raw.mean((2, 3)), logits, atol=1e-12)
    bias = head(net).bias - head(net).bias.mean()
    centred = class_activation_map(feature, head(net).weight, CLASSES).mean((1, 2)) + bias[CLASSES]
    assert torch.allclose(centred, (logits - logits.mean(1, keepdim=True)).gather(1, CLASSES[:, None])[:, 0])
    assert pools_into(feature, logits, head(net))
    assert not pools_into(feature.square(), logits, head(net))


def test_a_gauge_moves_no_probability_and_no_centred_map_but_the_sum_of_all():
    net = network()
    before, feature = forward(net, IMAGES)
    weight = head(net).weight.detach().clone()
    gauge = torch.randn(weight.shape[1], dtype=torch.float64)
    head(net).weight.data += gauge
    after, _ = forward(net, IMAGES)
    moved = head(net).weight.detach()
    assert torch.allclose(before.softmax(1), after.softmax(1), atol=1e-6)
    assert torch.allclose(
        class_activation_map(feature, weight, CLASSES), class_activation_map(feature, moved, CLASSES), atol=1e-10
    )
    assert not torch.allclose(cam_sum(feature, weight), cam_sum(feature, moved), atol=1e-2)
    assert cam_sum(feature, weight - weight.mean(0)).abs().max() < 1e-10
    raw = [torch.einsum("bkhw,bk->bhw", feature, w[CLASSES]) for w in (weight, moved)]
    assert not torch.allclose(*raw, atol=1e-2)


@pytest.mark.parametrize("target", ["centred-logit", "log-prob"])
def test_grad_cam_does_not_depend_on_the_gauge(target):
    net, maps = network(), []
    for _ in range(2):
        with GradCam(net, ["layer2", "layer3"]) as cam:
            maps.append(cam.maps(cam.forward(IMAGES), CLASSES, target))
        head(net).weight.data += torch.randn(head(net).in_features, dtype=torch.float64)
    for layer in ("layer2", "layer3"):
        assert torch.allclose(maps[0][layer], maps[1][layer], atol=1e-5 * float(maps[0][layer].abs().max()))


def test_grad_cam_at_the_pooled_layer_is_the_class_map():
    net = network()
    _, feature = forward(net, IMAGES)
    with GradCam(net, ["layer3"]) as cam:
        found = cam.maps(cam.forward(IMAGES), CLASSES)["layer3"]
    cells = feature.shape[2] * feature.shape[3]
    expected = class_activation_map(feature, head(net).weight, CLASSES).float() / cells
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
def test_grad_cam_is_captums(layer):
    net = network()
    with GradCam(net, [layer]) as cam:
        found = cam.maps(cam.forward(IMAGES), CLASSES, "log-prob")[layer]
    explain = LayerGradCam(lambda images: net(images).log_softmax(1), net.get_submodule(layer))
    expected = explain.attribute(IMAGES, target=CLASSES)[:, 0]
    assert torch.allclose(found.double(), expected.detach(), atol=1e-5 * float(expected.detach().abs().max()))


def test_hooks_are_removed_and_an_operation_in_place_changes_nothing():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    net = nn.Sequential(*parts).double().eval()
    with GradCam(net, ["0"]) as cam:
        logits = cam.forward(IMAGES)
        assert float(cam.caught["0"].detach().min()) < 0  # before the rectification
        maps = cam.maps(logits, torch.zeros(4, dtype=torch.long))["0"]
    assert maps.shape == (4, 16, 16)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("distilled", [False, True])
def test_training_does_not_move_the_sum_of_the_heads_rows(distilled):
    torch.manual_seed(0)
    x, y = torch.randn(64, 16), torch.randint(0, 5, (64,))
    teacher = torch.randn(64, 5).softmax(1)

    def moved(decay):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
        start = net[2].weight.detach().clone()
        optim = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
        for _ in range(400):
            logits = net(x)
            loss = cross_entropy(logits, y)
            if distilled:
                loss = loss + kl_div(logits.log_softmax(1), teacher, reduction="batchmean")
            optim.zero_grad()
            loss.backward()
            optim.step()
        now = net[2].weight.detach()
        return [float((now - start).norm() / start.norm()), float((now - start).sum(0).norm() / start.sum(0).norm())]

    all_rows, their_sum = moved(0.0)
    assert all_rows > 0.5
    assert their_sum < 1e-4
    # No gradient reaches the sum, so that under decay alone it shrinks by lr * decay / (1 - momentum) a step: 0.18.
    assert moved(5e-4)[1] == pytest.approx(1 - math.exp(-400 * 0.1 * 5e-4 / 0.1), abs=0.01)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(KDScopeError, match="a head of 3 inputs does not read a map"):
        class_activation_map(torch.zeros(1, 4, 2, 2), torch.zeros(5, 3), torch.tensor([0]))
    with pytest.raises(KDScopeError, match="at least two classes"):
        class_activation_map(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(KDScopeError, match="needs a map"):
        gradient_map(torch.zeros(1, 3), torch.zeros(1, 3))
