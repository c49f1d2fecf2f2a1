"""Causal attention transfer: closed forms, what each control changes and keeps, the leak, and masks made once."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kdscope
from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.features.features import Features
from kdscope.methods import METHODS
from kdscope.methods.at import attention_transfer_loss
from kdscope.methods.cakd import MASKS, CausalAttention
from kdscope.methods.causal_masks import (
    at_random_places,
    grad_cam_map,
    integrated_map,
    mask_of,
    of_another_image,
    stored,
)
from kdscope.methods.masked_attention import (
    ALIGN_MASKS,
    alignment_loss,
    attention_maps,
    masked_attention_loss,
    similarities,
)

KIND = torch.float64


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shaken(name, classes=4):
    """A teacher whose biases and statistics are not those of its birth."""
    network = models.build(name, classes, image_size=16)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


# The masks.


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_of_a_linear_head_the_map_is_weight_times_activation(steps):
    weight, activation = torch.randn(5, 3, 4, 4), torch.randn(6, 3, 4, 4)
    classes = torch.arange(6) % 5
    found, error = integrated_map(
        lambda a, rows: torch.einsum("bchw,kchw->bk", a, weight), activation, classes, "raw-logit", steps
    )
    torch.testing.assert_close(found, (weight[classes] * activation).sum(1), atol=1e-5, rtol=1e-5)
    assert error.max() < 1e-5


def test_of_half_the_square_the_map_is_half_the_square():
    activation = torch.randn(4, 3, 2, 2)

    def head(a, rows):
        return torch.stack([a.square().sum((1, 2, 3)) / 2, a.sum((1, 2, 3))], dim=1)

    found, error = integrated_map(head, activation, torch.zeros(4, dtype=torch.int64), "raw-logit", 8)
    torch.testing.assert_close(found, activation.square().sum(1) / 2)
    assert error.max() < 1e-6


def test_eight_steps_are_complete_to_one_per_cent_on_a_rectified_head():
    """256 units with their kinks all along the path, and a score that changes, or it would be divided by nothing."""
    inner, shift, outer = torch.randn(256, 64) / 8, 0.3 * torch.randn(256), torch.rand(10, 256)

    def head(a, rows):
        return (a.flatten(1) @ inner.T + shift).relu() @ outer.T

    _, error = integrated_map(head, 3 * torch.rand(64, 16, 2, 2), torch.arange(64) % 10, "raw-logit", 8)
    assert error.median() < 0.01
    assert error.max() < 0.05


def test_grad_cam_of_a_pooled_linear_head_is_its_class_activation_map():
    weight, activation = torch.randn(5, 3), torch.randn(6, 3, 4, 4)
    classes = torch.arange(6) % 5
    found = grad_cam_map(lambda a, rows: a.mean((2, 3)) @ weight.T, activation, classes, "raw-logit")
    expected = torch.einsum("bchw,bc->bhw", activation, weight[classes]) / 16
    torch.testing.assert_close(found, expected)


def test_the_shapes_of_a_mask():
    attribution = torch.tensor([[[-4.0, 2.0], [1.0, 0.0]]])
    assert mask_of(attribution).flatten().tolist() == [0.0, 1.0, 0.5, 0.0]
    assert mask_of(attribution, sign="absolute").flatten().tolist() == [1.0, 0.5, 0.25, 0.0]
    assert mask_of(attribution, sign="signed").flatten().tolist() == [-1.0, 0.5, 0.25, 0.0]
    assert mask_of(attribution, "topq", 0.5).flatten().tolist() == [0.0, 1.0, 1.0, 0.0]
    assert (mask_of(-attribution.abs()) == 1).all()  # nothing speaks for the class
    grid = torch.rand(9, 8, 8)
    top = mask_of(grid, "topq")
    limit = torch.quantile(grid.flatten(1), 0.85, dim=1)[:, None, None]
    assert torch.equal(top, (grid >= limit).float())  # without ties it is the quantile's
    assert torch.equal(stored(1e-13 * attribution), torch.zeros_like(attribution).half())
    assert (stored(1e30 * attribution) == stored(attribution)).all()


indices = st.lists(st.integers(0, 10**6), min_size=2, max_size=20, unique=True).map(torch.tensor)


@given(indices, st.randoms(use_true_random=False))
def test_the_mask_of_another_image_is_never_ones_own_and_order_does_not_matter(index, random):
    own = index.double().reshape(-1, 1, 1)
    partner = of_another_image(own, index)
    assert (partner != own).all()
    assert torch.equal(partner.flatten().sort().values, own.flatten().sort().values)
    order = torch.tensor(random.sample(range(len(index)), len(index)))
    assert torch.equal(of_another_image(own[order], index[order]), partner[order])


@given(indices)
def test_random_places_keep_the_values_and_stay_with_the_image(index):
    maps = torch.rand(len(index), 4, 4)
    moved = at_random_places(maps, index)
    assert torch.equal(moved.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert not torch.equal(moved, maps)
    assert torch.equal(at_random_places(maps[1:], index[1:]), moved[1:])
    view = at_random_places(maps + 1, index)  # another view of the same image: the same places
    torch.testing.assert_close(view - 1, moved)


# The losses.


def test_without_a_mask_it_is_attention_transfer():
    for grids in ((8, 8), (8, 4), (4, 8)):
        student, teacher = torch.randn(3, 5, grids[0], grids[0]), torch.randn(3, 7, grids[1], grids[1])
        found = masked_attention_loss(*attention_maps(student, teacher))
        torch.testing.assert_close(found, attention_transfer_loss(student, teacher))


def test_masked_attention_by_hand():
    student, teacher, mask = torch.rand(3, 5, 2, 2, 2, dtype=KIND).sum(2).unbind(0)
    expected = 0.0
    for s, t, m in zip(student, teacher, mask, strict=True):
        s, t = (m * s) / (m * s).norm(), (m * t) / (m * t).norm()
        expected += (s - t).square().sum() / 20
    torch.testing.assert_close(masked_attention_loss(student, teacher, mask), expected)
    assert masked_attention_loss(student, 3 * student, mask) < 1e-30
    elsewhere = torch.where(mask > 1, student, torch.rand_like(student))
    assert masked_attention_loss(student, elsewhere, (mask > 1).double()) < 1e-30


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("align_mask", ALIGN_MASKS)
def test_similarities_equal_those_of_each_two_masked_maps(align_mask, center):
    student, teacher, mask = torch.rand(3, 6, 3, 4, dtype=KIND)
    found = similarities(student, teacher, mask, align_mask, center)
    s, t = student.flatten(1), teacher.flatten(1)
    if center:
        s, t = (each.sqrt() - each.sqrt().mean(1, keepdim=True) for each in (s, t))
    m = mask.flatten(1)
    for i in range(6):
        for j in range(6):
            one, other = {"pair": (m[j], m[j]), "none": (1, 1), "own": (m[i], m[j])}[align_mask]
            expected = torch.cosine_similarity(one * s[i], other * t[j], dim=0)
            assert found[i, j] == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("align_mask", ALIGN_MASKS)
def test_alignment_in_closed_form(align_mask):
    one_hot = torch.eye(4).reshape(4, 2, 2)
    found = alignment_loss(one_hot, one_hot, torch.ones(4, 2, 2), align_mask, 1.0, center=False)
    assert found == pytest.approx(math.log(1 + 3 / math.e), abs=1e-6)
    assert found == pytest.approx(0.743668, abs=1e-6)
    same = torch.rand(1, 2, 2).expand(7, 2, 2)
    for center in (True, False):
        assert alignment_loss(same, same, same, align_mask, center=center) == pytest.approx(math.log(7), abs=1e-6)


def test_same_class_negatives_can_be_left_out():
    student, teacher = torch.rand(2, 4, 3, 3, dtype=KIND)
    labels = torch.tensor([0, 0, 1, 2])
    scores = similarities(student, teacher) / 0.1
    rows = [[0, 2, 3], [1, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]]
    expected = sum(-torch.log_softmax(scores[i, row], 0)[0] for i, row in enumerate(rows)) / 4
    torch.testing.assert_close(alignment_loss(student, teacher, labels=labels), expected)


def test_own_masks_leak_the_image_and_the_others_do_not():
    """Maps that have nothing to do with each other, 128 images, masks of half the places; chance is 1/128, ln 128."""
    told = {}
    for align_mask in ALIGN_MASKS:
        right, loss = [], []
        for _ in range(10):
            student, teacher = torch.rand(2, 128, 8, 8)
            mask = (torch.rand(128, 8, 8) < 0.5).float()
            best = similarities(student, teacher, mask, align_mask, center=False).argmax(1)
            right.append((best == torch.arange(128)).float().mean())
            loss.append(alignment_loss(student, teacher, mask, align_mask, center=False))
        told[align_mask] = float(torch.stack(right).mean()), float(torch.stack(loss).mean())
    assert told["own"] == (pytest.approx(0.99, abs=0.01), pytest.approx(1.63, abs=0.1))
    best = similarities(student, teacher, mask, "own", center=True).argmax(1)
    assert (best == torch.arange(128)).float().mean() < 0.1  # what is left of it where maps are centred first
    for align_mask in ("pair", "none"):
        assert told[align_mask] == (pytest.approx(1 / 128, abs=0.008), pytest.approx(math.log(128), abs=0.15))


@pytest.mark.parametrize("align_mask", ALIGN_MASKS)
def test_gradients_are_those_of_finite_differences(align_mask):
    feature, other = torch.rand(2, 4, 2, 3, 3, dtype=KIND)
    mask = torch.rand(4, 3, 3, dtype=KIND)
    feature.requires_grad_()

    def loss(feature):
        s, t = attention_maps(feature, other)
        return 100 * masked_attention_loss(s, t, mask) + alignment_loss(s, t, mask, align_mask)

    assert torch.autograd.gradcheck(loss, feature)


def test_dead_places_and_far_scales_have_finite_gradients():
    for scale in (1e-6, 1.0, 1e6):
        feature = (scale * torch.randn(4, 2, 3, 3)).relu().requires_grad_()
        mask = torch.zeros(4, 3, 3).index_fill_(2, torch.tensor([1]), 1.0)
        s, t = attention_maps(feature, (scale * torch.randn(4, 5, 3, 3)).relu())
        (masked_attention_loss(s, t, mask) + alignment_loss(s, t, mask)).backward()
        assert feature.grad.isfinite().all()
        assert feature.grad.abs().max() > 0


# The term.


def term_on(teacher, student, images, layers="layer2", **settings):
    """The term, and what both networks say."""
    term = CausalAttention(layers=layers, **settings)
    term.look(student, teacher)
    with Capture(student, [layers]) as ours, Capture(teacher, [layers]) as theirs:
        said = ours(images), theirs(images)
    term.build(*said)
    return term, *said


def batch_of(images, labels=None):
    labels = torch.arange(len(images)) % 4 if labels is None else labels
    return kdscope.data.Batch(images, labels, torch.arange(len(images)), None)


@pytest.mark.parametrize("weights", [(100.0, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("mask", MASKS)
def test_each_part_reaches_the_first_stage_under_every_mask(mask, weights):
    teacher, student, images = shaken("resnet14"), models.build("resnet8", 4, image_size=16), torch.randn(4, 3, 16, 16)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    term, ours, theirs = term_on(
        teacher, student, images, mask=mask, attention_weight=weights[0], alignment_weight=weights[1]
    )
    loss = term(ours, theirs, batch_of(images))
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in student.layer1.parameters() if p.dim() == 4)
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert not list(term.state_dict())
    assert not list(term.parameters())


def test_the_masks_of_the_term_are_the_teachers_integrated_gradients():
    """Against a plain sum of gradients through the network itself."""
    teacher, images, labels = shaken("resnet14"), torch.randn(3, 3, 16, 16), torch.tensor([2, 0, 3])
    term, _, theirs = term_on(teacher, shaken("resnet8"), images)
    activation, total = theirs["layer2"], 0.0
    for k in range(8):
        point = (activation * (k + 0.5) / 8).requires_grad_()
        logits = teacher.fc(teacher.layer3(point).mean((2, 3)))
        total = total + torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), point)[0]
    expected = (activation * total / 8).sum(1).clamp(min=0)
    expected = expected / expected.amax((1, 2), keepdim=True)
    found = term.masks(theirs, batch_of(images, labels), (8, 8))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # they are kept as float16
    pooled = term.masks(theirs, batch_of(images, labels), (4, 4))
    assert pooled.shape == (3, 4, 4)


def test_the_controls_change_the_place_of_a_mask_and_nothing_else():
    teacher, images = shaken("resnet14"), torch.randn(5, 3, 16, 16)
    found = {}
    for mask in MASKS:
        term, _, theirs = term_on(teacher, shaken("resnet8"), images, mask=mask)
        found[mask] = term.masks(theirs, batch_of(images), (8, 8))
    assert found.pop("none") is None
    assert len({tuple(each.flatten().tolist()) for each in found.values()}) == 4
    sort = {mask: each.flatten(1).sort().values for mask, each in found.items()}
    assert torch.equal(sort["random"], sort["ig"])
    assert torch.equal(sort["shuffled"].unique(dim=0), sort["ig"].unique(dim=0))
    assert (found["shuffled"] != found["ig"]).flatten(1).any(1).all()


def test_the_head_of_a_network_that_cannot_be_traced_gives_the_same_masks():
    teacher, images = shaken("vgg8"), torch.randn(3, 3, 16, 16)
    term, _, theirs = term_on(teacher, shaken("vgg8"), images, layers="block3")
    found = term.masks(theirs, batch_of(images), (2, 2))
    assert not term._cut.closed
    images.requires_grad_()
    assert found.shape == (3, 2, 2)
    again = term.masks(theirs, batch_of(images.detach().flip(0), torch.tensor([2, 1, 0])), (2, 2))
    torch.testing.assert_close(again.flip(0), found, atol=1e-3, rtol=0)


def never(graph, inputs):
    raise AssertionError("the compiled teacher was asked for masks")


class Dropping(nn.Module):
    """Drops out in its own forward function, where only its own mode counts."""

    def __init__(self):
        super().__init__()
        self.layer2, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images):
        feature = self.layer2(images).relu().mean((2, 3))
        return self.fc(nn.functional.dropout(feature, 0.9, training=self.training))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_mode_and_the_compilation_that_come_after_a_term_is_made(compiled):
    teacher, images = Dropping(), torch.randn(3, 3, 8, 8)
    term, _, theirs = term_on(teacher, Dropping().eval(), images)
    teacher.eval().requires_grad_(False)
    if compiled:
        teacher.compile(backend=never)
    found = term.masks(theirs, batch_of(images), (6, 6))
    weight = teacher.fc.weight[torch.arange(3)]  # between zero and the map the ReLU bends nowhere
    expected = (theirs["layer2"].clamp(min=0) * weight[:, :, None, None]).sum(1).clamp(min=0)
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True), atol=2e-3, rtol=0)


def test_a_single_place_or_several_layers_are_refused():
    networks = shaken("resnet14"), shaken("resnet8")
    logits, flat = torch.zeros(2, 4), torch.zeros(2, 8, 1, 1)
    term = CausalAttention()
    term.look(*networks)
    with pytest.raises(KDScopeError, match=r"'layer3' gives \[8, 1, 1\], which is no map of several places"):
        term.build(Features(logits, {"layer3": flat}), Features(logits, {"layer3": flat}))
    both = Features(logits, {"layer1": flat, "layer2": flat})
    with pytest.raises(KDScopeError, match="compares one layer, and `layers` gives layer1, layer2"):
        term.build(both, both)
    wide = Features(logits, {"layer2#0": torch.zeros(2, 8, 2, 2)})
    with pytest.raises(KDScopeError, match="unknown layer 'layer2#0'"):
        term.build(wide, wide)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask": "grad-cam"}, "unknown mask 'grad-cam'.*nearest: gradcam"),
        ({"views": "all"}, "unknown views"),
        ({"align_mask": "pairs"}, "nearest: pair"),
        ({"target": "logit"}, "nearest: raw-logit"),
        ({"about": "pred"}, "nearest: predicted"),
        ({"sign": "relu"}, "unknown sign"),
        ({"shape": "hard"}, "unknown shape"),
        ({"q": 1.0}, r"q is the share of places outside of the mask, in \[0, 1\)"),
        ({"steps": 1}, "steps must be a whole number of at least 2"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"center": 1}, "center must be true or false"),
        ({"attention_weight": 0, "alignment_weight": 0}, "both 0"),
        ({"attention_weight": -1}, "attention_weight must be a number of at least 0"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(KDScopeError, match=words) as error:
        CausalAttention(**settings)
    assert "\n" not in str(error.value)


def test_the_deck_is_the_leaky_variant():
    assert METHODS["cakd-deck"].settings["cakd"]["align_mask"] == "own"
    assert "leaky" in METHODS["cakd-deck"].title


def test_resnet50_cbam_teaches_resnet18():
    with torch.device("meta"):
        teacher = models.build("resnet50_cbam", 10)
    assert sum(p.numel() for p in teacher.parameters()) == pytest.approx(26.05e6, rel=1e-3)
    config = kdscope.methods.resolve("cakd")
    teacher, student = models.build("resnet50_cbam", 10), models.build("resnet18", 10)
    objective = kdscope.methods.Objective(config, student, [teacher])
    assert objective.pairs["cakd"] == [(("layer3",), ("layer3",))]
    learner = kdscope.training.learner.Learner(student, objective, [teacher])
    images = torch.randn(2, 3, 32, 32)
    learner.build(images)
    learner.train()
    with learner.capturing():
        values, _ = learner(images, torch.tensor([1, 7]), torch.arange(2))
    assert values.isfinite().all()
    (objective.weights @ values).backward()
    assert student.conv1.weight.grad.abs().max() > 0
    assert not teacher.training
