"""The networks of MHGD: where the maps are taken, and that a ReLU behind its pooling is one before it."""

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from kdscope import models
from kdscope.features import Capture


@pytest.mark.parametrize(("size", "sides"), [(16, (8, 4, 2, 2, 1)), (32, (16, 8, 4, 4, 2)), (64, (32, 16, 8, 4, 2))])
def test_the_fourth_pooling_is_for_larger_images_alone(size, sides):
    with torch.device("meta"):
        network = models.build("vgg16_mhgd", 10).eval()
        with Capture(network, models.stages(network)) as capture:
            maps = capture(torch.empty(2, 3, size, size)).maps
    widths = (64, 128, 256, 512, 512)
    assert [tuple(m.shape) for m in maps.values()] == [(2, c, s, s) for c, s in zip(widths, sides, strict=True)]


def test_the_map_is_that_of_a_relu_before_the_pooling():
    torch.manual_seed(0)
    stage = models.build("vgg16_mhgd", 5).block1.double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = x
    for i in (0, 2):
        expected = conv2d(expected, stage[i].weight, stage[i].bias, padding=1).clamp_min(0)
    torch.testing.assert_close(stage(x), max_pool2d(expected, 2))


def test_dropout_is_an_option():
    torch.manual_seed(0)
    network = models.build("vgg7_mhgd", 5, dropout=0.0)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(network(images), network.eval()(images))


@pytest.mark.parametrize("student", ["resnet_s", "mobilenet_s", "vgg_s", "wrn-10-4"])
def test_the_stages_of_the_students_are_those_of_their_teacher(student):
    shapes = []
    for name in (student, "wrn-22-4"):
        with torch.device("meta"):
            network = models.build(name, 10).eval()
            with Capture(network, models.stages(network)) as capture:
                shapes.append([m.shape[1:] for m in capture(torch.empty(1, 3, 32, 32)).maps.values()])
    assert shapes[0] == shapes[1] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]


def test_without_batch_norm_the_signal_does_not_fade_with_depth():
    torch.manual_seed(0)
    network = models.build("vgg16_mhgd", 10).eval()
    with torch.no_grad(), Capture(network, [*models.stages(network), "penultimate"]) as capture:
        features = capture(torch.randn(4, 3, 32, 32))
    powers = [float(value.square().mean()) for value in features.maps.values()]
    assert all(0.3 < power < 30 for power in powers), powers
    assert 0.1 < features.logits.std() < 10
