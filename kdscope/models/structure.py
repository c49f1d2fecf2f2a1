"""Where the stage maps and the classifier of a network are: what it says of itself, or what one image shows."""

from collections import Counter

from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.models.watch import Step, watch


def stages(model: nn.Module, image_size: int | None = None) -> tuple[str, ...]:
    """Names of the modules whose outputs are the stage maps [B, C, H, W], shallow to deep: what feature methods use.

    kdscope's own networks, and any that has an attribute `stage_names`, say it themselves. In any other, a black image
    goes through in eval mode. Of the modules that run once and give a map [1, C, H, W] with H = W > 1, each resolution,
    as long as it shrinks, gives one: the last of the outermost modules that have parts of their own. A resolution where
    no module has parts (a stem) gives none, unless that holds for all (VGG, AlexNet). Poolings, and modules with "stem"
    in their name, do not count. For torchvision's resnet50 that is layer1, layer2, layer3, layer4.

    Args:
        model: any network on images [B, 3, H, W].
        image_size: side of the image to try, in pixels; without it 64, 32 and 224, until one fits.

    Raises:
        KDScopeError: if the network gives no maps (a vision transformer), or takes no such image.

    >>> from kdscope.models import build
    >>> stages(build("resnet20", num_classes=10))
    ('layer1', 'layer2', 'layer3')
    >>> stages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.Flatten()))
    ('1', '3')
    """
    named = getattr(model, "stage_names", None)
    if named is not None:
        return tuple(named)
    steps = _once(model, image_size)
    found = _by_resolution(steps)
    blocks = [step for step in found if step.has_parts]
    tokens = any(step.has_parts and isinstance(step.output, Tensor) and step.output.dim() == 3 for step in steps)
    if not found or (tokens and not blocks):
        given = "its blocks give tokens [B, N, D]" if tokens else "no module gives one"
        raise KDScopeError(
            f"this {type(model).__name__} has no stage maps [B, C, H, W]: {given}; name the layers that you want"
        )
    return tuple(step.name for step in blocks or found)


def classifier(model: nn.Module, image_size: int | None = None) -> str:
    """Name of the linear layer that gives the logits: of those that work on an image, the last.

    Where the network takes no image of the sizes that are tried (see `stages`), it is the last one that it holds.

    Raises:
        KDScopeError: if the network has no linear layer.

    >>> from kdscope.models import build
    >>> classifier(build("vgg8", num_classes=10))
    'classifier'
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise KDScopeError(f"this {type(model).__name__} has no linear layer, so no classifier is known")
    if len(linear) == 1:
        return linear[0]
    try:
        worked = [step.name for step in _once(model, image_size) if step.name in linear]
    except KDScopeError:
        worked = []
    return (worked or linear)[-1]


def _once(model: nn.Module, image_size: int | None) -> list[Step]:
    """What the modules that run exactly once did with one black image."""
    steps = watch(model, image_size)
    calls = Counter(step.name for step in steps)
    return [step for step in steps if calls[step.name] == 1]


def _by_resolution(steps: list[Step]) -> list[Step]:
    """For each resolution, as long as it shrinks, the step that stands for it."""
    pooled = {id(step.output) for step in steps if "pool" in type(step.module).__name__.lower()}
    best: dict[int, Step] = {}
    for step in steps:
        output = step.output
        if not isinstance(output, Tensor) or output.dim() != 4 or id(output) in pooled or "stem" in step.name.lower():
            continue
        side, width = output.shape[2:]
        if side != width or side == 1 or (side not in best and side > min(best, default=side)):
            continue
        held = best.get(side)
        if held is None or (step.has_parts, -step.depth) >= (held.has_parts, -held.depth):
            best[side] = step
    return list(best.values())
