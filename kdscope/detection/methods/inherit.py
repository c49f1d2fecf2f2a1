"""The inheriting strategy of FGD (Yang et al., CVPR 2022): the student begins with the teacher's neck and head.

It is a method of its own that adds to any other: `fgd+inherit` is the paper's, and `mimicry+inherit` and `inherit` are
its controls, for what a student begins with earns something by itself. The authors' code copies all that is not
backbone. Where the backbones give other widths, the neck's first convolutions cannot be copied and stay as they are; a
head that does not fit is an error, for then the two are not one detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import KDScopeError

BODY = "backbone.body."  # of torchvision's detectors with a feature pyramid, whose neck lies under `backbone` too
NECK = "backbone."


@dataclass(frozen=True)
class Inherited:
    """Names of the tensors that were copied, and of those of the neck that did not fit."""

    copied: tuple[str, ...]
    kept: tuple[str, ...]


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module, body: Sequence[str] = (BODY,)) -> Inherited:
    """Copy all of the teacher's parameters and buffers outside of the backbone's body into the student, in place.

    Args:
        student, teacher: detectors; plain ones, without a wrapper of parallel training.
        body: beginnings of the names that are not copied. For detectors whose backbone has no neck (SSD) give
            "backbone.".

    Raises:
        KDScopeError: a network that has no such names, all of which would be copied; a tensor that one of the two
            lacks, or of another shape outside of the neck. Nothing is copied.

    >>> s, t = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    >>> inherit(s, t, body=["0."]).copied, bool((s[1].weight == t[1].weight).all())
    (('1.weight', '1.bias'), True)
    """
    ours, theirs = (_outside(model, tuple(body)) for model in (student, teacher))
    only = [name for name in (*theirs, *ours) if (name in theirs) != (name in ours)]
    if only:
        has, lacks = ("teacher", "student") if only[0] in theirs else ("student", "teacher")
        raise KDScopeError(f"inherit: {only[0]!r} of the {has} is not in the {lacks}; both need the same neck and head")
    unlike = [name for name, tensor in theirs.items() if tensor.shape != ours[name].shape]
    for name in unlike:
        if not name.startswith(NECK):
            raise KDScopeError(
                f"inherit: {name!r} is {list(ours[name].shape)} in the student and {list(theirs[name].shape)} in the "
                "teacher; take a teacher with the same head, or a method without inherit"
            )
    copied = tuple(name for name in theirs if name not in unlike)
    if not copied:
        raise KDScopeError("inherit: the teacher has nothing outside of its backbone that the student could take")
    for name in copied:
        ours[name].copy_(theirs[name])
    return Inherited(copied, tuple(unlike))


class Inherit(DetectionTerm):
    """Begin a new run with the teacher's neck and head; no loss, and nothing is asked of the teacher for it in a step.

    Args:
        body: of `inherit`.
    """

    name = "inherit"
    summary = "the teacher's neck and head, to begin with"
    in_main = False

    def __init__(self, body: Sequence[str] = (BODY,)):
        super().__init__()
        if not isinstance(body, list | tuple) or not all(isinstance(name, str) and name for name in body):
            raise KDScopeError(f"term {self.name!r}: body takes beginnings of names such as [{BODY}], not {body!r}")
        self.body = tuple(body)

    def begin(self, student: nn.Module, teacher: nn.Module) -> None:
        inherit(student, teacher, self.body)


def _outside(model: nn.Module, body: tuple[str, ...]) -> dict[str, Tensor]:
    state = model.state_dict()
    for start in body:
        if not any(name.startswith(start) for name in state):
            known = ", ".join(sorted({f"{name.partition('.')[0]}." for name in state}))
            raise KDScopeError(
                f"inherit: no name of this {type(model).__name__} begins with {start!r}, so that its backbone would be "
                f"copied too; say by terms.inherit.body=[...] what that is (there: {known})"
            )
    return {name: tensor for name, tensor in state.items() if not name.startswith(body)}
