"""Whether networks hold the weights that they should: by their files, and by the statistics of their normalisations.

A batch norm that has never seen an image has mean 0 and variance 1 in every channel, which training leaves nowhere. So
of a network with batch norms it can be told whether it was loaded, in part or whole; of one without it cannot.
"""

from pathlib import Path

from torch import nn
from torchvision.models import detection as zoo
from torchvision.ops import FrozenBatchNorm2d

from kdscope.detection.check import Check
from kdscope.detection.start import planned
from kdscope.errors import KDScopeError
from kdscope.models.weights import differences

NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def held(role: str, network: nn.Module, path: str | Path) -> Check:
    """Whether a file has what a "teacher" must have whole, and a "student" may begin with."""
    name = f"weights of the {role}"
    if role == "student":
        try:
            return Check(name, True, f"{path} gave it {planned(network, path)}")
        except KDScopeError as error:
            return Check(name, False, str(error))
    faults = differences(network, path)
    return Check(name, not faults, "; ".join(faults) or f"{path} has all of them, and no others")


def trained(teacher: nn.Module) -> Check:
    """Whether a teacher was trained, or loaded, at all."""
    norms, new = _untouched(teacher)
    if not norms:
        return Check("teacher", None, "has no batch norm, which would tell whether it is trained")
    if len(new) == norms:
        return Check("teacher", False, "its normalisations have seen no image: untrained, or nothing was loaded")
    if new:
        return Check("teacher", False, f"{_part(new, norms)}: it was loaded in part")
    return Check("teacher", True, "is trained")


def initialised(student: nn.Module, scratch: bool) -> list[Check]:
    """Whether a student's backbone begins as it is meant to: from weights, or with `scratch` from chance."""
    name, (norms, new) = "start of the student", _untouched(body_of(student))
    random = norms > 0 and len(new) == norms
    if not norms:
        checks = [Check(name, None, "its backbone has no batch norm, which would tell whether it was initialised")]
    elif new and not random:
        checks = [Check(name, False, f"of its backbone {_part(new, norms)}: it was initialised in part")]
    elif not random:
        checks = [Check(name, True, "its backbone holds trained weights")]
    elif any(isinstance(module, FrozenBatchNorm2d) for module in student.modules()):
        checks = [Check(name, False, "random, with frozen batch norm, which so normalises nothing")]
    elif not scratch:
        found = "its backbone is random; give it --set model.pretrained=true or model.checkpoint=FILE"
        checks = [Check(name, False, found)]
    else:
        checks = [Check(name, True, "random, as it is meant")]
    if random and isinstance(student, zoo.RetinaNet):
        plain = not any(isinstance(module, (nn.GroupNorm, *NORMS)) for module in student.head.modules())
        found = "without a normalisation it does not learn from scratch" if plain else "is normalised"
        checks.append(Check("head of the student", not plain, found))
    return checks


def body_of(detector: nn.Module) -> nn.Module:
    """What a classifier's weights go into: a backbone without the neck, or the layers that SSD adds, which are new."""
    backbone = getattr(detector, "backbone", detector)
    return getattr(backbone, "features" if isinstance(detector, zoo.ssd.SSD) else "body", backbone)


def _untouched(network: nn.Module) -> tuple[int, list[str]]:
    """How many normalisations with statistics there are, and which are as they were made: 0 and 1, no image seen."""
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, NORMS) and module.running_mean is not None
    }
    return len(norms), [n for n, m in norms.items() if bool((m.running_mean == 0).all() and (m.running_var == 1).all())]


def _part(new: list[str], norms: int) -> str:
    return f"{len(new)} of {norms} normalisations have seen no image ({new[0]}{', ...' * (len(new) > 1)})"
