"""Parameters and multiply-adds: against the published figures, and against arithmetic done here from the tables."""

from itertools import pairwise

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
        ("resnet50", 100, 23.705),
        ("mobilenetv2_half", 100, 0.813),
        ("shufflenetv1", 100, 0.949),
        ("shufflenetv2", 100, 1.356),
        ("mobilenet_s", 100, 0.158),
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
        ("mobilenet_s", 100, 14.9),
        ("mobilenetv2_half", 100, 6.5),
        ("shufflenetv1", 100, 38.7),
        ("shufflenetv2", 100, 44.5),
    ],
)
def test_published_multiply_adds_at_32_pixels(name, num_classes, millions):
    assert round(macs(name, num_classes) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "millions", "multiply_adds"),
    [
        *(("vgg16_mhgd", 17.96, 401), ("vgg7_mhgd", 6.11, 98), ("wrn-22-4", 4.32, 619), ("wrn-10-4", 1.22, 166)),
        *(("resnet32x4", 7.43, 1083), ("resnet8x4", 1.23, 177)),  # "ResNet32 and ResNet8, doubled" of MHGD's code
        *(("resnet_s", 1.22, 166), ("vgg_s", 1.18, 161)),
    ],
)
def test_the_networks_of_mhgd_as_drawn(name, millions, multiply_adds):
    assert round(count(name, 100) / 1e6, 2) == millions
    assert round(macs(name, 100) / 1e6) == multiply_adds


@pytest.mark.parametrize(("name", "counts", "hidden"), [("vgg16_mhgd", "22333", 2), ("vgg7_mhgd", "11111", 1)])
def test_vgg_of_mhgd_by_arithmetic(name, counts, hidden):
    parameters, work, inputs = 0, 0, 3
    for channels, layers, side in zip((64, 128, 256, 512, 512), map(int, counts), (32, 16, 8, 4, 4), strict=True):
        for _ in range(layers):
            parameters += conv(3, inputs, channels) + channels
            work += conv(3, inputs, channels) * side**2
            inputs = channels
    sizes = [512 * 2 * 2] + hidden * [1024] + [100]
    assert count(name, 100) == parameters + sum(linear(a, b) for a, b in pairwise(sizes))
    assert macs(name, 100) == work + sum(a * b for a, b in pairwise(sizes))


def test_mobilenet_v2_by_arithmetic():
    rows = [(1, 8, 1, 16), (6, 12, 2, 16), (6, 16, 3, 8), (6, 32, 4, 4), (6, 48, 3, 4), (6, 80, 3, 2), (6, 160, 1, 2)]
    parameters, work, inputs, before = conv(3, 3, 16) + bn(16), conv(3, 3, 16) * 16**2, 16, 16
    for expansion, channels, blocks, side in rows:
        for _ in range(blocks):
            inner = expansion * inputs
            parameters += conv(1, inputs, inner) + conv(3, 1, inner) + conv(1, inner, channels)
            parameters += 2 * bn(inner) + bn(channels)
            work += conv(1, inputs, inner) * before**2 + (conv(3, 1, inner) + conv(1, inner, channels)) * side**2
            inputs, before = channels, side
    parameters += conv(1, 160, 1280) + bn(1280) + linear(1280, 100)
    assert count("mobilenetv2_half", 100) == parameters
    assert macs("mobilenetv2_half", 100) == work + conv(1, 160, 1280) * 2**2 + 1280 * 100


def test_shufflenet_v1_by_arithmetic():
    total, inputs = conv(1, 3, 24) + bn(24), 24
    for channels, units in ((240, 4), (480, 8), (960, 4)):
        for i in range(units):
            new = channels - inputs if i == 0 else channels
            inner = new // 4
            total += conv(1, inputs, inner) // (1 if inputs == 24 else 3) + conv(3, 1, inner) + conv(1, inner, new) // 3
            total += 2 * bn(inner) + bn(new)
            inputs = channels
    assert count("shufflenetv1", 100) == total + linear(960, 100)


def test_shufflenet_v2_by_arithmetic():
    total, inputs = conv(1, 3, 24) + bn(24), 24
    for channels, units in ((116, 3), (232, 7), (464, 3)):
        half = channels // 2
        total += conv(3, 1, inputs) + bn(inputs) + conv(1, inputs, half) + bn(half)
        total += conv(1, inputs, half) + conv(3, 1, half) + conv(1, half, half) + 3 * bn(half)
        total += units * (2 * conv(1, half, half) + conv(3, 1, half) + 3 * bn(half))
        inputs = channels
    assert count("shufflenetv2", 100) == total + conv(1, 464, 1024) + bn(1024) + linear(1024, 100)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_vit_tiny_by_arithmetic(size):
    d, blocks, norm = 192, 12, 2 * 192
    block = 4 * linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + 2 * norm
    outside = conv(4, 3, d) + d + d + 8 * 8 * d + norm + linear(d, 100)  # patches, class token, positions, norm, head
    assert count("vit_tiny", 100) == blocks * block + outside == 5_379_940
    patches = (size // 4) ** 2
    n = patches + 1
    work = blocks * (12 * n * d * d + 2 * n * n * d)
    assert macs("vit_tiny", 100, size) == work + patches * conv(4, 3, d) + d * 100


def test_a_profile_counts_the_attention_of_a_transformer():
    """Without gradients PyTorch takes another way through attention, which must be counted all the same."""
    assert models.profile(models.build("vit_tiny", 100), 32, repeats=1).macs == macs("vit_tiny", 100)


def test_resnet20_multiply_adds_by_arithmetic():
    stem = conv(3, 3, 16) * 32**2
    first = 6 * conv(3, 16, 16) * 32**2
    second = (conv(3, 16, 32) + 5 * conv(3, 32, 32) + conv(1, 16, 32)) * 16**2
    third = (conv(3, 32, 64) + 5 * conv(3, 64, 64) + conv(1, 32, 64)) * 8**2
    assert macs("resnet20", 100) == stem + first + second + third + 64 * 100
