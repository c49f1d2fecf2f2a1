"""Masks, baselines, imputation, deletion and insertion against closed forms."""

import pytest
import torch
from torch import nn

from kdscope.attention.baselines import baseline
from kdscope.attention.imputation import blur, noisy_linear
from kdscope.attention.intervention import intervention_curve, ranks
from kdscope.attention.masks import signed, soft_mask, to_grid, top_mask
from kdscope.attention.randomised import randomised
from kdscope.errors import KDScopeError
from kdscope.models import build


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_masks_of_ties_and_constants():
    flat = torch.zeros(2, 4, 4)
    assert top_mask(flat, 0.25).sum((1, 2)).tolist() == [4, 4]
    assert torch.equal(soft_mask(flat), torch.ones_like(flat))
    m = torch.randn(5, 6, 6)
    assert top_mask(m, 0.15).sum((1, 2)).tolist() == [5] * 5
    assert torch.equal(top_mask(m, 0.3), top_mask(m.exp(), 0.3))
    assert soft_mask(m).amax((1, 2)).tolist() == [1.0] * 5
    assert torch.equal(signed(m, "absolute"), m.abs())
    with pytest.raises(KDScopeError, match="share 0"):
        top_mask(m, 0)
    with pytest.raises(KDScopeError, match="nearest"):
        signed(m, "negative")


def test_maps_between_grids_keep_constants_and_means():
    m = torch.rand(2, 8, 8)
    assert torch.allclose(to_grid(m, 4, 4).mean((1, 2)), m.mean((1, 2)))
    assert torch.allclose(to_grid(torch.full((1, 2, 2), 3.0), 8, 8), torch.full((1, 8, 8), 3.0))


def test_baselines():
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
    images = torch.randn(2, 3, 8, 8)
    assert not baseline("mean", mean, std)(images).any()
    black = baseline("black", mean, std)(images)
    assert torch.allclose(black * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None], images * 0)
    assert baseline("blur", mean, std)(images).std() < images.std() / 3
    train = baseline("train", mean, std, images + 1)(images)
    assert train.shape == (2, 2, 3, 8, 8)
    assert torch.equal(train[1, 0], images[1] + 1)
    for bad in ("noise", "zero"):
        with pytest.raises(KDScopeError, match="unknown baseline"):
            baseline(bad, mean, std)


def test_blur_of_a_point_is_a_gaussian():
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[0, 0, 15, 15] = 1
    found = blur(point, 2.0)[0, 0]
    assert found.sum().item() == pytest.approx(1, abs=1e-6)
    assert (found[15, 17] / found[15, 15]).item() == pytest.approx(torch.tensor(-0.5).exp().item(), abs=1e-6)


def test_imputation_solves_its_equations():
    images, removed = torch.randn(3, 2, 9, 9, dtype=torch.float64), torch.rand(3, 9, 9) < 0.6
    found = noisy_linear(images, removed, tolerance=1e-10)
    kept = ~removed[:, None].expand_as(images)
    assert torch.equal(found[kept], images[kept])
    padded = nn.functional.pad(found, (1, 1, 1, 1))
    weights = nn.functional.pad(torch.ones_like(found), (1, 1, 1, 1))
    total = norm = 0
    for dy in range(3):
        for dx in range(3):
            w = 0 if (dy, dx) == (1, 1) else 1 / 6 if 1 in (dy, dx) else 1 / 12
            total = total + w * padded[..., dy : dy + 9, dx : dx + 9]
            norm = norm + w * weights[..., dy : dy + 9, dx : dx + 9]
    assert torch.allclose((total / norm)[~kept], found[~kept], atol=1e-7)


def test_imputation_of_everything_is_the_mean_and_of_nothing_the_image():
    images = torch.randn(2, 3, 6, 6)
    removed = torch.stack([torch.ones(6, 6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool)])
    found = noisy_linear(images, removed, torch.randn(3, 6, 6))
    assert torch.equal(found[1], images[1])
    bare = noisy_linear(images, removed)
    assert torch.allclose(bare[0], images[0].mean((1, 2), keepdim=True).expand(3, 6, 6), atol=1e-5)


class Brightness(nn.Module):
    """Class 1 by what stands in the left half: its evidence is known."""

    def forward(self, x):
        left = 8 * x[..., : x.shape[-1] // 2].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(left), left], 1)


@pytest.mark.parametrize("imputation", ["noisy-linear", "blur"])
def test_the_right_map_deletes_early_and_inserts_early(imputation):
    images = torch.zeros(6, 3, 8, 8)
    images[..., :4] = 1
    images[..., 4:] = -1
    right = images[:, 0]
    of = torch.ones(6, dtype=torch.int64)
    area = {}
    for name, m in {"right": right, "wrong": -right, "random": torch.rand(6, 8, 8)}.items():
        for mode in ("deletion", "insertion"):
            curve = intervention_curve(Brightness(), images, m, of, mode=mode, imputation=imputation, batch_size=4)
            area[name, mode] = curve.mean().item()
    assert area["right", "deletion"] < area["random", "deletion"] < area["wrong", "deletion"]
    assert area["right", "insertion"] > area["random", "insertion"] > area["wrong", "insertion"]


def test_ends_of_the_curves_and_what_is_not_finite():
    net, images = build("resnet8", num_classes=4).eval(), torch.randn(3, 3, 16, 16)
    of, m = torch.tensor([0, 1, 2]), torch.randn(3, 4, 4)
    m[2, 0, 0] = float("nan")
    deletion = intervention_curve(net, images, m, of, shares=(0.0, 1.0))
    insertion = intervention_curve(net, images, m, of, mode="insertion", shares=(0.0, 1.0))
    assert torch.allclose(deletion[:2].flip(1), insertion[:2])
    assert torch.allclose(deletion[:2, 0], net(images).softmax(1)[[0, 1], [0, 1]], atol=1e-6)
    assert deletion[2].isnan().all()
    assert ranks(torch.zeros(1, 2, 2)).flatten().tolist() == [0, 0.25, 0.5, 0.75]
    with pytest.raises(KDScopeError, match="unknown imputation"):
        intervention_curve(net, images, m, of, imputation="black")
    with pytest.raises(KDScopeError, match="maps of shape"):
        intervention_curve(net, images, m[:2], of)


def test_randomised_weights_leave_the_model_and_the_random_state_alone():
    net = build("resnet8", num_classes=4)
    before, state = [w.clone() for w in net.parameters()], torch.get_rng_state()
    a, b = randomised(net, 1), randomised(net, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(before, net.parameters(), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.conv1.weight, net.conv1.weight)
