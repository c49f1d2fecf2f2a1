"""Networks by name: `build("resnet20", num_classes=100)` gives a plain module, images [B, 3, H, W] to logits [B, C].

A model is a function of its name. kdscope's own networks stand in the files beside this one and register here; so does
what other packages offer under the entry-point group `kdscope.models`. A name with a colon comes from elsewhere
(external.py).
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from kdscope.errors import KDScopeError, unknown
from kdscope.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "kdscope.models", "kdscope.models")
"""Name -> callable(num_classes=..., **options). Capitals in a name stand for numbers: "wrn-D-W" takes D and W first.

The first line of the callable's docstring says what the network is, and where it comes from (`summary`)."""


def names() -> list[str]:
    """The names that can be built without any other package, sorted.

    Names of a family (any `wrn-D-W` of depth 6n + 4) can be built beyond the common ones that are listed.

    >>> {"resnet20", "resnet50_cbam", "vgg8", "wrn-16-2"} <= set(names())
    True
    """
    return [name for name in MODELS if not _is_family(name)]


def summary(name: str) -> str:
    """What the network of that name is, with its source, in one line.

    Raises:
        KDScopeError: for an unknown name, with the nearest; for names with a colon, which kdscope did not write.

    >>> summary("wrn-40-2")
    'Wide ResNet of depth D and width W (Zagoruyko & Komodakis, BMVC 2016).'
    """
    constructor, _ = _find(name)
    while isinstance(constructor, functools.partial):
        constructor = constructor.func
    return (inspect.getdoc(constructor) or "").partition("\n")[0]


def build(name: str, num_classes: int, *, image_size: int = 32, pretrained: bool = False, **options: Any) -> nn.Module:
    """A new network, its weights drawn from torch's global generator: seed that first.

    Args:
        name: one of `names()`, in any case; "torchvision:NAME"; "timm:NAME"; or "package.module:callable".
        num_classes: C, the length of the logits, >= 1.
        image_size: side of the square images, in pixels. kdscope's own networks take any from 16 up; transformers from
            torchvision and timm are built for this one.
        pretrained: start from published weights; torchvision and timm only.
        options: keyword arguments of the model's constructor.

    Returns:
        A module in training mode on the default device: float32 images [B, 3, H, W] -> logits [B, C].

    Raises:
        KDScopeError: for an unknown name (with the nearest) or option, or weights that cannot be fetched.

    >>> import torch
    >>> network = build("ResNet8", num_classes=10)
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise KDScopeError(f"model {name!r} needs a whole number of classes, at least 1, not {num_classes!r}")
    if ":" in name:
        from kdscope.models import external

        return external.build(name, num_classes, image_size=image_size, pretrained=pretrained, **options)
    if pretrained:
        raise KDScopeError(
            f"model {name!r} has no published weights; torchvision:NAME and timm:NAME have, or load a checkpoint"
        )
    constructor, numbers = _find(name)
    _check_options(name, constructor, options)
    return constructor(*numbers, num_classes=num_classes, **options)


def _find(name: str) -> tuple[Callable[..., nn.Module], list[int]]:
    """The constructor of that name and the numbers that a family's name gives it."""
    wanted = _normal(name)
    for known in MODELS:
        if not _is_family(known) and _normal(known) == wanted:
            return MODELS[known], []
    for known in filter(_is_family, MODELS):
        match = re.fullmatch(_normal(re.sub("[A-Z]", "#", known)).replace("#", r"(\d+)"), wanted)
        if match:
            return MODELS[known], [int(number) for number in match.groups()]
    raise unknown("model", name.lower(), names())


def _is_family(name: str) -> bool:
    return name != name.lower()


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _check_options(name: str, constructor: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    parameters = inspect.signature(constructor).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for key in options:
        if key not in known or key == "num_classes":
            raise unknown("option", key, [k for k in known if k != "num_classes"], f"model {name!r}")
