"""Students of any width: the multiplier, and the one that matches another network."""

import pytest

from kdscope.errors import KDScopeError
from kdscope.models import build, matching_multiplier, profile


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_a_multiplier_of_one_changes_nothing_and_of_four_is_the_network_four_times_as_wide():
    assert parameters(build("resnet20", 100, multiplier=1.0)) == parameters(build("resnet20", 100)) == 278_324
    wide, known = build("resnet8", 100, multiplier=4), build("resnet8x4", 100)  # whose stem is only twice as wide
    assert wide.fc.weight.shape == known.fc.weight.shape == (100, 256)
    assert wide.layer2[0].conv2.weight.shape == known.layer2[0].conv2.weight.shape
    assert build("resnet8", 10, multiplier=1.3).conv1.weight.shape[0] == 21  # 20.8, rounded


def test_the_rivals_of_the_kd_layers():
    """resnet20 with the layer of letkd-1: 810,806 parameters and 74.4 M multiply-adds."""
    by_size = build("resnet20", 100, multiplier=matching_multiplier("resnet20", 100, parameters=810_806))
    assert parameters(by_size) == pytest.approx(810_806, rel=0.01)
    by_cost = build("resnet20", 100, multiplier=matching_multiplier("resnet20", 100, macs=74_373_376))
    assert profile(by_cost, 32, repeats=1).macs == pytest.approx(74_373_376, rel=0.02)
    assert matching_multiplier("resnet20", 100, parameters=278_324) == pytest.approx(1, abs=0.01)


def test_refused():
    with pytest.raises(KDScopeError, match="multiplier is a number above 0, at most 64, not -1"):
        build("resnet8", 10, multiplier=-1)
    with pytest.raises(KDScopeError, match="either parameters or macs"):
        matching_multiplier("resnet8", 10)
    with pytest.raises(KDScopeError, match="unknown option 'multiplier'"):
        matching_multiplier("vgg8", 10, parameters=1000)
    with pytest.raises(KDScopeError, match="no width of 'resnet8' comes near 10"):
        matching_multiplier("resnet8", 10, parameters=10)
