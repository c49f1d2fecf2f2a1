"""Networks by name: their listing, their options, and what is said of names that are none."""

import re

import pytest
import torch
from torch import nn

from kdscope import models
from kdscope.errors import KDScopeError

CORE = ["resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8x4", "resnet32x4"]
CORE += ["wrn-16-2", "wrn-40-1", "wrn-40-2", "wrn-16-4", "wrn-28-10", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19"]
CORE += ["mobilenetv2_half", "shufflenetv1", "shufflenetv2", "vit_tiny", "wrn-22-4", "wrn-10-4"]
CORE += ["vgg16_mhgd", "vgg7_mhgd", "resnet_s", "mobilenet_s", "vgg_s"]
CORE += [f"resnet{depth}{gates}" for depth in (18, 34, 50, 101) for gates in ("", "_cbam")]
SMALL = ["resnet8", "wrn-10-1", "vgg8", "resnet18_cbam"]
SMALL += ["mobilenetv2_half", "shufflenetv1", "shufflenetv2", "vgg7_mhgd", "mobilenet_s", "vgg_s", "vit_tiny"]
DEEP = ("mobilenetv2_half", "vgg16_mhgd", "vgg7_mhgd")  # a sixteenth of the image's side in the last stage


def on_meta(name: str, num_classes: int = 100) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, num_classes)


def test_listing():
    listed = models.names()
    assert set(CORE) <= set(listed)
    assert listed == sorted(listed)
    assert "wrn-D-W" not in listed


@pytest.mark.parametrize("name", models.names())
def test_every_listed_network_gives_logits_and_square_stage_maps(name):
    """On the meta device: shapes alone."""
    network = on_meta(name, 7).eval()
    assert isinstance(network.get_submodule(models.classifier(network)), nn.Linear)
    maps: dict[str, torch.Tensor] = {}
    for stage in models.stages(network):
        network.get_submodule(stage).register_forward_hook(
            lambda _, __, output, stage=stage: maps.update({stage: output})
        )
    for size in (16, 64):
        assert network(torch.empty(3, 3, size, size, device="meta")).shape == (3, 7)
        sides = [maps[stage].shape[2] for stage in models.stages(network)]
        assert all(maps[stage].dim() == 4 and maps[stage].shape[2] == maps[stage].shape[3] for stage in maps)
        assert sides == sorted(sides, reverse=True)
        assert sides[-1] == size // 16 if name in DEEP and size < 64 else sides[-1] >= 2


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_forward(name, size):
    torch.manual_seed(0)
    network = models.build(name, 5).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_the_first_layer(name):
    torch.manual_seed(0)
    network = models.build(name, 5)
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()
    without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_is_the_same_to_rounding(name):
    torch.manual_seed(0)
    network = models.build(name, 5).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        contiguous = network(images)
        network.to(memory_format=torch.channels_last)
        last = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, contiguous, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_weights(name):
    hashes = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        hashes.append(models.weights_hash(models.build(name, 5)))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("name", ["resnet56", "wrn-16-4", "vgg13", "resnet18", "mobilenetv2_half", "shufflenetv2"])
def test_initialisation_is_he_normal_by_fan_out(name):
    torch.manual_seed(0)
    network = models.build(name, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5  # five standard errors of a deviation
            assert abs(float(module.weight.detach().std()) - expected) < tolerance
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and module.bias is not None:
            assert (module.bias == 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_weights_come_back_from_a_file(name, tmp_path):
    torch.manual_seed(0)
    network, other = models.build(name, 5), models.build(name, 5)
    assert models.weights_hash(network) != models.weights_hash(other)
    models.save_weights(tmp_path / "w.safetensors", network)
    models.load_weights(other, tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), other.eval()(images))


@pytest.mark.parametrize("name", [*models.names(), "wrn-34-3"])
def test_every_network_says_what_it_is_and_where_it_comes_from(name):
    said = models.summary(name)
    assert re.fullmatch(r"[A-Z].{10,80} \([A-Z][^()]+, ([A-Z][A-Za-z]+) (20[12]\d)[^()]*\)\.", said), said
    assert len(said) <= 82  # on one line of a hundred, behind the longest name
    assert models.summary(name.upper()) == said


def test_summaries_of_names_that_are_none():
    with pytest.raises(KDScopeError, match=r"unknown model 'resnet21'.*resnet20"):
        models.summary("resnet21")


def test_names_in_any_case():
    one = on_meta("ResNet18", 10)
    assert models.stages(one) == ("layer1", "layer2", "layer3", "layer4")
    assert {type(on_meta(name, 10)).__name__ for name in ("WRN-16-2", "wrn_16_2", "Wrn-22-3")} == {"WideResNet"}
    assert {type(on_meta(name, 10)).__name__ for name in ("ResNet50-CBAM", "resnet50_cbam")} == {"ResNet"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet21", ["unknown model 'resnet21'", "resnet20"]),
        ("wrn-17-2", ["6n + 4", "wrn-16-2", "wrn-22-2"]),
        ("wrn-1-2", ["wrn-10-2"]),
        ("wrn-16-0", ["wrn-16-1"]),
        ("wrn-D-W", ["unknown model", "nearest"]),
        ("", ["unknown model"]),
    ],
)
def test_names_that_are_none(name, parts):
    with pytest.raises(KDScopeError) as caught:
        models.build(name, 10)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("classes", [0, -1, 2.5, True, "10"])
def test_classes_that_are_none(classes):
    with pytest.raises(KDScopeError, match="whole number of classes"):
        models.build("resnet8", classes)


def test_options_and_weights_that_there_are_not():
    with pytest.raises(KDScopeError, match="unknown option 'dropuot' in model 'vgg8'"):
        models.build("vgg8", 10, dropuot=0.1)
    with pytest.raises(KDScopeError, match="'resnet20' has no published weights"):
        models.build("resnet20", 10, pretrained=True)


def test_another_package_registers_a_network():
    @models.MODELS.register("test-tiny-K")
    def tiny(kernel: int, *, num_classes: int, bias: bool = True) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, num_classes, kernel, bias=bias), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    try:
        network = models.build("test-tiny-3", 4, bias=False)
        assert network[0].kernel_size == (3, 3)
        assert network[0].bias is None
        assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
        with pytest.raises(KDScopeError, match=r"unknown option 'bais'.*nearest: bias"):
            models.build("test-tiny-3", 4, bais=False)
    finally:
        del models.MODELS._entries["test-tiny-K"]
