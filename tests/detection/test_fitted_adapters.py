"""Adapters by least squares: closed forms, what is exactly linear is found, and caches know which f they are of."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extract import of_many_sizes
from torch import nn

from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.detection.data import load
from kdscope.detection.fitted_adapters import RIDGE, Moments, _cells, fitted_adapters, told_of
from kdscope.detection.frames import Frames, frame_of
from kdscope.detection.pair import extract_pair
from kdscope.detection.patch import extract_patched
from kdscope.detection.stored import found_in
from kdscope.errors import KDScopeError


def cells(seed, count, narrow, wide):
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(count, narrow)) @ rng.normal(size=(narrow, narrow)) + 3
    return student, student @ rng.normal(size=(narrow, wide)) + rng.normal(size=(count, wide)) - 5


def solved(student, teacher, ridge, parts=1):
    moments = Moments()
    for mine, theirs in zip(np.array_split(student, parts), np.array_split(teacher, parts), strict=True):
        moments.update(torch.from_numpy(mine), torch.from_numpy(theirs))
    return [each.numpy() for each in moments.solve(student.shape[1], ridge)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), narrow=st.integers(1, 6), wide=st.integers(1, 6), parts=st.integers(1, 5))
def test_without_a_ridge_it_is_least_squares(seed, narrow, wide, parts):
    student, teacher = cells(seed, 60, narrow, wide)
    weight, bias = solved(student, teacher, 0.0, parts)
    expected = np.linalg.lstsq(np.c_[student, np.ones(60)], teacher, rcond=None)[0]
    np.testing.assert_allclose(student @ weight.T + bias, np.c_[student, np.ones(60)] @ expected, atol=1e-6)


@pytest.mark.parametrize("ridge", [1e-4, 0.1, 10.0])
def test_a_ridge_is_that_many_rows_more(ridge):
    """Tikhonov by another way: least squares with rows sqrt(n lambda) I, which ask for zeros, below centred ones."""
    student, teacher = cells(1, 80, 5, 3)
    weight, bias = solved(student, teacher, ridge)
    centred, goal = student - student.mean(0), teacher - teacher.mean(0)
    strength = ridge * centred.var(0).mean()
    more = np.vstack([centred, np.sqrt(80 * strength) * np.eye(5)])
    expected = np.linalg.lstsq(more, np.vstack([goal, np.zeros((5, 3))]), rcond=None)[0]
    np.testing.assert_allclose(weight, expected.T, atol=1e-9)
    np.testing.assert_allclose(bias, teacher.mean(0) - weight @ student.mean(0), atol=1e-9)


def test_the_unit_of_the_students_features_does_not_matter():
    student, teacher = cells(2, 80, 4, 3)
    one, other = (solved(k * student, teacher, 0.01) for k in (1.0, 1000.0))
    np.testing.assert_allclose(one[0], 1000 * other[0], rtol=1e-9)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-9)


def test_channels_that_never_move_and_no_cells():
    teacher = np.random.default_rng(0).normal(size=(20, 2))
    weight, bias = solved(np.ones((20, 3)), teacher, RIDGE)
    np.testing.assert_allclose(weight @ np.ones(3) + bias, teacher.mean(0), atol=1e-12)
    with pytest.raises(KDScopeError, match="no cells to fit an adapter on"):
        Moments().solve(3)


def detector(seed=0):
    torch.manual_seed(seed)
    made = models.build("fcos_resnet10_w8", 3, min_size=64)
    for module in made.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.05)
    return made.eval()


def behind_a_linear_map(student, width=64):
    """The same detector, whose maps are W F + b of the student's; other widths have no head that fits."""
    torch.manual_seed(9)
    other = copy.deepcopy(student)
    for block in other.backbone.fpn.layer_blocks:
        old, weight, bias = block[0], torch.randn(width, 64) / 8, torch.randn(width)
        block[0] = nn.Conv2d(old.in_channels, width, old.kernel_size, padding=old.padding)
        with torch.no_grad():
            block[0].weight.copy_(torch.einsum("ts,sihw->tihw", weight, old.weight))
            block[0].bias.copy_(weight @ old.bias + bias)
    return other.eval()


