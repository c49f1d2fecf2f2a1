"""Layers that methods ask for by what they are: the maps before the last ReLU of each stage, and the blocks.

A margin ReLU or the boundary of activations is defined on what enters a ReLU (Heo et al., "A comprehensive overhaul of
feature distillation", ICCV 2019, section 3.1; Heo et al., AAAI 2019, eq. 1), which the stage map of a ResNet has lost.
"""

from torch import nn

from kdscope.errors import KDScopeError
from kdscope.models.structure import stages
from kdscope.models.watch import Step, watch

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Hardswish,
    nn.Hardtanh,
)
OPERATIONS = ("elu", "silu", "mish", "softplus", "hardswish", "hardtanh")  # in autograd's names for them


def preactivations(model: nn.Module, image_size: int | None = None) -> tuple[str, ...]:
    """Layer names of the stage maps [B, C, H, W] before the last ReLU of each stage, shallow to deep.

    A black image goes through in eval mode. Where the output of a stage is that of an activation (ReLU, ReLU6, leaky
    ReLU, SiLU, GELU, ...), it is the input of that module, `<NAME`, or `<NAME#CALL` if the module runs several times.
    Where a stage ends in no activation (a pre-activation network, a linear bottleneck, a normalisation), the stage map
    is that map itself. For `Capture` and `select` of `kdscope.features`; gradients flow to it.

    Args:
        model: any network with stage maps.
        image_size: as in `stages`.

    Raises:
        KDScopeError: as `stages`; if a stage ends in an activation that is called as a function, where no hook is.

    >>> from kdscope.models import build
    >>> preactivations(build("resnet8", num_classes=10))
    ('<layer1.0.relu#1', '<layer2.0.relu#1', '<layer3.0.relu#1')
    >>> preactivations(build("wrn-10-1", num_classes=10))
    ('layer1', 'layer2', 'layer3')
    """
    names = stages(model, image_size)
    steps = watch(model, image_size, gradient=True)
    return tuple(_before(model, name, steps) for name in names)


def blocks(model: nn.Module, image_size: int | None = None) -> tuple[str, ...]:
    """Names of the modules that the stages are made of, shallow to deep: residual blocks, in most networks.

    Of a stage that is an `nn.Sequential` of modules with parts of their own, those; of any other (VGG's are rows of
    single layers), the stage itself. A resnet of depth 6n + 2 has 3n, a wrn-D-W of depth 6n + 4 too. A network that has
    an attribute `block_names` says it itself.

    >>> from kdscope.models import build
    >>> len(blocks(build("resnet20", num_classes=10))), blocks(build("vgg8", num_classes=10))
    (9, ('block1', 'block2', 'block3', 'block4'))
    """
    named = getattr(model, "block_names", None)
    if named is not None:
        return tuple(named)
    found: dict[str, None] = {}
    for stage in stages(model, image_size):
        module = model.get_submodule(stage)
        parts = [key for key, part in module.named_children() if next(part.children(), None) is not None]
        if isinstance(module, nn.Sequential) and parts:
            found.update(dict.fromkeys(f"{stage}.{key}" for key in parts))
        else:
            found[stage] = None
    for name in list(found):  # a stage that holds other stages is made of what they are made of, and the rest of it
        if any(other.startswith(f"{name}.") for other in found):
            del found[name]
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    return tuple(sorted(found, key=order.__getitem__))


def _before(model: nn.Module, stage: str, steps: list[Step]) -> str:
    """The layer whose map the last activation of `stage` takes; `stage` where there is none."""
    module = model.get_submodule(stage)
    ends = [position for position, step in enumerate(steps) if step.module is module]
    if not ends:
        raise KDScopeError(f"the stage {stage!r} of this {type(model).__name__} does not run in its forward pass")
    end = steps[ends[-1]]
    made = [s for s in steps[: ends[-1] + 1] if s.output is end.output and isinstance(s.module, ACTIVATIONS)]
    if made:
        name, last = made[-1].name, made[-1].call
        several = sum(step.name == name for step in steps) > 1
        return f"<{name}#{last}" if several else f"<{name}"
    if any(part in end.operation for part in OPERATIONS):
        raise KDScopeError(
            f"the stage {stage!r} of this {type(model).__name__} ends in {end.operation.split('backward')[0]}, called "
            "as a function, which no hook can see; make it a module (nn.ReLU), or name the layers that you want"
        )
    return stage
