"""letKD: the layer, what is computed once, what it is taught, and its control arms, by closed forms and by sklearn."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, kl_div, mse_loss, normalize

import kdscope
from kdscope import models
from kdscope.data import Batch, Dataset, Split
from kdscope.data.split import moments
from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.methods import Objective, resolve
from kdscope.methods.letkd import KDLayer, LetKD, kd_layers
from kdscope.methods.letkd.controls import scores_kept
from kdscope.methods.letkd.divergence import PIECE_BYTES, divergence
from kdscope.methods.letkd.insert import insert
from kdscope.methods.letkd.kmeans import kmeans, lloyd, nearest
from kdscope.methods.letkd.layer import CosConv2d
from kdscope.methods.letkd.lda import Scatter
from kdscope.methods.letkd.prepare import make_codebook
from kdscope.methods.letkd.subclass import own_subclass, score_matrix, subclasses
from kdscope.methods.letkd.targets import (
    Codebook,
    Subclasses,
    letkd_loss,
    patches,
    pooled,
    soft_assignment,
)
from kdscope.methods.objective import changed
from kdscope.methods.term import TrainingData
from kdscope.training.learner import Learner
from kdscope.training.preparation import TrainingImages, teaching


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# The layer


@pytest.mark.parametrize(("templates", "count"), [(4096, 532_482), (800, 104_002)])
def test_shapes_and_number_of_parameters(templates, count):
    torch.manual_seed(0)
    layer = KDLayer(64, templates)
    x = torch.randn(2, 64, 8, 8)
    assert layer.codes(x).shape == (2, templates, 8, 8)
    assert layer(x).shape == x.shape
    assert sum(p.numel() for p in layer.parameters()) == count == 2 * templates * 64 + 2 * templates + 2


def test_the_layer_is_its_equation():
    torch.manual_seed(0)
    layer = KDLayer(5, 11, alpha=0.3).double().eval()
    for each in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var):
        each.data.uniform_(0.1, 1.0)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for b, i, j in np.ndindex(2, 3, 4):
        one = x[b, :, i, j]
        w, w2 = layer.codes.weight, layer.values.weight
        a = torch.stack([layer.codes.scale * (w[k] @ one) / (w[k].norm() * one.norm()) for k in range(11)])
        norm = layer.norm
        p = ((a - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias).clamp_min(0)
        v = torch.stack([layer.values.scale * (w2[c] @ p) / (w2[c].norm() * p.norm()) for c in range(5)])
        assert torch.allclose(layer(x)[b, :, i, j], one + 0.3 * v, atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_matches_are_bounded_and_do_not_know_the_length_of_the_map(seed, length):
    torch.manual_seed(seed)
    layer = KDLayer(6, 20, value_scale=0.7)
    x = torch.randn(2, 6, 3, 3)
    a = layer.codes(x)
    assert a.abs().max() <= 3 + 1e-5
    assert torch.allclose(layer.codes(length * x), a, atol=1e-5)
    assert (layer(x) - x).abs().max() <= 0.7 + 1e-5
    layer.values.scale.data.neg_()  # a learned scale may turn negative
    assert (layer(x) - x).abs().max() <= 0.7 + 1e-5
    layer, x = layer.double(), x.double()
    assert torch.allclose(layer.codes(length * x), layer.codes(x), atol=1e-12)


def test_a_layer_that_counts_nothing_or_matches_nothing_leaves_the_map():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(KDLayer(6, 20, alpha=0.0)(x), x)
    layer = KDLayer(6, 20)
    layer.norm.bias.data.fill_(-100.0)  # batch norm and ReLU say: none of them
    x.requires_grad_()
    out = layer(x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_statistics_are_the_batchs_in_training_and_the_running_ones_after():
    torch.manual_seed(0)
    layer, x = KDLayer(6, 20), torch.randn(4, 6, 3, 3)
    layer.norm.momentum = None  # the running statistics become those of the one batch that was seen
    trained = layer.train()(x)
    assert not torch.equal(layer.eval()(x), trained)  # the running variance is the unbiased one
    layer.norm.running_var *= (4 * 9 - 1) / (4 * 9)
    assert torch.allclose(layer(x), trained, atol=1e-5)


def test_the_values_of_the_paper_have_length_one_by_template():
    torch.manual_seed(0)
    rows, columns = KDLayer(6, 20).values, KDLayer(6, 20, variant="paper_text").values
    assert torch.allclose(rows(torch.eye(20)[:, :, None, None]).squeeze().T, normalize(rows.weight, dim=1))
    one = columns(torch.eye(20)[:, :, None, None]).squeeze()  # what each template alone adds
    assert torch.allclose(one.norm(dim=1), torch.ones(20))


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_templates_have_no_order(seed):
    torch.manual_seed(seed)
    layer, x = KDLayer(6, 20).train(), torch.randn(4, 6, 3, 3)
    layer.norm.weight.data.uniform_(0.5, 2)
    target = torch.rand(36, 20).softmax(1)
    order = torch.randperm(20)
    other = copy.deepcopy(layer)
    other.reorder(order)
    assert torch.allclose(layer(x), other(x), atol=1e-5)
    assert torch.allclose(
        letkd_loss(patches(layer.codes(x)), target), letkd_loss(patches(other.codes(x)), target[:, order]), atol=1e-6
    )


def test_gradients_in_float64():
    torch.manual_seed(0)
    layer = KDLayer(3, 5).double()
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    target = torch.rand(16, 5, dtype=torch.float64).softmax(1)
    assert torch.autograd.gradcheck(lambda x: letkd_loss(patches(layer.codes(x)), target), (x,))


def test_the_layer_in_bf16_far_from_zero():
    torch.manual_seed(0)
    layer, x = KDLayer(16, 40).eval(), 100 + torch.randn(4, 16, 5, 5)
    exact = layer.double()(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer.float()(x)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough.double(), exact, atol=0.02)  # what is added is of size 1; the map itself stays exact


# Putting it in


@pytest.mark.parametrize("name", ["resnet8x4", "wrn-10-1", "vgg8", "shufflenetv2", "vit_tiny"])
def test_a_changed_network_is_found_saved_loaded_and_exported(name, tmp_path):
    torch.manual_seed(0)
    plain = models.build(name, 10, image_size=32)
    terms = resolve("letkd-2", {"letkd": {"codes": 24, "subclasses": 2}})
    student = changed(copy.deepcopy(plain), terms)
    assert models.stages(student) == models.stages(plain)
    assert len(models.blocks(student)) == len(models.blocks(plain))
    for stage in models.stages(student):
        assert student.get_submodule(stage) is not None
    before = {p.data_ptr() for p in plain.parameters()}
    added = {name: p.numel() for name, p in student.named_parameters() if ".kd_" in name}
    assert sum(added.values()) == sum(p.numel() for p in student.parameters()) - sum(
        p.numel() for p in plain.parameters()
    )
    assert before.isdisjoint(p.data_ptr() for p in student.parameters())

    # With alpha 0 it is the network that it was.
    plain.eval(), student.eval()
    image = torch.randn(2, 3, 32, 32)
    for _, layer in kd_layers(student):
        layer.alpha = 0.0
    assert torch.allclose(student(image), plain(image), atol=1e-5)
    for _, layer in kd_layers(student):
        layer.alpha = 1.0
    logits = student(image)
    assert not torch.allclose(logits, plain(image), atol=1e-3)

    save_file(student.state_dict(), tmp_path / "student.safetensors")
    torch.manual_seed(1)
    again = changed(models.build(name, 10, image_size=32), terms)
    again.load_state_dict(load_file(tmp_path / "student.safetensors"))
    assert torch.equal(again.eval()(image), logits)
    exported = torch.export.export(student, (image,)).module()
    assert torch.allclose(exported(image), logits, atol=1e-5)


def test_a_network_that_is_not_ours():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip
    stages = models.stages(net)
    student = insert(net, {"inner": "1", "before": "<3"}, lambda name, m, classes: KDLayer(m.shape[1], classes))
    assert models.stages(student) == stages
    assert [name for name, _ in kd_layers(student)] == ["1.inner", "3.before"]
    with Capture(student, ["1", "1.block", "3.before", "3.block"]) as capture:
        seen = capture(torch.randn(2, 3, 16, 16))
    assert seen["1"].shape == seen["1.block"].shape == (2, 4, 8, 8)
    assert not torch.equal(seen["1"], seen["1.block"])
    assert torch.allclose(seen["3.before"].mean((2, 3), keepdim=True), seen["3.block"])
    with pytest.raises(KDScopeError, match=r"'5' gives \[1, 5\]"):
        insert(net, {"x": "5"}, lambda *args: nn.Identity())
    with pytest.raises(KDScopeError, match=r"'relu' runs 2 times"):
        insert(models.build("shufflenetv2", 10), {"x": "relu"}, lambda *args: nn.Identity())


def test_the_places_of_the_paper():
    layers = {
        "resnet20": ["layer3.0.kd_intermediate", "layer3.kd_penultimate"],
        "resnet8x4": ["layer3.0.kd_intermediate", "layer3.kd_penultimate"],
        "wrn-16-2": ["layer3.0.kd_intermediate", "relu.kd_penultimate"],
        "mobilenetv2_half": ["blocks.5.0.kd_intermediate", "conv2.kd_penultimate"],
    }
    widths = {"resnet20": (64, 64), "resnet8x4": (256, 256), "wrn-16-2": (128, 128), "mobilenetv2_half": (80, 1280)}
    for name, expected in layers.items():
        found = dict(kd_layers(changed(models.build(name, 100), resolve("letkd-2"))))
        assert list(found) == expected
        assert tuple(layer.codes.weight.shape[1] for layer in found.values()) == widths[name]
        assert [layer.templates for layer in found.values()] == [800, 4096]


# What is computed once


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=15, deadline=None)
def test_lloyd_never_gets_worse_and_leaves_no_cluster_empty(seed, count):
    torch.manual_seed(seed)
    points = torch.randn(60, 3).round()  # many are the same
    found = lloyd(points, count)
    assert all(after <= before + 1e-6 for before, after in zip(found.inertia, found.inertia[1:], strict=False))
    assert torch.bincount(found.index, minlength=count).min() >= 1
    of_points = ((points - found.centres[found.index]) ** 2).sum()
    assert found.inertia[-1] == pytest.approx(float(of_points), rel=1e-5, abs=1e-5)


def test_clusters_that_begin_empty_are_filled():
    points = torch.tensor([[0.0], [1.0], [100.0], [101.0], [50.0]])
    found = lloyd(points, 3, start=torch.tensor([[0.5], [1e6], [2e6]]))
    assert sorted(found.centres.flatten().tolist()) == [0.5, 50.0, 100.5]
    same = lloyd(torch.ones(5, 2), 3)  # nothing tells the points apart
    assert torch.bincount(same.index, minlength=3).min() >= 1
    with pytest.raises(KDScopeError, match="4 points cannot make 5 clusters"):
        kmeans(torch.ones(4, 2), 5)


def test_clustering_of_well_separated_groups_and_of_mini_batches():
    torch.manual_seed(0)
    centres = 10 * torch.randn(4, 4)
    points = (centres[:, None] + 0.1 * torch.randn(4, 50, 4)).flatten(0, 1)
    whole = kmeans(points, 4, restarts=30)
    part = kmeans(points, 4, how="minibatch")
    _, distance = nearest(centres, whole.centres)
    assert distance.max() < 0.1**2
    assert part.inertia[-1] <= 1.1 * whole.inertia[-1]
    noise = torch.randn(2000, 4)
    assert kmeans(noise, 20, "minibatch").inertia[-1] == pytest.approx(kmeans(noise, 20).inertia[-1], rel=0.1)
    assert MiniBatchKMeans.__module__.startswith("sklearn")


def test_nearest_centres_in_chunks_and_far_from_zero(monkeypatch):
    points, centres = torch.randn(100, 5, generator=seeded()), torch.randn(7, 5, generator=seeded(1))
    expected = torch.cdist(points.double(), centres.double())
    monkeypatch.setattr("kdscope.methods.letkd.kmeans.CHUNK_BYTES", 4 * 7 * 9)  # nine points at a time
    for shift in (0.0, 1000.0):
        index, distance = nearest(points + shift, centres + shift)
        assert torch.equal(index, expected.argmin(1))
        assert torch.allclose(distance.double(), expected.min(1).values ** 2, atol=2e-3 if shift else 1e-5)


def lda_data(n=4000, d=24, classes=10):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    x = (
        rng.normal(size=(n, d)) @ (2 * np.eye(d) + 0.2 * rng.normal(size=(d, d)))
        + 3 * rng.normal(size=(classes, d))[labels]
        + 50
    )
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def test_discriminant_analysis_is_sklearns_up_to_one_factor():
    x, y = lda_data()
    scatter = Scatter(10, 24)
    for k in range(0, len(x), 333):
        scatter.update(x[k : k + 333], y[k : k + 333])
    mean, directions = scatter.solve(6)
    ours = ((x.double() - mean) @ directions).numpy()
    theirs = LinearDiscriminantAnalysis(n_components=6).fit(x.double(), y).transform(x.double())
    ratio = np.linalg.norm(ours[:500] - ours[500:1000], axis=1) / np.linalg.norm(
        theirs[:500] - theirs[500:1000], axis=1
    )
    assert ratio.std() / ratio.mean() < 1e-4
    assert ratio.mean() == pytest.approx(1, abs=2e-3)  # N - C against N
    within = sum(np.cov(ours[y == c].T, bias=True) * int((y == c).sum()) for c in range(10)) / (len(x) - 10)
    assert np.allclose(within, np.eye(6), atol=1e-5)
    assert np.allclose(np.abs(ours), np.abs(theirs) * ratio.mean(), atol=1e-3)


def test_discriminant_analysis_of_dead_channels_and_too_many_components():
    x, y = lda_data(500)
    x[:, 3] = 0.0  # a channel that is dead: the scatter within classes is singular
    x[:, 4] = x[:, 5]
    scatter = Scatter(10, 24)
    scatter.update(x, y)
    mean, directions = scatter.solve(9)
    z = (x.double() - mean) @ directions
    assert z.isfinite().all()
    within = sum((z[y == c] - z[y == c].mean(0)).T @ (z[y == c] - z[y == c].mean(0)) for c in range(10)) / (500 - 10)
    assert torch.allclose(within, torch.eye(9, dtype=within.dtype), atol=1e-3)
    with pytest.raises(KDScopeError, match="of 10 classes and 24 channels has 1 to 9 components, not 10"):
        scatter.solve(10)
    constant = Scatter(2, 3)
    constant.update(torch.ones(8, 3), torch.arange(8) % 2)
    with pytest.raises(KDScopeError, match="features that differ within a class"):
        constant.solve(1)


def test_subclasses_of_each_class():
    torch.manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [0.0, 10.0], [50.0, 0.0], [50.0, 10.0]])  # two classes of two groups
    labels = torch.arange(4).repeat_interleave(20) // 2
    points = corners.repeat_interleave(20, 0) + 0.1 * torch.randn(80, 2)
    centres, there, index = subclasses(points, labels, 3, 2)
    assert there.tolist() == [[True, True], [True, True], [False, False]]  # of the third class there are no images
    assert torch.equal(index // 2, labels)
    assert [len(index[k * 20 : k * 20 + 20].unique()) for k in range(4)] == [1, 1, 1, 1]
    assert torch.equal(own_subclass(points, labels, centres, there), index)
    scores = score_matrix(points, index, 6)
    assert torch.equal(scores, torch.eye(6))  # separable: each is nearest to its own
    few, there, _ = subclasses(points[:3], torch.zeros(3, dtype=torch.int64), 1, 5)
    assert int(there.sum()) == 3
    assert few.isfinite().all()


def test_the_score_matrix_by_hand():
    points = torch.tensor([[0.0], [2.0], [7.0], [6.0], [8.0]])
    scores = score_matrix(points, torch.tensor([0, 0, 0, 2, 2]), 3)  # means 3 and 7, and a sub-class that is empty
    expected = torch.tensor([[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 1]])
    assert torch.allclose(scores, expected)
    assert torch.allclose(scores.sum(1), torch.ones(3))


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_rows_of_scores_sum_to_one(seed):
    torch.manual_seed(seed)
    points, labels = torch.randn(200, 3), torch.randint(0, 4, (200,))
    _, _, index = subclasses(points, labels, 4, 3)
    assert torch.allclose(score_matrix(points, index, 12).sum(1), torch.ones(12), atol=1e-6)


def test_a_patch_takes_a_subclass_of_its_own_class_even_if_all_others_are_nearer():
    centres = torch.tensor([[[1.0], [2.0]], [[9.0], [9.5]]])
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    assert own_subclass(torch.tensor([[0.0]]), torch.tensor([1]), centres, everywhere).tolist() == [2]
    everywhere[1, 0] = False
    assert own_subclass(torch.tensor([[0.0]]), torch.tensor([1]), centres, everywhere).tolist() == [3]


# What the layer is shown


@given(st.integers(0, 10_000), st.floats(0.01, 5))
@settings(max_examples=20, deadline=None)
def test_soft_assignment(seed, sharpness):
    torch.manual_seed(seed)
    z, c = torch.randn(30, 4), torch.randn(9, 4)
    p = soft_assignment(z, c, sharpness)
    square = torch.cdist(z.double(), c.double()).square()
    assert torch.allclose(p.double(), (-sharpness * square).softmax(1), atol=1e-5)
    assert torch.allclose(p.sum(1), torch.ones(30), atol=1e-5)
    assert torch.equal(soft_assignment(c, c, 50.0).argmax(1), torch.arange(9))
    assert torch.allclose(soft_assignment(z, c, 0.0), torch.full((30, 9), 1 / 9))
    far = soft_assignment(z + 300, c + 300, sharpness)
    assert torch.allclose(far, p, atol=2e-3)


def test_a_template_without_centroid_is_never_a_target():
    c = torch.cat([torch.randn(4, 3, generator=seeded()), torch.full((3, 3), float("nan"))])
    z = torch.randn(10, 3, generator=seeded(1))
    p = soft_assignment(z, c)
    assert torch.equal(p[:, 4:], torch.zeros(10, 3))
    assert torch.allclose(p[:, :4], soft_assignment(z, c[:4]))
    a = torch.randn(10, 7, requires_grad=True, generator=seeded(2))
    letkd_loss(a, p).backward()
    assert a.grad.isfinite().all()
    assert (a.grad[:, 4:] > 0).all()  # descent pushes it down


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_the_divergence(seed):
    torch.manual_seed(seed)
    a, p = 3 * torch.randn(12, 7), (2 * torch.randn(12, 7)).softmax(1)
    expected = kl_div(a.double().log_softmax(1), p.double(), reduction="batchmean")
    assert letkd_loss(a, p).double() == pytest.approx(float(expected), abs=1e-5)
    assert letkd_loss(a, p) >= -1e-6
    assert letkd_loss(p.double().log(), p.double()) == pytest.approx(0, abs=1e-6)
    assert letkd_loss(torch.zeros(12, 7), torch.eye(7)[torch.arange(12) % 7]) == pytest.approx(math.log(7), abs=1e-6)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pieces", [1, 10**9])
def test_the_loss_in_pieces_is_the_loss(form, pieces, monkeypatch):
    """Value and gradient of both targets, in either layout of memory, image by image or all at once."""
    monkeypatch.setitem(PIECE_BYTES, "cpu", pieces)
    torch.manual_seed(0)
    z, label = torch.randn(5, 6, 3, 3), torch.tensor([0, 1, 1, 0, 1])
    every = label[:, None].expand(5, 9)
    codebook = Codebook(torch.cat([torch.randn(7, 6), torch.full((1, 6), float("nan"))]), 0.3)
    scores = torch.rand(8, 8).softmax(1)
    classes = Subclasses(torch.randn(6), torch.randn(6, 4), torch.randn(2, 4, 4), torch.ones(2, 4), scores)
    rows = z.flatten(2).transpose(1, 2)
    for target in (codebook, classes):
        whole, _ = target(rows, every)
        a = (2 * torch.randn(5, 8, 3, 3)).to(memory_format=form).requires_grad_()
        b = a.detach().clone().requires_grad_()
        value = divergence(a, lambda i, j, last, target=target: target(rows[i:j], every[i:j], last))
        expected = letkd_loss(patches(b), whole.flatten(0, 1))
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
        (3 * value).backward()
        (3 * expected).backward()
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
        exact = a.detach().double().requires_grad_()
        target.double()

        def in_double(x, target=target):
            return divergence(x, lambda i, j, last: target(rows[i:j].double(), every[i:j], last))

        assert torch.autograd.gradcheck(in_double, (exact,))


def test_what_a_student_can_reach_at_first():
    """s1 = 3 bounds the probability of 4,096 templates to 0.0897, and the divergence from one-hot to 2.411."""
    best = torch.full((1, 4096), -3.0)
    best[0, 0] = 3.0
    assert best.softmax(1).max() == pytest.approx(0.0897, abs=5e-5)
    assert letkd_loss(best, torch.eye(4096)[:1]) == pytest.approx(2.411, abs=5e-4)


def test_patches_are_in_the_order_in_which_labels_are_repeated():
    feature_map = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    rows = patches(feature_map)
    assert torch.equal(rows[5], feature_map[1, :, 0, 1])
    assert torch.equal(rows, patches(feature_map.to(memory_format=torch.channels_last)))


def test_unequal_grids():
    feature_map = torch.randn(2, 256, 8, 8, generator=seeded())
    assert torch.equal(pooled(feature_map, (4, 4)), avg_pool2d(feature_map, 2))
    with pytest.raises(KDScopeError, match="a map of 8 x 8 cannot be averaged to 3 x 3"):
        pooled(feature_map, (3, 3))


def test_scores_of_the_controls():
    scores = torch.rand(6, 6, generator=seeded()).softmax(1)
    assert scores_kept(scores, 2, "teacher") is scores
    assert torch.equal(scores_kept(scores, 2, "hard"), torch.eye(6))
    assert torch.equal(scores_kept(scores, 2, "class"), torch.kron(torch.eye(3), torch.full((2, 2), 0.5)))


# The term


def images_of(count=40, classes=4):
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=seeded(2))
    train = Split("train", pixels, torch.arange(count) % classes)
    data = Dataset("random", train, train, None, tuple("abcdefgh"[:classes]), *moments(train.images))
    return TrainingImages(data, torch.device("cpu"))


def taught(pair=("resnet8", "resnet14"), method="letkd-2", images=None, **options):
    """A learner whose term has been prepared on random images of four classes."""
    images = images or images_of()
    torch.manual_seed(0)
    terms = {"letkd": resolve(method, {"letkd": {"codes": 16, "subclasses": 2} | options})["letkd"]}
    student = changed(models.build(pair[0], 4, image_size=16), terms)
    torch.manual_seed(1)
    teacher = models.build(pair[1], 4, image_size=16)
    learner = Learner(student, Objective(terms, student, [teacher], data=TrainingData(images.labels, 4)), [teacher])
    learner.build(torch.zeros(2, 3, 16, 16))
    (term,) = learner.objective.terms["letkd"]
    if term.preparation() is not None:
        torch.manual_seed(0)
        term.use(term.prepare(images, teaching(learner, "letkd", 0)))
    return learner, term


def shown(learner, image=None, label=None):
    image = torch.randn(6, 3, 16, 16, generator=seeded(3)) if image is None else image
    label = torch.arange(6) % 4 if label is None else label
    torch.manual_seed(5)
    with learner.capturing():
        return learner(image, label, torch.arange(6))[0]


def test_without_the_layer_the_loss_is_that_of_a_cosine_classifier():
    """alpha = 0 at the last map alone: QuEST."""
    learner, term = taught(method="letkd-1", alpha_penultimate=0.0)
    learner.eval()
    image = torch.randn(6, 3, 16, 16, generator=seeded(3))
    loss = shown(learner, image)
    loss.sum().backward()
    layer = learner.student.layer3.kd_penultimate
    plain = models.build("resnet8", 4).eval()
    plain.load_state_dict({k: v for k, v in learner.student.state_dict().items() if "kd_" not in k})
    head = copy.deepcopy(layer.codes.weight.data).requires_grad_()
    with Capture(plain, ["layer3"]) as capture, torch.enable_grad():
        feature = capture(image)["layer3"]
    with Capture(learner.teachers[0], ["layer3"]) as capture, torch.no_grad():
        target = soft_assignment(patches(capture(image)["layer3"]), term.targets["kd_penultimate"].centroids)
    scores = 3.0 * normalize(patches(feature), dim=1) @ normalize(head, dim=1).T
    expected = kl_div(scores.log_softmax(1), target, reduction="batchmean")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(layer.codes.weight.grad, head.grad, atol=1e-6)
    assert torch.allclose(learner.student.conv1.weight.grad, plain.conv1.weight.grad, atol=1e-5)


@pytest.mark.parametrize("method", ["letkd-1", "letkd-2"])
def test_gradients_go_to_the_student_and_to_nothing_of_the_teacher(method):
    learner, term = taught(method=method)
    learner.train()
    (shown(learner).sum() + cross_entropy(learner.student(torch.randn(6, 3, 16, 16)), torch.arange(6) % 4)).backward()
    assert all(p.grad is not None for p in learner.student.parameters())
    for _, layer in kd_layers(learner.student):
        for parameter in (layer.codes.scale, layer.values.scale, layer.codes.weight, layer.values.weight):
            assert parameter.grad.abs().max() > 0
    assert all(p.grad is None for p in learner.teachers[0].parameters())
    assert list(term.parameters()) == []
    assert not any(b.requires_grad for b in term.buffers())
    assert not any("kd" in key for key in learner.objective.state_dict())  # prepared, not saved with each run


def test_which_loss_shapes_the_templates():
    label = torch.arange(6) % 4

    def gradients(**options):
        learner, _ = taught(method="letkd-1", **options)
        learner.train()
        image = torch.randn(6, 3, 16, 16, generator=seeded(3))
        with learner.capturing():
            task = cross_entropy(learner.student(image), label)
        layer = learner.student.layer3.kd_penultimate
        (shown(learner, image).sum() + task).backward()
        return layer, task

    unsupervised, _ = gradients(weight_penultimate=0.0)
    assert unsupervised.codes.weight.grad.abs().max() > 0  # the labels shape them
    discarded, _ = gradients(alpha_penultimate=0.0)
    assert discarded.codes.weight.grad.abs().max() > 0  # the teacher shapes them
    assert torch.equal(discarded.values.weight.grad, torch.zeros_like(discarded.values.weight))
    assert torch.equal(discarded.norm.weight.grad, torch.zeros_like(discarded.norm.weight))


def test_the_intermediate_target_by_hand():
    learner, term = taught(method="letkd-2", weight_penultimate=0.0)
    learner.eval()
    image, label = torch.randn(6, 3, 16, 16, generator=seeded(3)), torch.arange(6) % 4
    target = term.targets["kd_intermediate"]
    with Capture(learner.teachers[0], ["layer3.0"]) as capture, torch.no_grad():
        z = (patches(capture(image)["layer3.0"]) - target.mean) @ target.directions
    with Capture(learner.student, ["layer3.0.kd_intermediate.codes"]) as capture, torch.no_grad():
        a = patches(next(iter(capture(image).maps.values())))
    losses = []
    for i, row in enumerate(z):
        y = int(label[i // 16])
        own = [float(mse_loss(row, target.centres[y, k], reduction="sum")) for k in range(2)]
        p = target.scores[2 * y + int(np.argmin(own))]
        losses.append(kl_div(a[i].log_softmax(0), p, reduction="sum"))
    assert shown(learner, image, label).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_a_student_of_another_grid_and_width():
    learner, term = taught(pair=("vgg8", "resnet8x4"), codes=4)  # 2 x 2 of 512 channels, 4 x 4 of 256
    assert term.grids == {"kd_intermediate": (2, 2), "kd_penultimate": (2, 2)}
    assert term.targets["kd_penultimate"].centroids.shape == (4, 256)
    assert shown(learner).isfinite().all()


def test_numbering_the_templates_anew_changes_nothing():
    results = []
    for permute in (0, 7):
        learner, term = taught(permute=permute)
        learner.train()
        values = shown(learner)
        values.sum().backward()
        results.append((values.item(), learner.student.conv1.weight.grad, learner.student.layer3.kd_penultimate, term))
    (loss, gradient, layer, term), (other_loss, other_gradient, other_layer, other_term) = results
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(gradient, other_gradient, atol=1e-5)
    assert not torch.equal(layer.codes.weight, other_layer.codes.weight)
    centroids, others = (t.targets["kd_penultimate"].centroids for t in (term, other_term))
    assert torch.equal(centroids.sort(0).values, others.sort(0).values)
    assert not torch.equal(centroids, others)


def targets(**options):
    _, term = taught(**options)
    batch = Batch(None, torch.arange(6) % 4, torch.arange(6), None)
    seen = torch.randn(6, 64, 4, 4, generator=seeded(4)).abs()
    torch.manual_seed(0)
    return {name: term._targets(name, seen, batch)(0, 6, True)[0].flatten(0, 1) for name in term.targets}, term


def test_noisy_labels_of_the_teacher():
    plain, _ = targets(sharpness=0.05)
    smoothed, _ = targets(sharpness=0.05, noise="smoothed", noise_share=0.25)
    for name, p in plain.items():
        assert torch.allclose(smoothed[name], 0.75 * p + 0.25 / p.shape[1], atol=1e-6)
    none, _ = targets(sharpness=0.05, noise="shuffled", noise_share=0.0)
    assert all(torch.equal(plain[name], none[name]) for name in plain)
    half, _ = targets(sharpness=0.05, noise="shuffled", noise_share=0.5)
    same = (half["kd_penultimate"] == plain["kd_penultimate"]).all(1)
    assert 0.3 < same.float().mean() < 0.7
    rows = {tuple(row) for row in plain["kd_penultimate"].tolist()}
    assert all(tuple(row) in rows for row in half["kd_penultimate"].tolist())  # each is that of some place


def test_labels_permuted_at_either_end():
    plain, term = targets()
    at_analysis, other = targets(labels="permuted-analysis")
    online, same = targets(labels="permuted-assignment")
    inner, last = "kd_intermediate", "kd_penultimate"
    assert torch.equal(plain[last], at_analysis[last])
    assert torch.equal(plain[last], online[last])
    assert torch.equal(term.targets[inner].centres, same.targets[inner].centres)
    assert not torch.equal(term.targets[inner].centres, other.targets[inner].centres)
    assert not torch.equal(plain[inner], online[inner])


@pytest.mark.parametrize("codebook", ["patches", "gaussian"])
def test_codebooks_that_no_clustering_made(codebook):
    images = images_of(200)

    def show(image):  # patches of known moments
        return torch.stack([image.mean(1) * 0 + 7, image.square().mean(1).sqrt()], 1)

    torch.manual_seed(0)
    made = make_codebook(images, show, (4, 4), 500, codebook, "lloyd")
    whole = torch.cat([patches(pooled(show(b.image), (4, 4))) for b in images.plain()])
    assert made.shape == (500, 2)
    assert torch.allclose(made.mean(0), whole.mean(0), atol=0.1)
    assert torch.allclose(made[:, 0], torch.full((500,), 7.0))
    found = torch.isin(made[:, 1], whole[:, 1]).float().mean()
    assert found == 1 if codebook == "patches" else found < 0.1


def test_of_few_patches_an_eighth_as_many_templates_have_a_centroid(caplog):
    with caplog.at_level("INFO", "kdscope"):
        _, term = taught(method="letkd-1", codes=None)
    centroids = term.targets["kd_penultimate"].centroids
    assert centroids.shape == (4096, 64)
    assert int((~centroids.isnan().any(1)).sum()) == 40 * 4 * 4 // 8
    assert "80 of 4,096 templates have a centroid" in caplog.text


def test_many_patches_are_sampled(monkeypatch):
    monkeypatch.setattr("kdscope.methods.letkd.prepare.PATCH_BYTES", 40 * 16 * 4 * 3 // 2)  # half of the numbers
    seen = []

    def noted(points, count, how):
        seen.append(points)
        return kmeans(points, count, how)

    monkeypatch.setattr("kdscope.methods.letkd.prepare.kmeans", noted)
    torch.manual_seed(0)
    make_codebook(images_of(), lambda image: image, (4, 4), 5, "kmeans", "lloyd")
    assert 240 < len(seen[0]) < 400  # of 640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": 10_000}, "codes is 10000, but 40 training images have 640 patches of 4 x 4; take fewer, such as 80"),
        ({"components": 4}, "components is 4, but discriminant analysis of 4 classes and 64 channels has at most 3"),
        ({"intermediate": "layer9"}, "student: no layer matches 'layer9'"),
        ({"penultimate": {"student": "layer3", "teacher": "layer8"}}, "teacher: no layer matches 'layer8'"),
        ({"penultimate": "stages"}, "'stages' names 3 layers of the student, not one"),
        ({"penultimate": {"student": "layer3"}}, "penultimate takes one layer of the teacher"),
        ({"penultimate": "penultimate"}, r"'penultimate'"),
        ({"penultimate": None, "intermediate": None}, "needs a place for its layer"),
        ({"codes": 0}, "codes must be a whole number of at least 1, not 0"),
        ({"subclasses": 1.5}, "subclasses must be a whole number of at least 1, not 1.5"),
        ({"codebook": "kmean"}, "unknown codebook 'kmean' in term 'letkd'; nearest: kmeans"),
        ({"noise_share": 1.5}, r"noise_share must be a share in \[0, 1\], not 1.5"),
        ({"alpha_penultimate": -1}, "alpha_penultimate must be a number of at least 0, not -1"),
        ({"scale": 0}, "scale must be a number above 0, not 0"),
        ({"variant": "paper"}, "unknown variant 'paper'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(KDScopeError, match=message):
        taught(**options)


def test_a_run_keeps_its_layers_and_shares_what_was_computed(tmp_path, monkeypatch):
    """Seeds and an ablation that changes nothing of the teacher's side read one file; the network is the one saved."""
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "cache"))
    teacher = kdscope.train(tmp_path / "teacher", data="digits", model="resnet8", epochs=1, batch_size=256)
    options = {"data": "digits", "model": "resnet8", "epochs": 1, "batch_size": 256, "method": "letkd-1"}
    for seed, alpha in ((0, 1.0), (1, 0.5)):
        run = kdscope.train(
            tmp_path / f"run{seed}", seed=seed, teachers=[teacher],
            terms={"letkd": {"codes": 32, "alpha_penultimate": alpha}}, **options,
        )  # fmt: skip
    assert len(list((tmp_path / "cache" / "prepared").glob("*.safetensors"))) == 1
    network = run.model()
    ((name, layer),) = kd_layers(network)
    assert (name, layer.alpha, layer.templates) == ("layer3.kd_penultimate", 0.5, 32)
    kept = load_file(run.weights)
    assert torch.equal(kept["layer3.kd_penultimate.codes.weight"], layer.codes.weight)
    right = sum(
        int((network(b.image).argmax(1) == b.label).sum())
        for b in kdscope.data.Batches(run.dataset().test, run.dataset(), batch_size=256).epoch()
    )
    assert right / len(run.dataset().test) == run.summary["test_accuracy"]


def test_parts_are_modules_that_hold_nothing_of_the_student():
    codebook = Codebook(torch.randn(5, 3), 1.0)
    assert codebook.state_dict() == {}
    target = Subclasses(torch.zeros(3), torch.eye(3), torch.randn(2, 2, 3), torch.ones(2, 2), torch.eye(4))
    assert target.state_dict() == {}
    assert isinstance(LetKD().targets, nn.ModuleDict)
    assert [n for n, _ in CosConv2d(2, 3, 1.0).named_parameters()] == ["weight", "scale"]
