"""Parameters and multiply-adds: against the published figures, and against arithmetic done here from the tables."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdscope import models


def count(name: str, num_classes: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in models.build(name, num_classes).parameters())


def macs(name: str, num_classes: int, size: int = 32) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        models.build(name, num_classes).eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "num_classes", "millions"),
    [
        ("resnet20", 100, 0.278),
        ("resnet56", 100, 0.862),
        ("resnet110", 100, 1.737),
        ("resnet8x4", 100, 1.234),
        ("resnet32x4", 100, 7.434),
        ("wrn-16-2", 100, 0.703),
        ("wrn-40-1", 100, 0.570),
        ("wrn-40-2", 100, 2.255),
        ("vgg8", 100, 3.965),
        ("vgg13", 100, 9.462),
        ("resnet18", 10, 11.174),
        ("resnet18", 100, 11.220),
        ("resnet50", 10, 23.521),
        ("resnet50_cbam", 10, 26.053),
        ("wrn-28-10", 100, 36.537),
        ("wrn-28-10", 10, 36.479),
    ],
)
def test_published_parameter_counts(name, num_classes, millions):
    assert round(count(name, num_classes) / 1e6, 3) == millions


def bn(channels: int) -> int:
    return 2 * channels


def conv(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * kernel * inputs * outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def cifar_resnet(depth: int, stem: int, stages: tuple[int, ...], num_classes: int) -> int:
    total, inputs = conv(3, 3, stem) + bn(stem), stem
    for channels in stages:
        total += conv(3, inputs, channels) + (2 * ((depth - 2) // 6) - 1) * conv(3, channels, channels)
        total += 2 * ((depth - 2) // 6) * bn(channels)
        if channels != inputs:
            total += conv(1, inputs, channels) + bn(channels)
        inputs = channels
    return total + linear(inputs, num_classes)


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_cifar_resnets_by_arithmetic(depth):
    assert count(f"resnet{depth}", 100) == cifar_resnet(depth, 16, (16, 32, 64), 100)


@pytest.mark.parametrize("depth", [8, 32])
def test_wide_cifar_resnets_by_arithmetic(depth):
    assert count(f"resnet{depth}x4", 100) == cifar_resnet(depth, 32, (64, 128, 256), 100)


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2), (28, 10), (34, 3), (40, 2)])
def test_wide_resnets_by_arithmetic(depth, width):
    blocks, inputs = (depth - 4) // 6, 16
    total = conv(3, 3, 16)
    for channels in (16 * width, 32 * width, 64 * width):
        total += bn(inputs) + conv(3, inputs, channels) + bn(channels) + conv(3, channels, channels)
        total += (blocks - 1) * 2 * (bn(channels) + conv(3, channels, channels))
        total += conv(1, inputs, channels) if channels != inputs else 0
        inputs = channels
    assert count(f"wrn-{depth}-{width}", 10) == total + bn(inputs) + linear(inputs, 10)


@pytest.mark.parametrize(
    ("depth", "counts"), [(8, "11111"), (11, "11222"), (13, "22222"), (16, "22333"), (19, "22444")]
)
def test_vgg_by_arithmetic(depth, counts):
    total, inputs = 0, 3
    for channels, layers in zip((64, 128, 256, 512, 512), map(int, counts), strict=True):
        for _ in range(layers):
            total += conv(3, inputs, channels) + channels + bn(channels)
            inputs = channels
    assert count(f"vgg{depth}", 100) == total + linear(512, 100)


@pytest.mark.parametrize(("depth", "counts"), [(50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))])
def test_cbam_adds_exactly_its_gates(depth, counts):
    gates = 0
    for channels, blocks in zip((256, 512, 1024, 2048), counts, strict=True):
        channel = linear(channels, channels // 16) + linear(channels // 16, channels)
        gates += blocks * (channel + conv(7, 2, 1) + bn(1))
    assert count(f"resnet{depth}_cbam", 10) - count(f"resnet{depth}", 10) == gates


def test_resnet18_by_arithmetic():
    total, inputs = conv(3, 3, 64) + bn(64), 64
    for channels in (64, 128, 256, 512):
        total += conv(3, inputs, channels) + 3 * conv(3, channels, channels) + 4 * bn(channels)
        total += conv(1, inputs, channels) + bn(channels) if channels != inputs else 0
        inputs = channels
    assert count("resnet18", 10) == total + linear(512, 10) == 11_173_962


@pytest.mark.parametrize(
    ("name", "num_classes", "millions"),
    [
        ("resnet20", 100, 40.8),
        ("resnet56", 100, 125.8),
        ("resnet8x4", 100, 177.1),
        ("resnet32x4", 100, 1083.0),
        ("resnet18", 10, 555.4),
        ("resnet50", 10, 1297.8),
        ("resnet50_cbam", 10, 1303.3),
    ],
)
def test_published_multiply_adds_at_32_pixels(name, num_classes, millions):
    assert round(macs(name, num_classes) / 1e6, 1) == millions


def test_resnet20_multiply_adds_by_arithmetic():
    stem = conv(3, 3, 16) * 32**2
    first = 6 * conv(3, 16, 16) * 32**2
    second = (conv(3, 16, 32) + 5 * conv(3, 32, 32) + conv(1, 16, 32)) * 16**2
    third = (conv(3, 32, 64) + 5 * conv(3, 64, 64) + conv(1, 32, 64)) * 8**2
    assert macs("resnet20", 100) == stem + first + second + third + 64 * 100
