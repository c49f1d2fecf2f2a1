"""`kdscope list` and `kdscope explain`: all that has a name, in lines that fit, and what a method would do."""

import pytest
import torch
from click.testing import CliRunner

from kdscope import models
from kdscope.analyses import ANALYSES
from kdscope.cli.explain import WIDTH
from kdscope.cli.list import KINDS, LISTS
from kdscope.cli.main import cli
from kdscope.data.catalogue import DATASETS
from kdscope.detection import models as detectors
from kdscope.detection.data import DETECTION_DATASETS
from kdscope.detection.methods.presets import DETECTION_METHODS
from kdscope.errors import KDScopeError
from kdscope.methods import METHODS
from kdscope.training.explain import explain, size_in_words


def said(*arguments):
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        *[("methods", METHODS), ("models", models.names()), ("datasets", DATASETS), ("analyses", ANALYSES)],
        ("detectors", detectors.names()),
        ("detection-methods", DETECTION_METHODS),
        ("detection-datasets", DETECTION_DATASETS),
    ],
)
def test_every_name_is_listed_with_what_it_is(kind, names):
    told = said("list", kind)
    assert all(len(line) <= 100 for line in told.splitlines())
    first = [line.split("  ")[0].strip() for line in told.splitlines() if not line.startswith(" ")]
    assert sorted(first) == sorted(names)
    assert said("list", kind, "--names").split() == first
    for line in told.splitlines():
        if not line.startswith(" "):
            assert len(line.split()) > 3, f"{line}: nothing is told of it"


def test_kinds():
    assert set(KINDS) == set(LISTS)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_explained(method):
    told = said("explain", method, "--student", "resnet8", "--teacher", "vgg8", "--images", "200")
    assert all(len(line) <= WIDTH for line in told.splitlines())
    preset = METHODS[method]
    flat = " ".join(told.split())
    assert preset.title in flat
    assert all(f"term {term.name}" in told for term in preset.terms)
    assert "extra" in told


def test_parameters_of_adapters_are_counted_exactly():
    # VID of resnet8 to resnet8x4, c_s = 16, 32, 64 and c_t = 64, 128, 256: three 1x1 convolutions and a variance each.
    found = explain("vid", "resnet8", "resnet8x4", num_classes=10, images=10)
    widths = [(16, 64), (32, 128), (64, 256)]
    assert found.parameters == sum(s * t + 2 * t * t + t for s, t in widths)
    assert found.pairs["vid"] == (("layer1", "layer2", "layer3"),) * 2
    maps = sum(s * side**2 + t * side**2 for (s, t), side in zip(widths, (32, 16, 8), strict=True))
    assert found.map_bytes == 4 * 64 * maps


def test_explaining_draws_nothing_from_the_callers_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    explain("kd", "resnet8", "resnet8", num_classes=10, images=10)
    assert torch.equal(before, torch.get_rng_state())


def test_sizes():
    assert [size_in_words(n) for n in (0, 1, 1023, 1024, 10_240, 2**20, 3 * 2**30)] == [
        "0", "1 bytes", "1023 bytes", "1 KiB", "10 KiB", "1 MiB", "3 GiB",
    ]  # fmt: skip


def test_unknown():
    with pytest.raises(KDScopeError, match="unknown method 'kdd'; nearest: kd"):
        explain("kdd")
