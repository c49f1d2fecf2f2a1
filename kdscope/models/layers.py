"""Layers that methods ask for by what they are: the maps before the last ReLU of each stage, and the blocks.

A margin ReLU or the boundary of activations is defined on what enters a ReLU (Heo et al., "A comprehensive overhaul of
feature distillation", ICCV 2019, section 3.1; Heo et al., AAAI 2019, eq. 1), which the stage map of a ResNet has lost.
"""

from collections import Counter

from torch import Tensor, nn

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


def entries(model: nn.Module, image_size: int | None = None) -> tuple[str, ...]:
    """Names of the first of the `blocks` of each stage, shallow to deep; of a stage that is one block, that.

    Where blocks stand between two stages (MobileNet), they are taken for the beginning of the deeper one.

    >>> from kdscope.models import build
    >>> entries(build("resnet20", num_classes=10)), entries(build("mobilenetv2_half", num_classes=10))[-1]
    (('layer1.0', 'layer2.0', 'layer3.0'), 'blocks.5.0')
    """
    parts, found, begin = blocks(model, image_size), [], 0
    for stage in stages(model, image_size):
        own = [k for k, name in enumerate(parts) if f"{name}.".startswith(f"{stage}.")]
        if own:
            found.append(parts[min(begin, own[0])])
            begin = own[-1] + 1
    return tuple(found)


def final_map(model: nn.Module, image_size: int | None = None) -> tuple[str, ...]:
    """The layer of the last map [B, C, H, W] before it is pooled, alone: what the classifier reads the average of.

    It is the last stage map in a ResNet, but what batch norm and ReLU make of it in a wide ResNet, and what the last
    convolution makes of it in MobileNet and ShuffleNet V2. Where the module that gives it runs more than once, the
    layer is what enters the module behind it.

    Raises:
        KDScopeError: as `stages`, and if no module takes a map that comes from one that runs more than once.

    >>> from kdscope.models import build
    >>> [final_map(build(name, num_classes=10))[0] for name in ("resnet8", "wrn-10-1", "shufflenetv2")]
    ['layer3', 'relu', '<avgpool']
    """
    steps = watch(model, image_size)
    maps = [k for k, step in enumerate(steps) if isinstance(step.output, Tensor) and step.output.dim() == 4]
    wide = [k for k in maps if steps[k].output.shape[2] == steps[k].output.shape[3] > 1]
    if not wide:
        raise KDScopeError(f"no module of this {type(model).__name__} gives a map [B, C, H, W]; name the layer")
    runs = Counter(step.name for step in steps)
    last = wide[-1]
    if runs[steps[last].name] == 1:
        return (steps[last].name,)
    if last + 1 < len(steps) and runs[steps[last + 1].name] == 1:
        return (f"<{steps[last + 1].name}",)
    raise KDScopeError(
        f"the last map of this {type(model).__name__} comes from {steps[last].name!r}, which runs "
        f"{runs[steps[last].name]} times; name another layer"
    )


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
