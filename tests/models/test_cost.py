"""What a network costs."""

import pytest
import torch
from torch import nn

from kdscope import models
from kdscope.errors import KDScopeError


def test_counts_by_arithmetic():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
    network[0].weight.requires_grad_(False)
    cost = models.profile(network, 8, batch_size=3, repeats=3)
    assert cost.parameters == 108 + 8 + 725
    assert cost.trainable == 8 + 725
    assert cost.megabytes == pytest.approx(((108 + 8 + 725 + 8) * 4 + 8) / 1e6)  # and running mean, variance, count
    assert cost.macs == 108 * 36 + 4 * 36 * 5
    assert cost.flops == 2 * cost.macs
    assert cost.throughput == pytest.approx(3 / (cost.latency_ms / 1e3))
    assert (cost.batch_size, cost.image_size, cost.device) == (3, 8, "cpu")


def test_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    network = models.build("resnet8", 10)
    network.layer2.eval()
    modes, before = [module.training for module in network.modules()], models.weights_hash(network)
    cost = models.profile(network, 16, repeats=2)
    assert [module.training for module in network.modules()] == modes
    assert models.weights_hash(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()
    assert 0 < cost.latency_ms < 60_000


def test_the_median_is_of_the_timed_batches_alone(monkeypatch):
    """Two batches warm up, five are timed: 1, 9, 2, 8, 3 seconds, of which the median is 3."""
    network = models.build("resnet8", 10)
    clock = iter([0, 100, 0, 100, 0, 1, 0, 9, 0, 2, 0, 8, 0, 3])
    monkeypatch.setattr("kdscope.models.cost.time.perf_counter", lambda: next(clock))
    assert models.profile(network, 8, repeats=5).latency_ms == 3000


def test_bad_input():
    network = models.build("resnet8", 10)
    for bad in ({"image_size": 0}, {"image_size": 8, "batch_size": 0}, {"image_size": 8, "repeats": 0}):
        with pytest.raises(KDScopeError, match=">= 1"):
            models.profile(network, **bad)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(KDScopeError, match=r"did not run on images \[1, 3, 8, 8\]"):
        models.profile(fixed, 8)
    assert fixed.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_network_comes_back_from_the_device():
    network = models.build("resnet8", 10)
    cost = models.profile(network, 16, device="cuda", repeats=2)
    assert cost.device == "cuda"
    assert next(network.parameters()).device.type == "cpu"
