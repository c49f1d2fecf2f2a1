"""The stage maps that the docstrings promise, caught with plain hooks; and the rule for networks that say nothing."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdscope import models
from kdscope.errors import KDScopeError


def maps_of(network: nn.Module, size: int) -> dict[str, Tensor]:
    caught: dict[str, Tensor] = {}
    for stage in models.stages(network):
        network.get_submodule(stage).register_forward_hook(lambda _, __, y, stage=stage: caught.update({stage: y}))
    with torch.no_grad():
        network.eval()(torch.randn(2, 3, size, size))
    return caught


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet20", 32, {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)}),
        ("resnet8x4", 32, {"layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8)}),
        ("wrn-16-2", 32, {"layer1": (32, 32), "layer2": (64, 16), "layer3": (128, 8)}),
        ("vgg8", 32, {"block1": (128, 16), "block2": (256, 8), "block3": (512, 4), "block4": (512, 4)}),
        ("vgg8", 64, {"block1": (128, 32), "block2": (256, 16), "block3": (512, 8), "block4": (512, 4)}),
        ("vgg8", 16, {"block1": (128, 8), "block2": (256, 4), "block3": (512, 2), "block4": (512, 2)}),
        ("resnet18", 32, {"layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8), "layer4": (512, 4)}),
        ("resnet50_cbam", 16, {"layer1": (256, 16), "layer2": (512, 8), "layer3": (1024, 4), "layer4": (2048, 2)}),
    ],
)
def test_maps(name, size, shapes):
    torch.manual_seed(0)
    caught = maps_of(models.build(name, 10), size)
    assert {stage: tuple(y.shape) for stage, y in caught.items()} == {k: (2, c, s, s) for k, (c, s) in shapes.items()}
    for y in caught.values():  # a ReLU's output, save in a pre-activation network, whose sums have both signs
        assert (y.min() < 0) == name.startswith("wrn")


def test_the_deepest_wide_resnet_has_its_blocks_by_name():
    with torch.device("meta"):
        network = models.build("wrn-40-2", 10)
    assert [name for name, _ in network.layer3.named_children()] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("layer1", "layer2", "layer3", "layer4")),
        ("vgg11_bn", ("features.2", "features.6", "features.13", "features.20", "features.27")),
        ("mobilenet_v2", ("features.1", "features.3", "features.6", "features.13", "features")),
        ("squeezenet1_1", ("features.4", "features.7", "features")),
    ],
)
def test_rule_on_torchvision(name, expected):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, num_classes=4)
        assert models.stages(network) == expected
        caught = maps_of(network, 64)
    sides = [caught[stage].shape[2] for stage in expected]
    assert sides == sorted(set(sides), reverse=True)


def test_rule_leaves_no_trace():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=4)
    network.layer1.eval()
    wrapped = nn.Sequential(network, nn.Linear(4, 2))
    modes = [module.training for module in network.modules()]
    before, generator = models.weights_hash(network), torch.get_rng_state()
    models.stages(network)
    models.classifier(wrapped)
    assert models.weights_hash(network) == before
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.requires_grad for parameter in network.parameters())


class Own(nn.Module):
    """A stem, two stages with parts, a module that runs twice, gates of 1 x 1; its head is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.auxiliary = nn.Linear(8, 5)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1))
        self.shared = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1)), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.conv(x))
        x = self.shared(self.shared(x))
        return self.head(self.deep(x).mean((2, 3)))


def test_rule_on_a_network_of_ones_own():
    assert models.stages(Own()) == ("down", "deep")
    assert models.classifier(Own()) == "head"  # `auxiliary` stands behind it, but does not work on an image


def test_a_network_may_say_its_stages():
    network = Own()
    network.stage_names = ["conv", "deep"]
    assert models.stages(network) == ("conv", "deep")


def test_image_sizes_are_tried():
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    assert models.stages(fixed, image_size=28) == ("1",)
    with pytest.raises(KDScopeError, match=r"takes no image \[1, 3, H, H\] of 64, 32, 224 pixels") as caught:
        models.stages(fixed)
    assert "\n" not in str(caught.value)
    assert models.classifier(fixed) == "3"


def test_networks_without_maps_or_classifier():
    tokens = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    with pytest.raises(KDScopeError, match=r"gives? tokens \[B, N, D\]"):
        models.stages(tokens)
    assert models.classifier(tokens) == "heads.head"
    with pytest.raises(KDScopeError, match="no module gives one"):
        models.stages(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    with pytest.raises(KDScopeError, match="no linear layer"):
        models.classifier(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_half_precision_networks_are_watched_too():
    assert models.stages(Own().bfloat16()) == ("down", "deep")
