"""Where the stage maps and the classifier of a network are: what it says of itself, or what one image shows."""

from torch import nn


def stages(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules whose outputs are the stage maps [B, C, H, W], shallow to deep.

    >>> from kdscope.models import build
    >>> stages(build("resnet20", num_classes=10))
    ('layer1', 'layer2', 'layer3')
    """
    return tuple(model.stage_names)


def classifier(model: nn.Module) -> str:
    """Name of the linear layer that gives the logits.

    >>> from kdscope.models import build
    >>> classifier(build("resnet20", num_classes=10))
    'fc'
    """
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
