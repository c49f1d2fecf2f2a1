import pytest
import torch

from kdscope.errors import KDScopeError
from kdscope.features.reduce import attention, full, leading_tokens, patches, pool, reduction

MAPS = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_pool_is_the_average_over_positions():
    torch.testing.assert_close(pool(MAPS), MAPS.mean((2, 3)))


def test_attention_is_the_energy_over_channels():
    torch.testing.assert_close(attention(MAPS), MAPS.square().sum(1))


def test_tokens_are_patches_behind_a_class_token():
    tokens = torch.cat([torch.full((2, 1, 3), 99.0, dtype=torch.float64), MAPS.flatten(2).transpose(1, 2)], 1)
    torch.testing.assert_close(patches(tokens), MAPS)
    torch.testing.assert_close(pool(tokens), MAPS.mean((2, 3)))
    torch.testing.assert_close(attention(tokens), MAPS.square().sum(1))


def test_vectors_and_full_stay():
    vector = torch.randn(2, 3)
    assert pool(vector) is attention(vector) is vector
    assert full(MAPS) is MAPS


def test_half_precision_is_averaged_in_single():
    half = torch.full((1, 1, 64, 64), 100.1, dtype=torch.float16)
    assert pool(half).dtype == torch.float32
    torch.testing.assert_close(pool(half).item(), half[0, 0, 0, 0].item())


@pytest.mark.parametrize(
    ("count", "leading"), [(49, 0), (50, 1), (197, 1), (198, 2), (201, 5), (64, 0), (3, 0), (61, 0)]
)
def test_leading_tokens(count, leading):
    assert leading_tokens(count) == leading


def test_tokens_without_a_grid_have_no_attention_map():
    with pytest.raises(KDScopeError, match="61 tokens are no square grid"):
        attention(torch.randn(1, 61, 4))


def test_unknown_reduction():
    with pytest.raises(KDScopeError, match="nearest: pool"):
        reduction("pol")
