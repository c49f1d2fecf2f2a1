"""The batched operations against Pillow, through torchvision: the same image, the same strength."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode, RandAugment
from torchvision.transforms import functional as TF
from torchvision.transforms.autoaugment import _apply_op

from kdscope.data.operations import NAMES, SIGNED, operate, strengths
from kdscope.data.weak_strong import POLICY

THEIRS = {
    "identity": "Identity",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "colour": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth pictures with noise, of different ranges, the first of one colour: uint8 [count, 3, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")
    low, high = torch.rand(2, count, 1, 1, 1, generator=generator)
    images = 255 * (low + (high - low) * smooth) + 8 * torch.rand(count, 3, height, width, generator=generator)
    images[0] = 77
    return images.clamp(0, 255).to(torch.uint8)


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (21, 34)])
def test_each_operation_equals_pillow(name, height, width):
    images = pictures(30, height, width)
    strength = strengths(31, height, width)[NAMES.index(name)][torch.arange(30) + 1]
    if name in SIGNED:
        strength = strength * torch.tensor([1, -1]).repeat(15)
    fill = [37.0, 37.0, 37.0]
    expected = torch.stack(
        [
            from_pil(_apply_op(to_pil(image), THEIRS[name], float(value), InterpolationMode.NEAREST, fill))
            for image, value in zip(images, strength, strict=True)
        ]
    )
    found = operate(images.clone(), torch.full((30,), NAMES.index(name)), strength, fill=37)
    assert torch.equal(found, expected)


def test_a_mixed_batch_is_its_images_one_by_one():
    images = pictures(60, 16, 16)
    operation = torch.arange(60) % len(NAMES)
    strength = strengths(10, 16, 16)[operation, torch.arange(60) % 10]
    together = operate(images.clone(), operation, strength, fill=128)
    for row in range(60):
        alone = operate(images[row : row + 1].clone(), operation[row : row + 1], strength[row : row + 1], fill=128)
        assert torch.equal(alone[0], together[row])


def test_the_policy_is_that_of_the_paper():
    reference = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    ours = [tuple((THEIRS[name], probability, level) for name, probability, level in pair) for pair in POLICY]
    theirs = [tuple((name, probability, level or 0) for name, probability, level in pair) for pair in reference]
    assert ours == theirs


@pytest.mark.parametrize("levels", [10, 31])
def test_strengths_are_those_of_the_paper(levels):
    space = RandAugment()._augmentation_space(levels, (24, 40))
    ours = strengths(levels, 24, 40)
    for name in NAMES[:-1]:
        theirs, sign = space[THEIRS[name]]
        assert sign == (name in SIGNED)
        torch.testing.assert_close(ours[NAMES.index(name)], theirs.double().expand(levels), atol=2e-5, rtol=1e-6)


def test_rotation_about_the_centre_equals_pillow_for_every_degree():
    images = pictures(1, 17, 30, seed=1).expand(120, -1, -1, -1).clone()
    degrees = torch.linspace(-15, 15, 120, dtype=torch.float64)
    found = operate(images.clone(), torch.full((120,), NAMES.index("rotate")), degrees, fill=0)
    expected = [from_pil(TF.rotate(to_pil(images[0]), float(value))) for value in degrees]
    assert torch.equal(found, torch.stack(expected))
