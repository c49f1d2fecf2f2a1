"""Networks from torchvision, timm and users' own modules."""

import importlib.util
import sys
import urllib.error

import pytest
import torch
from torch import nn

from kdscope import models
from kdscope.errors import KDScopeError

with_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")


def refused(name: str, *parts: str, **options) -> None:
    with pytest.raises(KDScopeError) as caught:
        models.build(name, 6, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:squeezenet1_1", "Torchvision:MobileNet_V3_Small"]
)
def test_torchvision(name):
    network = models.build(name, 6)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 6)


@pytest.mark.filterwarnings("error")
def test_second_heads_are_dropped():
    """In training mode too, the network gives logits and nothing else."""
    network = models.build("torchvision:googlenet", 6, init_weights=False)
    assert network.training
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 6)
    assert models.classifier(network) == "fc"


def test_transformers_are_built_for_the_image_size():
    with torch.device("meta"):
        network = models.build("torchvision:vit_b_16", 6, image_size=32).eval()
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 6)
    assert network.encoder.pos_embedding.shape == (1, 1 + (32 // 16) ** 2, 768)


def test_torchvision_names_and_options():
    refused("torchvision:resnet19", "unknown torchvision model 'resnet19'", "resnet18")
    refused("torchvision:fasterrcnn_resnet50_fpn", "unknown torchvision model")
    refused("torchvision:resnet18", "'torchvision:resnet18' cannot be built", "widht", widht=3)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", fail)


@pytest.mark.usefixtures("no_network")
def test_weights_that_cannot_be_fetched():
    refused("torchvision:resnet18", "could not be fetched", "no route to host", pretrained=True)


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
def test_pretrained_keeps_all_but_the_head(monkeypatch, name, head):
    import torchvision

    torch.manual_seed(0)
    published = torchvision.models.get_model(name).state_dict()
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: published)
    network = models.build(f"torchvision:{name}", 6, pretrained=True)
    for key, tensor in network.state_dict().items():
        if key.startswith(head):
            assert tensor.shape[0] == 6
        else:
            assert torch.equal(tensor, published[key])
    whole = models.build(f"torchvision:{name}", 1000, pretrained=True)
    assert models.weights_hash(whole) == models.weights_hash(published)


@with_timm
def test_timm():
    network = models.build("timm:resnet18", 6)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 6)
    assert models.stages(network) == ("layer1", "layer2", "layer3", "layer4")
    transformer = models.build("timm:vit_tiny_patch16_224", 6, image_size=32, depth=1)
    assert transformer.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 6)
    refused("timm:resnet19", "unknown timm model 'resnet19'", "resnet18")
    refused("timm:resnet18", "cannot be built", "widht", widht=3)


def test_timm_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    refused("timm:resnet18", "pip install kdscope[timm]")


SOURCE = """
from torch import nn

class Small(nn.Sequential):
    def __init__(self, num_classes, width=4):
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))

def sized(num_classes, image_size, pretrained=False):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes, bias=pretrained))

def anything(**settings):
    assert set(settings) == {"num_classes"}
    return Small(**settings)

def number():
    return 3

def broken(num_classes):
    raise RuntimeError("the first line\\nthe second")

network = Small(2)
value = 3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder with a module, which is the current directory and not yet on the path."""
    (tmp_path / "kdscope_test_nets.py").write_text(SOURCE)
    (tmp_path / "kdscope_test_broken.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("kdscope_test_nets", None)


@pytest.mark.usefixtures("project")
def test_own_callables():
    name = "kdscope_test_nets"
    assert models.build(f"{name}:Small", 6, width=8)[0].out_channels == 8
    assert models.build(f"{name}:Small", 6)(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    assert isinstance(models.build(f"{name}:fixed", 2), nn.Module)
    assert models.build(f"{name}:anything", 6)[3].out_features == 6
    assert models.build(f"{name}:sized", 6, image_size=8)[1].in_features == 192
    assert models.build(f"{name}:sized", 6, pretrained=True)[1].bias is not None


@pytest.mark.usefixtures("project")
def test_own_callables_that_are_none():
    name = "kdscope_test_nets"
    refused(f"{name}:Smal", "unknown callable 'Smal'", "Small")
    refused(f"{name}:value", "is a int, not a callable")
    refused(f"{name}:network", "not a callable that makes a network")
    refused(f"{name}:number", "is a int, not a torch.nn.Module")
    refused(f"{name}:broken", "cannot be built", "the first line the second")
    refused(f"{name}:Small", "cannot be built", "widht", widht=3)
    refused(f"{name}:Small", "no argument `pretrained`", pretrained=True)
    refused("kdscope_test_none:Small", "no module 'kdscope_test_none'")
    refused("kdscope_test_broken:Small", "cannot be imported", "a_module_that_nobody_has")
    refused("folder/nets:Small", "package.module:callable")
    refused("nets.py:Small", "package.module:callable")
    refused("nets:", "package.module:callable")
    refused(":Small", "package.module:callable")
