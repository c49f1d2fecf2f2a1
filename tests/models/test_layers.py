"""The maps before the last ReLU of each stage, and the blocks: by name, by value, and what is said where they hide."""

import pytest
import torch
from torch import nn

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features import Capture


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, 10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet8", ("<layer1.0.relu#1", "<layer2.0.relu#1", "<layer3.0.relu#1")),
        ("resnet32x4", ("<layer1.4.relu#1", "<layer2.4.relu#1", "<layer3.4.relu#1")),
        ("wrn-16-2", ("layer1", "layer2", "layer3")),
        ("vgg8", ("<block1.2", "<block2.2", "<block3.2", "<block4.2")),
        ("resnet50_cbam", ("<layer1.2.relu#2", "<layer2.3.relu#2", "<layer3.5.relu#2", "<layer4.2.relu#2")),
        ("torchvision:resnet18", tuple(f"<layer{i}.1.relu#1" for i in (1, 2, 3, 4))),
        ("torchvision:vgg11_bn", tuple(f"<features.{i}" for i in (2, 6, 13, 20, 27))),
        ("shufflenetv1", ("<layer1.3.relu#2", "<layer2.7.relu#2", "<layer3.3.relu#2")),
        ("shufflenetv2", ("<layer1.3.relu#1", "<layer2.7.relu#1", "<layer3.3.relu#1")),
        ("vgg7_mhgd", tuple(f"<block{i}.2" for i in (1, 2, 3, 4, 5))),
        ("mobilenetv2_half", ("blocks.1", "blocks.2", "blocks.4", "blocks.6")),
        ("vit_tiny", ("stage1", "stage2", "stage3", "stage4")),
        # Linear bottlenecks, and behind them one convolution with ReLU6.
        ("torchvision:mobilenet_v2", (*(f"features.{i}" for i in (1, 3, 6, 13)), "<features.18.2")),
    ],
)
def test_preactivations_by_name(name, expected):
    assert models.preactivations(on_meta(name)) == expected


RECTIFIED = ["resnet8", "resnet8x4", "vgg8", "vgg7_mhgd", "vgg_s", "shufflenetv1", "shufflenetv2"]
RECTIFIED += ["torchvision:resnet18"]


@pytest.mark.parametrize("name", [*RECTIFIED, "wrn-10-1", "mobilenetv2_half"])
def test_the_stage_map_is_the_relu_of_its_preactivation(name):
    """torchvision's ReLU works in place: a map that was not cloned would have lost its sign."""
    torch.manual_seed(0)
    network = models.build(name, 5).eval()
    stages, before = models.stages(network), models.preactivations(network)
    with torch.no_grad(), Capture(network, [*stages, *before]) as capture:
        features = capture(torch.randn(2, 3, 32, 32))
    for stage, layer in zip(stages, before, strict=True):
        assert features[layer].min() < 0
        expected = features[layer].relu() if name in RECTIFIED else features[layer]
        assert torch.equal(features[stage], expected)


def test_the_gradient_flows_into_the_network_and_not_through_the_relu():
    """d sum(preactivation) / d shift of the last batch norm is the number of its values: no ReLU lies between."""
    torch.manual_seed(0)
    network = models.build("resnet8", 5)
    layer = models.preactivations(network)[-1]
    with Capture(network, [layer]) as capture:
        value = capture(torch.randn(2, 3, 16, 16))[layer]
    value.sum().backward()
    torch.testing.assert_close(network.layer3[0].bn2.bias.grad, torch.full((64,), 2.0 * 4 * 4))
    assert network.conv1.weight.grad is not None
    assert network.fc.weight.grad is None


class Staged(nn.Module):
    """One stage of one convolution, `end` behind it."""

    def __init__(self, stage: nn.Module, end=lambda x: x):
        super().__init__()
        self.stage, self.end, self.fc = stage, end, nn.Linear(4, 2)
        self.stage_names = ("stage",)

    def forward(self, x):
        return self.fc(self.end(self.stage(x)).mean((2, 3)))


class Ends(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 3), end

    def forward(self, x):
        return self.end(self.conv(x))


@pytest.mark.parametrize("end", [nn.SiLU(), nn.LeakyReLU(inplace=True), nn.ReLU6(inplace=True), nn.PReLU(), nn.GELU()])
def test_activations_of_other_kinds(end):
    assert models.preactivations(Staged(nn.Sequential(nn.Conv2d(3, 4, 3), end, nn.Dropout()))) == ("<stage.1",)


@pytest.mark.parametrize("name", ["relu", "relu_", "relu6", "leaky_relu", "silu", "gelu", "elu", "hardswish"])
def test_an_activation_that_is_called_as_a_function_is_said_to_be_one(name):
    with pytest.raises(KDScopeError, match=r"'stage' of this Staged ends in \w+, called as a function.*nn.ReLU") as e:
        models.preactivations(Staged(Ends(getattr(nn.functional, name))))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("after", [nn.functional.relu_, nn.ReLU(inplace=True)])
def test_an_activation_behind_the_stage_is_none_of_its_own(after):
    """It writes over the stage map in place, so that both are one tensor; but the stage had ended before."""
    assert models.preactivations(Staged(nn.Conv2d(3, 4, 3), after)) == ("stage",)


def test_an_activation_inside_is_not_the_last():
    stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
    assert models.preactivations(Staged(stage)) == ("stage",)


def test_a_stage_that_does_not_run():
    network = Staged(nn.Conv2d(3, 4, 3))
    network.spare, network.stage_names = nn.Identity(), ("spare",)
    with pytest.raises(KDScopeError, match="'spare' of this Staged does not run"):
        models.preactivations(network)


def test_watching_with_gradients_leaves_no_trace():
    torch.manual_seed(0)
    network = models.build("resnet8", 10)
    before = models.weights_hash(network)
    models.preactivations(network)
    assert models.weights_hash(network) == before
    assert all(module.training and not module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("resnet20", 9), ("resnet56", 27), ("wrn-40-2", 18), ("wrn-16-2", 6), ("resnet8", 3), ("vgg13", 4)),
        *(("shufflenetv1", 16), ("shufflenetv2", 16), ("wrn-28-10", 12), ("vit_tiny", 4), ("vgg16_mhgd", 5)),
        *(("resnet18", 8), ("resnet50", 16), ("torchvision:resnet18", 8), ("torchvision:resnet50", 16)),
    ],
)
def test_blocks(name, count):
    network = on_meta(name)
    found = models.blocks(network)
    assert len(set(found)) == len(found) == count
    for stage in models.stages(network):  # the last block of a stage is the stage
        parts = [block for block in found if block == stage or block.startswith(f"{stage}.")]
        assert parts[-1] in (stage, f"{stage}.{len(parts) - 1}")
    with Capture(network.eval(), found) as capture:
        maps = capture(torch.empty(1, 3, 64, 64, device="meta")).maps
    assert list(maps) == list(found)
    assert all(value.dim() == 4 for value in maps.values())


def test_a_network_may_say_its_blocks():
    """MobileNetV2's blocks between two stages are in none."""
    found = models.blocks(on_meta("mobilenetv2_half"))
    assert found[:3] == ("blocks.0.0", "blocks.1.0", "blocks.1.1")
    assert len(found) == 17


def test_blocks_of_stages_inside_a_stage():
    """torchvision's MobileNetV2 is one row of blocks; the last stage is the row itself."""
    assert models.blocks(on_meta("torchvision:mobilenet_v2")) == tuple(f"features.{i}" for i in range(19))
