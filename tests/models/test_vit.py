"""The vision transformer: against torchvision's on the same weights; its maps, gradients and attention."""

import pytest
import torch
from torchvision.models import VisionTransformer

from kdscope import models
from kdscope.attention.transformer import AttentionWeights, cls_attention, is_transformer, rollout
from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.models.vit import ViT


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return ViT(dim=24, depth=5, num_classes=7).eval()


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_it_is_the_vision_transformer(vit):
    other = VisionTransformer(32, 4, 5, 3, 24, 96, num_classes=7).eval()
    other.conv_proj.load_state_dict(vit.patch_embed.state_dict())
    other.encoder.ln.load_state_dict(vit.norm.state_dict())
    other.heads.head.load_state_dict(vit.head.state_dict())
    for theirs, ours in zip(other.encoder.layers, vit.blocks, strict=True):
        theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        other.class_token.copy_(vit.class_token)
        position = vit.position.flatten(2).transpose(1, 2)
        other.encoder.pos_embedding.copy_(torch.cat([torch.zeros(1, 1, 24), position], 1))
        expected = other(images())
        assert expected.std() > 1e-3
        torch.testing.assert_close(vit(images()), expected, rtol=1e-4, atol=1e-6)


def test_the_maps_are_the_patch_tokens_row_by_row(vit):
    blocks = dict(zip(models.stages(vit), (0, 1, 2, 3), strict=True))  # 5 // 4, 5 // 2, 15 // 4 and 5 - 1, from one
    with torch.no_grad(), Capture(vit, [*blocks, "blocks.*"]) as capture:
        features = capture(images(16))
    for stage, block in blocks.items():
        tokens = features[f"blocks.{block}"]
        assert features[stage].shape == (2, 24, 4, 4)
        for row in range(4):
            for column in range(4):
                assert torch.equal(features[stage][:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_vit_tiny_has_its_maps_at_quarters():
    with torch.device("meta"):
        network = models.build("vit_tiny", 10)
        with Capture(network.eval(), [*models.stages(network), "blocks.*"]) as capture:
            maps = capture(torch.empty(2, 3, 32, 32)).maps
    assert {stage: tuple(maps[stage].shape) for stage in models.stages(network)} == dict.fromkeys(
        ("stage1", "stage2", "stage3", "stage4"), (2, 192, 8, 8)
    )
    assert network._ends == {3: "stage1", 6: "stage2", 9: "stage3", 11: "stage4"}


def test_the_gradient_of_a_map_reaches_the_blocks_before_it_and_no_other(vit):
    with Capture(vit.train(), ["stage2"]) as capture:
        capture(images())["stage2"].square().sum().backward()
    reached = [any(p.grad is not None and p.grad.abs().max() > 0 for p in block.parameters()) for block in vit.blocks]
    assert reached == [True, True, False, False, False]
    assert vit.patch_embed.weight.grad.abs().max() > 0


@pytest.mark.parametrize("stage", ["stage1", "stage4"])
def test_the_logits_depend_on_every_place_of_every_map(vit, stage):
    """So Grad-CAM is not blind at the last stage, as it is at what leaves the last block."""
    caught = {}
    vit.get_submodule(stage).register_forward_hook(lambda _, __, output: caught.update(map=output))
    logits = vit(images())
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), caught["map"])
    assert (gradient.abs().amax(1) > 0).all()


def test_what_a_hook_changes_goes_on(vit):
    with torch.no_grad():
        plain = vit(images())
        handle = vit.stage3.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        assert not torch.allclose(vit(images()), plain)
        handle.remove()
        assert torch.equal(vit(images()), plain)


@pytest.mark.parametrize(("size", "side"), [(16, 4), (32, 8), (64, 16)])
def test_attention_of_any_size(vit, size, side):
    assert is_transformer(vit)
    with torch.no_grad(), AttentionWeights(vit) as caught:
        plain = vit(images(size))
        assert [w.shape for w in caught.weights] == [(2, 3, side**2 + 1, side**2 + 1)] * 5
        leading, grid = caught.grid()
        assert (leading, grid) == (1, (side, side))
        seen, flow = cls_attention(caught.weights[-1], leading, grid), rollout(caught.weights, leading, grid)
        torch.testing.assert_close(seen.sum((1, 2)), 1 - caught.weights[-1][:, :, 0, 0].mean(1))
        assert flow.shape == (2, side, side)
        assert (flow > 0).all()
    with torch.no_grad():
        torch.testing.assert_close(vit(images(size)), plain)


def test_positions_of_other_sizes_are_interpolated(vit):
    """A table that is one value everywhere is that value at any size; places that differ give other logits."""
    with torch.no_grad():
        before = vit(images(16))
        torch.nn.init.constant_(vit.position, 0.1)
        constant = vit(images(16))
        vit.position.zero_()
        vit.patch_embed.bias += 0.1
        torch.testing.assert_close(vit(images(16)), constant)
    assert not torch.allclose(before, constant)


def test_the_head_and_depths_that_cannot_be(vit):
    assert models.classifier(vit) == "head"
    assert models.stages(vit) == models.preactivations(vit) == models.blocks(vit)
    with pytest.raises(KDScopeError, match="5 blocks or more, not 4"):
        ViT(24, 4, num_classes=3)
