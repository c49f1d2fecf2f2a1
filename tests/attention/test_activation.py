import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.attention import activation_map
from kdscope.errors import KDScopeError


@given(st.integers(0, 1000), st.floats(0.5, 4.0))
@settings(max_examples=20, deadline=None)
def test_equals_a_plain_loop_over_channels(seed, p):
    torch.manual_seed(seed)
    feature = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    for channel in range(5):
        expected += feature[:, channel].abs() ** p
    assert torch.allclose(activation_map(feature, p), expected)


def test_rotating_the_channels_changes_nothing_at_p_2():
    torch.manual_seed(0)
    feature = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert torch.allclose(activation_map(torch.einsum("dc,bchw->bdhw", rotation, feature)), activation_map(feature))


def test_half_precision_is_summed_in_float32():
    feature = torch.full((1, 1024, 1, 1), 16.0, dtype=torch.float16)  # the sum, 262144, is beyond float16
    assert activation_map(feature).dtype == torch.float32
    assert activation_map(feature).item() == 262144


def test_tokens_are_refused():
    with pytest.raises(KDScopeError, match=r"needs a feature map \[B, C, H, W\]"):
        activation_map(torch.zeros(2, 16, 8))
