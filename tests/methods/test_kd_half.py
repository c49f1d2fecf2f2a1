"""Half-image KD: which pixels each teacher is shown, and that the loss is that of KD from those."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.methods import Objective, resolve
from kdscope.methods.kd import kd_loss
from kdscope.methods.kd_half import HalfImageKD, strip
from kdscope.training.learner import Learner


def images(count=3, width=8, seed=0):
    return torch.randn(count, 3, 8, width, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 5), st.integers(5, 12), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_masked_strips_add_up_to_the_image_and_share_no_column(m, width, seed):
    image = images(2, width, seed)
    strips = [strip(image, k, m, "mask") for k in range(m)]
    assert torch.equal(sum(strips), image)
    shown = torch.stack([(each != 0).any(dim=(0, 1, 2)) for each in strips]).sum(0)
    assert shown.tolist() == [1] * width


def test_halves_are_left_and_right_and_are_widened_pixel_by_pixel():
    image = torch.arange(4.0).expand(2, 3, 4, 4)  # column j has the value j
    left, right = (strip(image, k, 2)[0, 0, 0].tolist() for k in (0, 1))
    assert left == [0.0, 0.25, 0.75, 1.0]  # bilinear, half-pixel centres
    assert right == [2.0, 2.25, 2.75, 3.0]
    assert torch.equal(strip(image, 0, 1), image)
    assert strip(images(2, 9), 1, 4).shape == (2, 3, 8, 9)


def learner(fill="resize", m=2, ensemble="mean-loss", **weights):
    torch.manual_seed(0)
    student, *teachers = [models.build("resnet8", 10, image_size=8) for _ in range(m + 1)]
    terms = resolve("kd-half", {"kd-half": {"fill": fill}} | weights)
    made = Learner(student, Objective(terms, student, teachers, ensemble=ensemble), teachers)
    made.build(torch.zeros(2, 3, 8, 8))
    return made.eval()


@pytest.mark.parametrize("fill", ["resize", "mask"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_loss_is_the_mean_kd_from_teachers_of_their_own_strips(fill, m):
    made, image, label = learner(fill, m), images(), torch.tensor([0, 1, 2])
    with made.capturing(), torch.no_grad():
        values, _ = made(image, label, torch.arange(3))
    with torch.no_grad():
        student = made.student(image)
        each = [kd_loss(student, t(strip(image, k, m, fill))) for k, t in enumerate(made.teachers)]
    assert float(values[1]) == pytest.approx(float(sum(each)) / m, rel=1e-5)
    assert float(values[0]) == pytest.approx(float(torch.nn.functional.cross_entropy(student, label)), rel=1e-5)


def test_a_teacher_is_blind_to_the_strips_of_others():
    made, image = learner("mask"), images()
    other = image.clone()
    other[..., 4:] = 7.0
    with made.capturing():
        (left, right), (same, changed) = made.teach(image), made.teach(other)
    assert torch.equal(left.logits, same.logits)
    assert not torch.allclose(right.logits, changed.logits)


def test_what_cannot_be():
    with pytest.raises(KDScopeError, match="of 2 pixels in width cannot be cut into a strip for each of 3 teachers"):
        strip(images(width=2), 0, 3)
    with pytest.raises(KDScopeError, match="unknown fill 'resized' in term 'kd-half'; nearest: resize"):
        HalfImageKD(fill="resized")
    with pytest.raises(KDScopeError, match=r"'kd-half' shows teachers other images .* which 'kd' would hear of too"):
        learner(**{"kd": {"weight": 0.9}})