@pytest.fixture(scope="module")
def data():
    return load("scenes:24:128:6")


@pytest.mark.parametrize("width", [64, 96])
def test_what_is_linear_is_found(data, tmp_path, width):
    student = detector()
    teacher = behind_a_linear_map(student, width)
    adapters = fitted_adapters(student, teacher, data)
    assert {adapter.weight.shape[:2] for adapter in adapters.values()} == {(width, 64)}
    cache = extract_pair(student, teacher, data, "test", tmp_path / "pair", adapters=adapters, rows=0)
    for stride in cache.identity["strides"]:
        assert cache.array(f"error/{stride}")[:].sum() < 1e-4 * cache.array(f"energy/{stride}")[:].sum()
    assert cache.identity["heads"] == {}
    if width == 64:  # and the same without f is as far as features can be
        plain = extract_pair(student, teacher, data, "test", tmp_path / "plain", rows=0)
        assert plain.array("error/8")[:].sum() > 0.5 * plain.array("energy/8")[:].sum()


def test_where_features_are_linear_in_each_other_nothing_is_lost(data, tmp_path):
    student = detector()
    teacher = behind_a_linear_map(student)
    adapters = fitted_adapters(student, teacher, data)
    cache = extract_patched(student, teacher, data, "test", tmp_path / "patched", adapters=adapters, score=0.0)
    for one, other in zip(found_in(cache, "detections/fg+ring+far"), found_in(cache, "detections/none"), strict=True):
        np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), rtol=0.02)
    cache = extract_patched(student, teacher, data, "test", tmp_path / "plain", score=0.0)
    plain = zip(found_in(cache, "detections/fg+ring+far"), found_in(cache, "detections/none"), strict=True)
    assert all(abs(one.scores.max() / other.scores.max() - 1) > 0.02 for one, other in plain)


def test_no_channels_as_they_are_fit_better_on_the_images_of_the_fit(data, tmp_path):
    student, teacher = detector(1), detector(2)
    f = fitted_adapters(student, teacher, data)
    fitted, plain = (
        extract_pair(student, teacher, data, "train", tmp_path / f"{len(some)}", adapters=some, rows=0)
        for some in (f, {})
    )
    for stride in plain.identity["strides"]:
        assert fitted.array(f"error/{stride}")[:].sum() < plain.array(f"error/{stride}")[:].sum()
    assert fitted.key != plain.key
    assert told_of(f) == fitted.identity["adapters"] == f"ridge {RIDGE:g} on 24 images of {data.train.fingerprint}"


def test_inference_mode_is_not_on_in_who_takes_the_cells(data):
    cells = _cells(detector(1), detector(2), data, "cpu")
    next(cells)
    assert not torch.is_inference_mode_enabled()
    cells.close()


def test_fitting_leaves_both_networks_as_they_were(data):
    student, teacher = detector(1), detector(2)
    before = copy.deepcopy((student.state_dict(), teacher.state_dict()))
    student.train()
    drawn = torch.get_rng_state()
    one, other = (fitted_adapters(student, teacher, data) for _ in range(2))
    assert student.training
    assert torch.equal(drawn, torch.get_rng_state())
    for network, known in zip((student, teacher), before, strict=True):
        assert all(torch.equal(value, known[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(one[stride].weight, other[stride].weight) for stride in one)


def test_padding_is_fitted_to_nothing(monkeypatch):
    student, teacher, data = detector(1), detector(2), of_many_sizes()
    counts = []
    monkeypatch.setattr(Moments, "update", lambda own, mine, theirs, was=Moments.update: (
        counts.append(len(mine)), was(own, mine, theirs)))  # fmt: skip
    fitted_adapters(student, teacher, data)
    adapter = adapt(student)
    frames = Frames(data.train, adapter, frame_of(student.transform, data.train.sizes))
    shown = torch.tensor(frames.batch(torch.arange(6)).frame.sizes)
    assert (shown < shown.amax(0)).any()
    # A cell is of the image if its middle is: of a side of 60 pixels and a stride of 8 seven and a half, which are 7.
    expected = sum(int(torch.ceil(shown / stride - 0.5).long().prod(1).sum()) for stride in (8, 16, 32))
    assert sum(counts) == expected
