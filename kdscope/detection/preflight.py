"""What must be right before a detector is distilled: the causes of most reports of a method that does not work.

A student whose backbone was silently not initialised, a teacher that finds nothing, other anchors, other classes or
another normalisation all train without an error, and end below the student alone. Each is looked for by itself, and
what cannot be told is not said to be right.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo

from kdscope.detection.adapter import Adapter, adapt
from kdscope.detection.batch import PROPOSED, DetectionBatch, DetectionFeatures
from kdscope.detection.check import Check
from kdscope.detection.check_ability import ability
from kdscope.detection.check_weights import held, initialised, trained
from kdscope.detection.data import DetectionDataset
from kdscope.detection.start import coco_ids
from kdscope.errors import KDScopeError
from kdscope.models.watch import evaluating

IMAGES = 32  # that the teacher is tried on
LEAST = 0.05  # AP50 of a teacher that is worth learning from


def preflight(
    student: nn.Module,
    teacher: nn.Module,
    data: DetectionDataset | None = None,
    *,
    heads: Iterable[str] | None = None,
    scratch: bool = False,
    files: Mapping[str, Path] | None = None,
    device: str | torch.device = "cpu",
    images: int = IMAGES,
    least: float = LEAST,
    workers: int = 0,
    progress: bool = False,
) -> list[Check]:
    """Every check, in the order in which they are worth mending; both networks are as they were afterwards.

    Args:
        student, teacher: detectors; a user's own with `features` alone are not asked for what they do not have.
        data: what they are for; without it, the teacher is not tried and classes are compared between the two.
        heads: whose rows will be compared, so that anchors must be equal; None: all that both have.
        scratch: the student is meant to start from random weights.
        files: of "student" and "teacher", weights that they were given.
        device: where the teacher is tried.
        images: of train, evenly spread, that it is tried on; 0 does not try it. least: the AP50 that it must reach.
        workers: processes that decode them, where they are files. progress: whether to show a bar.
    """
    ours, theirs = adapt(student), adapt(teacher)
    given = (("teacher", teacher), ("student", student)) if files else ()
    checks = [held(role, network, files[role]) for role, network in given if role in files]
    checks += [trained(teacher), *initialised(student, scratch), _normalisation(student, teacher)]
    with evaluating(student), evaluating(teacher):  # a transform that trains may draw the size
        frame = ours.frame(torch.zeros(1, 3, 128, 128), [_nothing()], torch.zeros(1, dtype=torch.int64))
        checks += _pair(ours, theirs, frame, data, heads)
    return checks + ability(ours, theirs, data, images, least, device, workers, progress)


def stop_at_failed(checks: Iterable[Check], stop: bool = True) -> None:
    """Raise with all that failed, each by its name, or only say so; then say what passed and what cannot be told."""
    checks, log = list(checks), logging.getLogger("kdscope")
    failed = [str(check) for check in checks if check.failed]
    if failed and stop:
        raise KDScopeError(f"preflight: {'; '.join(failed)} (--set preflight=warn goes on all the same)")
    for each in failed:
        log.warning(f"preflight: {each}")
    for said, which in (("passed", True), ("cannot be told", None)):
        if found := "; ".join(str(check) for check in checks if check.passed is which):
            log.info(f"preflight, {said}: {found}")


def _pair(
    ours: Adapter, theirs: Adapter, frame: DetectionBatch, data: DetectionDataset | None, heads: Iterable[str] | None
) -> list[Check]:
    """What both say of one empty image: strides, classes, anchors."""
    first, second = (_looked(adapter, frame) for adapter in (ours, theirs))
    both = [head for head in ours.heads if head in theirs.heads] if heads is None else heads
    classes = {"the student": _count(ours, first), "the teacher": _count(theirs, second)}
    anchored = [head for head in both if head not in ("roi", PROPOSED)]
    checks = [_strides(first, second), *_classes(classes, data)]
    return checks + [_anchors(head, ours, theirs, frame) for head in anchored]


def _nothing() -> dict[str, Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@torch.no_grad()
def _looked(adapter: Adapter, frame: DetectionBatch) -> DetectionFeatures:
    box = frame.images.new_tensor([[0.0, 0.0, 32.0, 32.0]])
    return adapter.look(frame, adapter.heads, [box])


def _normalisation(student: nn.Module, teacher: nn.Module) -> Check:
    shown = [_moments(network) for network in (student, teacher)]
    if None in shown:
        who = "student" if shown[0] is None else "teacher"
        return Check("normalisation", None, f"the {who} has no transform, which would tell")
    if shown[0] == shown[1]:
        return Check("normalisation", True, "the same")
    ours, theirs = (f"mean {list(mean)}, deviation {list(std)}" for mean, std in shown)
    return Check("normalisation", False, f"the student has {ours}, and the teacher {theirs}; both see one image")


def _moments(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    transform = getattr(network, "transform", None)
    return None if transform is None else (tuple(transform.image_mean), tuple(transform.image_std))


def _strides(student: DetectionFeatures, teacher: DetectionFeatures) -> Check:
    ours, theirs = ({stride: tuple(m.shape[2:]) for stride, m in said.maps.items()} for said in (student, teacher))
    shared = sorted(set(ours) & set(theirs))
    unlike = [stride for stride in shared if ours[stride] != theirs[stride]]
    if unlike:
        grids = " and ".join(f"{h} x {w}" for h, w in (ours[unlike[0]], theirs[unlike[0]]))
        return Check("strides", False, f"of stride {unlike[0]} the maps of student and teacher are {grids}")
    if not shared:
        return Check("strides", False, f"the student has {list(ours)} and the teacher {list(theirs)}: none in common")
    return Check("strides", True, f"{', '.join(map(str, shared))} in common")


def _classes(told: Mapping[str, int | None], data: DetectionDataset | None) -> list[Check]:
    """As many classes as the data have, or the other network has; of heads that tell classes."""
    remedy = coco_ids(data.name) if data is not None and 90 in told.values() else ""  # as torchvision counts COCO's
    known = dict(told)
    known |= {} if data is None else {f"dataset {data.name!r}": data.num_classes}
    known = {who: count for who, count in known.items() if count is not None}
    if len(known) < 2:
        return [Check("classes", None, "neither network has rows of classes, which would tell")]
    same = len(set(known.values())) == 1
    found = ", ".join(f"{who} {count}" for who, count in known.items())
    return [Check("classes", same, f"{next(iter(known.values()))}" if same else f"{found}: other label maps{remedy}")]


def _count(adapter: Adapter, said: DetectionFeatures) -> int | None:
    """Classes of objects that a detector tells apart; a softmax has a column for the background."""
    for head in ("dense", "roi"):
        if head in said.rows:
            softmax = head == "roi" or isinstance(adapter.detector, zoo.ssd.SSD)
            return said.rows[head].logits.shape[1] - softmax
    return None


def _anchors(head: str, ours: Adapter, theirs: Adapter, frame: DetectionBatch) -> Check:
    first, second = (adapter.anchors(frame) for adapter in (ours, theirs))
    if first.shape != second.shape:
        found = f"{len(first)} of the student and {len(second)} of the teacher on an image of 128 pixels"
        return Check(f"anchors of {head}", False, found)
    away = (first - second).abs().max().item()
    return Check(f"anchors of {head}", away == 0, "equal" if away == 0 else f"up to {away:g} pixels apart")
