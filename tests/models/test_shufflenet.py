"""ShuffleNets: the shuffle, and the ReLU that stands behind it, against the papers' order of operations."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from kdscope.models.shufflenet import DownUnit, GroupedUnit, SplitUnit, shuffle


@given(st.integers(1, 5), st.integers(1, 5))
def test_the_shuffle_is_a_transposition_of_groups(groups, each):
    x = torch.arange(2.0 * groups * each).reshape(2, groups * each, 1, 1)
    shuffled = shuffle(x, groups)
    for group in range(groups):
        for i in range(each):
            assert torch.equal(shuffled[:, i * groups + group], x[:, group * each + i])
    assert torch.equal(shuffle(shuffled, each), x)


def branch(unit, x, *numbers, depthwise):
    """conv, batch norm, and a ReLU unless the convolution is depthwise (ECCV 2018, figure 3)."""
    for i in numbers:
        x = getattr(unit, f"bn{i}")(getattr(unit, f"conv{i}")(x))
        x = x if i == depthwise else x.clamp_min(0)
    return x


def test_one_relu_behind_the_shuffle_is_the_paper_s_network_and_its_gradient():
    """In the paper the ReLU is that of the new half alone; the kept half is non-negative already."""
    torch.manual_seed(0)
    unit = SplitUnit(12).double()
    x = torch.randn(3, 12, 4, 4, dtype=torch.float64).clamp_min(0).requires_grad_()
    kept, new = x[:, :6], x[:, 6:]
    expected = shuffle(torch.cat([kept, branch(unit, new, 1, 2, 3, depthwise=2)], 1), 2)
    actual = unit(x)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    (found,) = torch.autograd.grad((actual * weight).sum(), x)
    positive = x > 0  # at zero a ReLU's slope is a convention, and what came before has slope zero there too
    torch.testing.assert_close(found[positive], wanted[positive])


def test_the_unit_of_stride_two_has_both_branches():
    torch.manual_seed(0)
    unit = DownUnit(6, 8).double()
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    left, right = branch(unit, x, 1, 2, depthwise=1), branch(unit, x, 3, 4, 5, depthwise=4)
    torch.testing.assert_close(unit(x), shuffle(torch.cat([left, right], 1), 2))


def test_the_pooled_input_is_part_of_a_unit_of_stride_two():
    torch.manual_seed(0)
    unit = GroupedUnit(24, 60, 2, 3).double()
    torch.nn.init.zeros_(unit.bn3.weight)
    x = torch.randn(2, 24, 4, 4, dtype=torch.float64)
    y = unit(x)
    assert y.shape == (2, 60, 2, 2)
    assert torch.equal(y[:, :36], torch.zeros(2, 36, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(y[:, 36:], torch.nn.functional.avg_pool2d(x, 3, 2, 1).clamp_min(0))


def test_a_unit_of_stride_one_adds_its_input():
    torch.manual_seed(0)
    unit = GroupedUnit(48, 48, 1, 3).double()
    torch.nn.init.zeros_(unit.bn3.weight)
    x = torch.randn(2, 48, 4, 4, dtype=torch.float64)
    assert torch.equal(unit(x), x.clamp_min(0))
