"""CBAM: its gates against the equations, and what they are at initialisation."""

import torch

from kdscope import models
from kdscope.models.cbam import CBAM, ChannelGate, SpatialGate


def test_spatial_gate_is_one_half_at_initialisation():
    torch.manual_seed(0)
    network = models.build("resnet18_cbam", 10)
    gates = [module for module in network.modules() if isinstance(module, SpatialGate)]
    assert len(gates) == 8
    for gate in gates:
        assert gate.bn.momentum == 0.01
        assert gate.conv.bias is None
        for training in (True, False):
            assert (gate.train(training)(torch.randn(2, 5, 4, 4)) == 0.5).all()


def test_channel_gate_is_its_equation():
    torch.manual_seed(0)
    gate = ChannelGate(32).double()
    x = torch.randn(3, 32, 4, 4, dtype=torch.float64)
    first, _, second = gate.mlp
    flat = x.flatten(2)

    def perceptron(v: torch.Tensor) -> torch.Tensor:
        hidden = (v @ first.weight.T + first.bias).clamp_min(0)
        return hidden @ second.weight.T + second.bias

    scores = perceptron(flat.mean(2)) + perceptron(flat.max(2).values)
    torch.testing.assert_close(gate(x).flatten(1), 1 / (1 + torch.exp(-scores)))
    assert first.weight.shape == (2, 32)


def test_spatial_gate_sees_maximum_then_mean_over_channels():
    torch.manual_seed(0)
    gate = SpatialGate().double().eval()
    torch.nn.init.ones_(gate.bn.weight)
    torch.nn.init.zeros_(gate.conv.weight)
    gate.conv.weight.data[0, :, 3, 3] = torch.tensor([1.0, -2.0], dtype=torch.float64)  # the centre of each kernel
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    score = x.max(1).values - 2 * x.mean(1)
    expected = torch.sigmoid(score / (1 + gate.bn.eps) ** 0.5)
    torch.testing.assert_close(gate(x)[:, 0], expected)


def test_the_block_applies_channels_before_places():
    torch.manual_seed(0)
    block = CBAM(16).double()
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), 0.5 * block.channel(x) * x)


def test_the_gates_stand_before_the_addition():
    """With every channel gate shut, a residual block is its shortcut alone."""
    torch.manual_seed(0)
    block = models.build("resnet50_cbam", 10).layer1[1].eval()
    torch.nn.init.constant_(block.cbam.channel.mlp[2].bias, -1e4)
    x = torch.rand(2, 256, 4, 4)
    assert torch.equal(block(x), x)
