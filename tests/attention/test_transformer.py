import pytest
import torch
from torch import nn

from kdscope.attention.tokens import token_grid
from kdscope.attention.transformer import AttentionWeights, cls_attention, is_transformer, rollout
from kdscope.errors import KDScopeError


def attention(seed, blocks=2, tokens=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, tokens, tokens, generator=generator).softmax(-1) for _ in range(blocks)]


def test_rollout_is_the_product_of_the_mixed_blocks():
    first, second = attention(0)
    mixed = [(block.mean(1) + torch.eye(5)) / 2 for block in (first, second)]
    expected = (mixed[1] @ mixed[0])[:, 0, 1:].unflatten(1, (2, 2))
    assert torch.allclose(rollout([first, second], 1, (2, 2)), expected)
    without = rollout(attention(1, tokens=4), 0, (2, 2))
    assert torch.allclose(without.sum((1, 2)), torch.ones(3))


def test_the_class_token_takes_from_the_patches():
    (weights,) = attention(0, 1)
    assert torch.equal(cls_attention(weights, 1, (2, 2)).flatten(1), weights.mean(1)[:, 0, 1:])
    with pytest.raises(KDScopeError, match="no class token"):
        cls_attention(weights, 0, (2, 2))


def test_the_grid_is_what_the_network_says_of_itself():
    class Says(nn.Module):
        num_prefix_tokens = 2

    says = Says()
    says.patch_embed = nn.Identity()
    says.patch_embed.grid_size = (2, 5)
    assert token_grid(says, 12) == (2, 2, 5)
    with pytest.raises(KDScopeError, match="no square grid"):
        token_grid(Says(), 12)


def test_torchvisions_attention_is_caught_and_the_network_unmoved():
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=3).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        plain = net(images)
        with AttentionWeights(net) as caught:
            assert torch.allclose(net(images), plain, atol=1e-5)
            assert [w.shape for w in caught.weights] == [(2, 2, 17, 17)] * 2
            assert torch.allclose(caught.weights[1].sum(-1), torch.ones(2, 2, 17))
            assert caught.grid() == (1, (4, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_timms_attention_is_computed_again():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=3, depth=2).eval()
    images = torch.randn(2, 3, 32, 32)
    seen = {}
    for block in net.blocks:
        block.attn.fused_attn = False
    net.blocks[1].attn.attn_drop.register_forward_hook(lambda m, i, o: seen.update(weights=o))
    with torch.no_grad(), AttentionWeights(net) as caught:
        net(images)
        assert torch.allclose(caught.weights[1], seen["weights"], atol=1e-6)
        assert caught.grid() == (1, (4, 4))


def test_a_convolutional_network_is_no_transformer():
    assert not is_transformer(nn.Sequential(nn.Conv2d(3, 4, 3)))
